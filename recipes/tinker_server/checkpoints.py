"""Checkpoints by their address, tinker://RUN/KIND/NAME, in folders of our own. An address that a client sends is looked up, never
joined to a path as it stands."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Collection, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from recipes.stores import write_atomically
from recipes.tinker_server.codec import RequestRefused

SHORTEST_TTL, LONGEST_TTL = 3600, 10 * 366 * 24 * 3600
_RUN = re.compile(r"[0-9a-f]{32}:train:[0-9]{1,9}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_EXTERNAL = ".external"
_SNAPSHOT = ".snapshot"
"""Ends the names of folders that no address leads to: weights that one session samples from and that go with it."""
_LEFT_SECONDS = 24 * 3600.0


class Kind(StrEnum):
    """As the segment of the address has it."""

    TRAINING = "weights"
    SAMPLER = "sampler_weights"
    EXTERNAL = "external_weights"

    @property
    def word(self) -> str:
        return {"weights": "training", "sampler_weights": "sampler", "external_weights": "external"}[self.value]


class Address(NamedTuple):
    run_id: str
    kind: Kind
    name: str

    @classmethod
    def of(cls, uri: str) -> Address:
        """Raises RequestRefused for what is none."""
        parts = uri.removeprefix("tinker://").split("/")
        if not uri.startswith("tinker://") or len(parts) != 3:
            raise RequestRefused(f"{uri[:200]!r} is no checkpoint's address: tinker://RUN/weights/NAME was expected.")
        return cls.from_parts(*parts)

    @classmethod
    def from_parts(cls, run_id: str, segment: str, name: str) -> Address:
        if segment not in set(Kind):
            raise RequestRefused(f"{segment[:100]!r} is no kind of checkpoint; there are {', '.join(Kind)}.")
        if not _RUN.fullmatch(run_id) or not _NAME.fullmatch(name) or name.endswith((_EXTERNAL, _SNAPSHOT)):
            raise RequestRefused(f"There is no checkpoint tinker://{run_id[:80]}/{segment}/{name[:100]}.", status=404)
        return cls(run_id, Kind(segment), name)

    @property
    def uri(self) -> str:
        return f"tinker://{self.run_id}/{self.kind}/{self.name}"

    @property
    def engine_name(self) -> str:
        """The name that the engine saves it under: weights to take away are kept apart from those that are sampled from."""
        return f"{self.name}{_EXTERNAL}" if self.kind is Kind.EXTERNAL else self.name


class RunFacts(NamedTuple):
    """What must be known to go on from a run's checkpoints."""

    base_model: str
    lora_rank: int
    created_at: str
    user_metadata: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class Saved:
    """A checkpoint that is there. Times are ISO 8601 in UTC."""

    uri: str
    time: str
    expires_at: str | None = None
    user_metadata: dict[str, str] | None = None

    @property
    def address(self) -> Address:
        return Address.of(self.uri)

    @property
    def is_expired(self) -> bool:
        return self.expires_at is not None and datetime.fromisoformat(self.expires_at) <= datetime.now(UTC)


