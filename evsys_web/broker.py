"""A message broker that needs no server: a folder of files, one per message.

kombu's own file transport shows a message before it is written, takes messages across file systems and sorts them by a clock
that restarts at boot; under several workers it lost messages and killed workers on half-written JSON. Here every file appears
whole, by a rename inside one folder, and so do the bindings of an exchange.
"""

from __future__ import annotations

import fcntl
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty
from time import time_ns
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, filesystem, virtual
from kombu.utils.json import dumps, loads


class Channel(filesystem.Channel):  # type: ignore[misc]  # kombu is untyped
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.folder = Path(self.data_folder_out)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.control_folder.mkdir(parents=True, exist_ok=True)

    def _put(self, queue: str, payload: dict[str, Any], **kwargs: Any) -> None:
        name = f"{time_ns():020d}_{uuid.uuid4()}.{queue}.msg"
        _write_whole(self.folder / name, dumps(payload))

    def _get(self, queue: str) -> Any:
        """The oldest message. Whoever renames it first has it."""
        for name in sorted(os.listdir(self.folder)):  # noqa: PTH208 - names only, many times a second
            if name.partition(".")[2] != f"{queue}.msg":
                continue
            taken = self.folder / f".taken-{name}"
            try:
                (self.folder / name).rename(taken)
            except FileNotFoundError:
                continue
            payload = taken.read_text()
            taken.unlink()
            return loads(payload)
        raise Empty

    def get_table(self, exchange: str) -> list[filesystem.exchange_queue_t]:
        try:
            rows = loads(self._exchange_file(exchange).read_text())
        except FileNotFoundError:
            return []
        return [filesystem.exchange_queue_t(*row) for row in rows]

    def _queue_bind(self, exchange: str, routing_key: str, pattern: str, queue: str) -> None:
        with self._bindings_locked():
            binding = filesystem.exchange_queue_t(routing_key or "", pattern or "", queue or "")
            table = self.get_table(exchange)
            if binding not in table:
                _write_whole(self._exchange_file(exchange), dumps([binding, *table]))

    def _delete(self, queue: str, exchange: str, routing_key: str, pattern: str, *args: Any, **kwargs: Any) -> None:
        self._purge(queue)
        with self._bindings_locked():
            binding = filesystem.exchange_queue_t(routing_key or "", pattern or "", queue or "")
            table = self.get_table(exchange)
            if binding in table:
                _write_whole(self._exchange_file(exchange), dumps([other for other in table if other != binding]))

    @contextmanager
    def _bindings_locked(self) -> Iterator[None]:
        with (self.control_folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


class Transport(filesystem.Transport):  # type: ignore[misc]  # kombu is untyped
    """A folder that cannot be read or written is a broker that is away: workers try again until it is back, and what they do
    meanwhile goes on."""

    Channel = Channel
    connection_errors = (*filesystem.Transport.connection_errors, OSError)

    def __init__(self, client: Any, **kwargs: Any) -> None:
        super().__init__(client, **kwargs)
        self.state = virtual.BrokerState()  # the bindings lie in files; a cache per process would outlive its folder


def register() -> None:
    """From now on `filesystem://` means this transport."""
    TRANSPORT_ALIASES["filesystem"] = "evsys_web.broker:Transport"


def _write_whole(path: Path, text: str) -> None:
    """Readers see the file complete or not at all."""
    hidden = path.with_name(f".writing-{uuid.uuid4()}")
    hidden.write_text(text)
    hidden.replace(path)
