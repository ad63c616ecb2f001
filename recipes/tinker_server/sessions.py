"""What a client has open: a session, kept alive by its heartbeat, with training runs and samplers in it."""

from __future__ import annotations

import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recipes.backends.local.sampler import LocalSampler
from recipes.tinker_server.codec import RequestRefused
from recipes.tinker_server.models import TrainingRun

MOST_HELD = 4
SILENT_SECONDS = 300.0
"""A session whose client was not heard of for so long is ended; the SDK sends a heartbeat every ten seconds."""


@dataclass
class Sampler:
    """A sampling session: fixed weights under a name. requests: seq_id → promise id and fingerprint, so that a request that comes
    twice is done once. model_path, saved_at: of a checkpoint, and when that was saved. folder, lora_rank: of a snapshot that only
    this session samples from. None of both: the base. client: while its weights are in memory."""

    sampler_id: str
    session_id: str
    base_model: str
    model_path: str | None
    saved_at: str | None = None
    folder: Path | None = None
    lora_rank: int = 0
    client: LocalSampler | None = None
    requests: dict[int, tuple[str, str]] = field(default_factory=dict)


class HeldSamplers:
    """Weights with an adapter merged into them are as large as their base, and a client of RL takes a snapshot a step without
    ever saying that it needs no older one. So those used last stay in memory; the others are read again when they are asked.

    Called in the event loop and in the engine's thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[str, Sampler] = {}

    def use(self, sampler: Sampler) -> None:
        if sampler.folder is None and sampler.model_path is None:
            return  # the base's own weights
        with self._lock:
            self._held.pop(sampler.sampler_id, None)
            self._held[sampler.sampler_id] = sampler
            while len(self._held) > MOST_HELD:
                self._held.pop(next(iter(self._held))).client = None

    def forget(self, session_id: str) -> None:
        with self._lock:
            self._held = {key: sampler for key, sampler in self._held.items() if sampler.session_id != session_id}


@dataclass
class Session:
    session_id: str
    display_name: str | None
    created_at: float = field(default_factory=time.time)
    heard_at: float = field(default_factory=time.monotonic)
    runs: dict[str, TrainingRun] = field(default_factory=dict)
    samplers: dict[str, Sampler] = field(default_factory=dict)
    creations: dict[tuple[str, int], str] = field(default_factory=dict)
    """(what, its number in the session) → promise id, or sampler id: a creation that is asked for twice is done once."""


class Sessions:
    def __init__(self) -> None:
        self._open: dict[str, Session] = {}

    def begin(self, display_name: str | None) -> Session:
        session = Session(uuid.uuid4().hex, display_name)
        self._open[session.session_id] = session
        return session

    def get(self, session_id: Any) -> Session:
        """Raises RequestRefused with status 410, which ends a client's heartbeat."""
        session = self._open.get(session_id) if isinstance(session_id, str) else None
        if session is None:
            raise RequestRefused("This session has ended, or never was. Make a new client.", status=410)
        session.heard_at = time.monotonic()
        return session

    def is_open(self, session_id: str) -> bool:
        return session_id in self._open

    def run(self, run_id: Any) -> TrainingRun:
        """Raises RequestRefused for a run of no open session."""
        run = self.run_if_open(run_id)
        if run is None:
            raise RequestRefused(f"There is no open model {str(run_id)[:100]!r}; its session may have ended.", status=404)
        return run

    def run_if_open(self, run_id: Any) -> TrainingRun | None:
        session_id = str(run_id).partition(":")[0]
        return self.get(session_id).runs.get(str(run_id)) if session_id in self._open else None

    def sampler(self, sampler_id: Any) -> Sampler:
        session_id = str(sampler_id).partition(":")[0]
        found = self.get(session_id).samplers.get(str(sampler_id)) if session_id in self._open else None
        if found is None:
            raise RequestRefused(f"There is no open sampler {str(sampler_id)[:100]!r}; its session may have ended.", status=404)
        return found

    def end(self, session_id: str) -> list[str]:
        """Forget it; its adapters are freed with it. Gives the ids of its runs. Ending twice is fine."""
        session = self._open.pop(session_id, None)
        return list(session.runs) if session is not None else []

    def silent(self) -> list[str]:
        before = time.monotonic() - SILENT_SECONDS
        return [session_id for session_id, session in self._open.items() if session.heard_at < before]

    def all(self) -> list[Session]:
        return sorted(self._open.values(), key=lambda session: session.created_at, reverse=True)