class CheckpointStore:
    """All runs below one folder. A row beside the weights, written after them, is what makes a checkpoint count."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run_folder(self, run_id: str) -> Path:
        if not _RUN.fullmatch(run_id):
            raise RequestRefused(f"There is no training run {run_id[:100]!r}.", status=404)
        return self.root / run_id.replace(":", "-")

    def begin_run(self, run_id: str, facts: RunFacts) -> None:
        folder = self.run_folder(run_id)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "run.json", json.dumps(facts._asdict()))

    def facts_of(self, run_id: str) -> RunFacts:
        """Raises RequestRefused for a run that is not there."""
        path = self.run_folder(run_id) / "run.json"
        if not path.is_file():
            raise RequestRefused(f"There is no training run {run_id}.", status=404)
        return RunFacts(**json.loads(path.read_text(encoding="utf-8")))

    def run_ids(self) -> list[str]:
        """Newest first."""
        folders = sorted(self.root.glob("*-train-*/run.json"), key=lambda path: path.stat().st_mtime, reverse=True)
        return [path.parent.name.replace("-", ":") for path in folders]

    def record(self, address: Address, *, ttl_seconds: int | None, user_metadata: dict[str, str] | None) -> Saved:
        """The weights are written: make the checkpoint count. Raises RequestRefused for a time to live out of bounds."""
        at = datetime.now(UTC)
        expires = None if ttl_seconds is None else (at + _lifetime(ttl_seconds)).isoformat()
        saved = Saved(address.uri, at.isoformat(), expires, user_metadata)
        write_atomically(self._row(address), json.dumps(asdict(saved)))
        return saved

    def set_lifetime(self, address: Address, ttl_seconds: int | None) -> None:
        saved = self.find(address)
        expires = None if ttl_seconds is None else (datetime.now(UTC) + _lifetime(ttl_seconds)).isoformat()
        write_atomically(self._row(address), json.dumps(asdict(Saved(saved.uri, saved.time, expires, saved.user_metadata))))

    def exists(self, address: Address) -> bool:
        return self._row(address).is_file()

    def find(self, address: Address) -> Saved:
        """Raises RequestRefused for one that is not there, or whose time has passed."""
        row = self._row(address)
        if not row.is_file():
            raise RequestRefused(f"There is no checkpoint {address.uri}.", status=404)
        saved = Saved(**json.loads(row.read_text(encoding="utf-8")))
        if saved.is_expired:
            raise RequestRefused(f"The checkpoint {address.uri} expired at {saved.expires_at}.", status=404)
        return saved

    def weights(self, address: Address) -> Path:
        """The folder that holds them."""
        kind = "state" if address.kind is Kind.TRAINING else "sampler"
        return self.run_folder(address.run_id).resolve() / "checkpoints" / address.engine_name / kind

    def listed(self, run_id: str | None = None) -> list[Saved]:
        """Newest first, without what has expired."""
        runs = [run_id] if run_id is not None else self.run_ids()
        found = [saved for each in runs for saved in self._rows(each) if not saved.is_expired]
        return sorted(found, key=lambda saved: saved.time, reverse=True)

    def size_of(self, address: Address) -> int:
        """Bytes of its files."""
        return sum(path.stat().st_size for path in self.weights(address).rglob("*") if path.is_file())

    def delete(self, address: Address) -> None:
        self.find(address)
        self._remove(address)

    def snapshot_name(self, number: int) -> str:
        """Under which an engine saves a snapshot."""
        return f"{number}{_SNAPSHOT}"

    def drop_snapshots(self, run_id: str, *, older_than: float = float("inf")) -> None:
        """older_than: in seconds since the epoch."""
        for folder in (self.run_folder(run_id) / "checkpoints").glob(f"*{_SNAPSHOT}"):
            with suppress(FileNotFoundError):  # another thread drops the same
                if folder.stat().st_mtime < older_than:
                    shutil.rmtree(folder, ignore_errors=True)

    def sweep(self, open_runs: Collection[str] = ()) -> None:
        """Remove what has expired, and the snapshots that a killed server has left. open_runs: of sessions that are open."""
        before = time.time() - _LEFT_SECONDS
        for run_id in self.run_ids():
            if run_id not in open_runs:
                self.drop_snapshots(run_id, older_than=before)
            for saved in self._rows(run_id):
                if saved.is_expired:
                    self._remove(saved.address)

    def _remove(self, address: Address) -> None:
        self._row(address).unlink(missing_ok=True)
        shutil.rmtree(self.weights(address), ignore_errors=True)

    def _row(self, address: Address) -> Path:
        return self.run_folder(address.run_id) / "rows" / f"{address.kind}.{address.name}.json"

    def _rows(self, run_id: str) -> Iterator[Saved]:
        for path in (self.run_folder(run_id) / "rows").glob("*.json"):
            yield Saved(**json.loads(path.read_text(encoding="utf-8")))


def _lifetime(ttl_seconds: Any) -> timedelta:
    if type(ttl_seconds) is not int or not SHORTEST_TTL <= ttl_seconds <= LONGEST_TTL:
        raise RequestRefused("ttl_seconds is from 3600 (an hour) to ten years, or left out.")
    return timedelta(seconds=ttl_seconds)
