"""Keeps an export's lease, says how far it is, and brings a stop to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Event, Thread
from types import TracebackType
from typing import NamedTuple

from evsys_web.checkpoints.models import Export
from evsys_web.runs.status import Standing
from evsys_web.runs.work_recorder import Recorder
from recipes.errors import RecipeError

LOOK_SECONDS = 0.5


class Stopped(RecipeError):
    """Somebody asked the export to end."""


class State(NamedTuple):
    phase: str | None = None
    num_bytes_done: int | None = None


class ExportRecorder(Recorder[State]):
    """`with ExportRecorder(export) as recorder:` for one that was just claimed. Its `url` is written at the end."""

    def __init__(self, export: Export) -> None:
        super().__init__(export)
        self.export = export
        self.url = ""
        self._is_stopped = False

    def phase(self, name: str) -> None:
        """What is done from now on. Raises Stopped."""
        if self.is_over or self.standing.stop or self.standing.hand_back:
            raise Stopped("Stopped, as asked.")
        self._add(State(phase=name))

    @contextmanager
    def measuring(self, folder: Path) -> Iterator[None]:
        """Says how many bytes lie in the folder while the block runs."""
        ended = Event()

        def look() -> None:
            while not ended.wait(LOOK_SECONDS):
                self._add(State(num_bytes_done=bytes_in(folder)))

        thread = Thread(target=look, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _store(self, items: list[State]) -> Standing:
        phase = next((item.phase for item in reversed(items) if item.phase is not None), None)
        done = next((item.num_bytes_done for item in reversed(items) if item.num_bytes_done is not None), None)
        return self.export.renew(phase=phase, num_bytes_done=done)

    def _write_end(self) -> None:
        export = self.export
        if self._is_stopped:
            export.give_back() if export.hand_back and not export.stop_requested else export.cancel()
            return
        weight = bytes_in(export.folder) or export.num_bytes
        export.complete(url=self.url, phase="", num_bytes=weight, num_bytes_done=weight)

    def __exit__(self, error_type: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> bool:
        if isinstance(error, Stopped):
            self._is_stopped = True
            super().__exit__(None, None, None)
            return True
        return super().__exit__(error_type, error, trace)


def bytes_in(folder: Path) -> int:
    """Of the folder, and of the one that will take its place. Files that vanish meanwhile count nothing."""
    total = 0
    for place in (folder, *folder.parent.glob(f".{folder.name}.*")):
        for path in place.rglob("*"):
            with suppress(OSError):
                total += path.stat().st_size if path.is_file() else 0
    return total
