"""What curation needs of an eval run's attempts, as columns: verdicts, lengths and a digest of each conversation, without the
conversations. Read once (they are nine tenths of the bytes and most of the time), then kept in memory and, for large runs, in a
file. A run that goes on is read on from the tasks that changed since: every batch of attempts gives its tasks a later `seq`.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from django.conf import settings
from numpy.typing import NDArray

from evsys_web.evals.models import Attempt, EvalRun
from recipes.curation import read_conversation

MAX_KEPT_ATTEMPTS = 1_000_000
"""In memory, over all runs of a process: some 70 MB."""
FILE_FROM = 4_000
"""Attempts from which on a file is quicker than reading again."""
CHUNK = 2_000
TASKS_PER_QUERY = 500
MAX_SIGNALS = 64
COLUMNS = ("pk", "task_id", "attempt", "reward", "is_correct", "signals", "error_kind", "num_tokens", "messages")

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class RunColumns:
    """One eval run. task_*: by task, in the benchmark's order; all others by attempt, `task` being an index into those.

    is_correct: 1, 0, or -1 without a verdict. reward: NaN without one. digest: of the usable conversation. reason: index into
    `reasons`, why a conversation cannot become a row; 0, the empty text, for one that can."""

    last_seq: int
    task_pks: Array
    positions: Array
    task_ids: list[str]
    prompts: list[str]
    pks: Array
    task: Array
    number: Array
    reward: Array
    is_correct: Array
    is_error: Array
    num_tokens: Array
    num_characters: Array
    digest: Array
    reason: Array
    reasons: list[str]
    signals: dict[str, Array]

    def __len__(self) -> int:
        return len(self.pks)


_kept: OrderedDict[int, RunColumns] = OrderedDict()
_locks: dict[int, threading.Lock] = {}
_guard = threading.Lock()


def columns_of(run: EvalRun) -> RunColumns:
    """The columns of a run as its row says it stands now."""
    with _guard:
        lock = _locks.setdefault(run.pk, threading.Lock())
    with lock:  # who comes second waits for the first instead of reading everything too
        known = _kept.get(run.pk) or _read_file(run)
        if known is None or known.last_seq != run.last_seq or not len(known.task_pks):
            known = _read(run, known)
            if run.has_ended and len(known) >= FILE_FROM:
                _write_file(run, known)
        _keep(run.pk, known)
    return known


def forget() -> None:
    """Everything kept in memory; for tests and measurements."""
    with _guard:
        _kept.clear()


def _keep(pk: int, columns: RunColumns) -> None:
    with _guard:
        _kept[pk] = columns
        _kept.move_to_end(pk)
        while len(_kept) > 1 and sum(map(len, _kept.values())) > MAX_KEPT_ATTEMPTS:
            _locks.pop(_kept.popitem(last=False)[0], None)


def _read(run: EvalRun, known: RunColumns | None) -> RunColumns:
    """From the database: everything, or what changed since `known`."""
    tasks = list(run.tasks.order_by("position").values_list("pk", "position", "task_id", "prompt", "seq"))
    index = {row[0]: at for at, row in enumerate(tasks)}
    if known is None or len(known.task_pks) != len(tasks):
        builder = _Builder(index)
        builder.add(Attempt.objects.filter(eval_run=run).order_by("pk").values_list(*COLUMNS).iterator(chunk_size=CHUNK))
    else:
        changed = [row[0] for row in tasks if row[4] > known.last_seq]
        builder = _Builder(index, known, {index[pk] for pk in changed})
        for some in _batches(changed, TASKS_PER_QUERY):
            rows = Attempt.objects.filter(eval_run=run, task__in=some).order_by("pk").values_list(*COLUMNS)
            builder.add(rows.iterator(chunk_size=CHUNK))
    return builder.build(run.last_seq, tasks)


class _Builder:
    """Collects attempts row by row, in small lists that become arrays at the end."""

    def __init__(self, index: dict[int, int], known: RunColumns | None = None, changed: Iterable[int] = ()) -> None:
        self._index = index
        self._rows: list[tuple[Any, ...]] = []
        self._signals: list[tuple[int, dict[str, float]]] = []
        self._reasons = list(known.reasons) if known else [""]
        self._known = known
        self._stays = ~np.isin(known.task, list(changed)) if known else None

    def add(self, rows: Iterable[tuple[Any, ...]]) -> None:
        for pk, task_pk, number, reward, is_correct, signals, error_kind, num_tokens, messages in rows:
            verdict = -1 if is_correct is None else int(is_correct)
            digest, num_characters, reason = self._conversation(messages)
            if signals:
                self._signals.append((len(self._rows), signals))
            self._rows.append(
                (
                    *(pk, self._index[task_pk], number, np.nan if reward is None else reward, verdict),
                    *(bool(error_kind) or is_correct is None, num_tokens, num_characters, digest, reason),
                )
            )

    def _conversation(self, messages: Any) -> tuple[int, int, int]:
        """(digest, characters of the assistant, index of the reason why it is no row)."""
        found = read_conversation(messages)
        if found.reason:
            if found.reason not in self._reasons:
                self._reasons.append(found.reason)
            return 0, found.num_characters, self._reasons.index(found.reason)
        return found.digest, found.num_characters, 0

    def build(self, last_seq: int, tasks: list[tuple[Any, ...]]) -> RunColumns:
        names = ("pks", "task", "number", "reward", "is_correct", "is_error", "num_tokens", "num_characters", "digest", "reason")
        kinds = (np.int64, np.int32, np.int32, np.float64, np.int8, np.bool_, np.int32, np.int32, np.uint64, np.int16)
        columns = zip(*self._rows, strict=True) if self._rows else ((),) * len(names)
        new = {name: np.array(values, kind) for name, kind, values in zip(names, kinds, columns, strict=True)}
        signals = self._new_signals()
        if self._known is not None and self._stays is not None:
            known, stays = self._known, self._stays
            signals = {
                name: np.concatenate([part[stays] if part is not None else _nans(int(stays.sum())), signals_or_nans])
                for name in list(dict.fromkeys([*known.signals, *signals]))[:MAX_SIGNALS]
                for part, signals_or_nans in [(known.signals.get(name), signals.get(name, _nans(len(self._rows))))]
            }
            new = {name: np.concatenate([getattr(known, name)[stays], new[name]]) for name in names}
        return RunColumns(
            last_seq=last_seq,
            task_pks=np.array([row[0] for row in tasks], np.int64),
            positions=np.array([row[1] for row in tasks], np.int32),
            task_ids=[row[2] for row in tasks],
            prompts=[row[3] for row in tasks],
            reasons=self._reasons,
            signals=signals,
            **new,
        )

    def _new_signals(self) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for at, signals in self._signals:
            for name, value in signals.items():
                if not isinstance(value, int | float):
                    continue
                if name not in found:
                    if len(found) == MAX_SIGNALS:
                        continue
                    found[name] = _nans(len(self._rows))
                found[name][at] = value
        return found


def _nans(count: int) -> Array:
    return np.full(count, np.nan)


def _batches(items: list[int], size: int) -> Iterator[list[int]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


# the file

WORDS = ("task_ids", "prompts", "reasons")
ARRAYS = tuple(field.name for field in fields(RunColumns) if field.name not in (*WORDS, "signals", "last_seq"))


def _path(run: EvalRun) -> Path:
    return Path(settings.HOME) / "columns" / f"{run.pk}.npz"


def _stamp(run: EvalRun) -> str:
    """Tells this run from one that had its number in another database."""
    return hashlib.sha256(f"1 {run.pk} {run.created_at.isoformat()} {settings.SECRET_KEY}".encode()).hexdigest()


def _write_file(run: EvalRun, columns: RunColumns) -> None:
    path = _path(run)
    words = {name: getattr(columns, name) for name in WORDS}
    head = {"stamp": _stamp(run), "last_seq": columns.last_seq, "signals": list(columns.signals), **words}
    arrays = {name: getattr(columns, name) for name in ARRAYS}
    arrays |= {f"signal_{at}": values for at, values in enumerate(columns.signals.values())}
    partial = path.with_name(f".{path.stem}.{os.getpid()}.{threading.get_ident()}.npz")
    try:
        path.parent.mkdir(exist_ok=True)
        np.savez(partial, head=np.frombuffer(json.dumps(head).encode(), np.uint8), **arrays)
        partial.replace(path)
        _sweep(path.parent)
    except OSError:  # a full disk: the next process reads the database again
        partial.unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Files of eval runs that are gone."""
    names = {path.stem: path for path in folder.glob("[0-9]*.npz")}
    there = set(EvalRun.objects.filter(pk__in=list(map(int, names))).values_list("pk", flat=True))
    for name, path in names.items():
        if int(name) not in there:
            path.unlink(missing_ok=True)


def _read_file(run: EvalRun) -> RunColumns | None:
    try:
        with np.load(_path(run), allow_pickle=False) as stored:
            head = json.loads(stored["head"].tobytes())
            if head["stamp"] != _stamp(run):
                return None
            signals = {name: stored[f"signal_{at}"] for at, name in enumerate(head["signals"])}
            words = {name: head[name] for name in WORDS}
            return RunColumns(
                last_seq=head["last_seq"], signals=signals, **words, **{name: stored[name] for name in ARRAYS}
            )
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):  # not there, half written, or of another version
        return None
