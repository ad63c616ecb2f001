"""The attempts of an eval run as columns: verdicts, lengths and a digest of each conversation, without the conversations.

Those are nine tenths of the bytes and of the time, so they are read once: 8 s for 160,000 attempts. The columns are then kept in
memory and, of a run that has ended, in a file. A run that goes on is read on from the tasks that changed since: every batch of
attempts gives its tasks a later `seq`.
"""

from __future__ import annotations

import hashlib
import json
import os
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from datetime import datetime
from itertools import islice
from pathlib import Path

import numpy as np
from django.conf import settings

from evsys_web.evals.models import Attempt, EvalRun
from recipes.curation import Columns, ColumnsBuilder, read_conversation

MAX_KEPT_ATTEMPTS = 1_000_000
"""In memory, over all runs of a process: some 80 MB."""
FILE_FROM = 4_000
"""Attempts from which on a file is quicker than reading again."""
CHUNK = 2_000
TASKS_PER_QUERY = 500
READ = (
    *("pk", "task__task_id", "task__prompt", "attempt", "is_correct", "reward", "signals", "error_kind", "num_tokens"),
    "messages",
)


@dataclass(frozen=True, slots=True)
class _Kept:
    """Columns as they were at `last_seq` of their run."""

    last_seq: int
    columns: Columns


Key = tuple[int, datetime]
Tell = Callable[[int], None]
_kept: OrderedDict[Key, _Kept] = OrderedDict()
_locks: dict[Key, threading.Lock] = {}
_guard = threading.Lock()


def key_of(run: EvalRun) -> Key:
    return run.pk, run.created_at


def columns_of(run: EvalRun, *, tell: Tell | None = None) -> Columns:
    """The columns of a run as its row says it stands. ids are primary keys of Attempt. tell: hears now and then how many
    attempts were read."""
    key = key_of(run)
    with _guard:
        lock = _locks.setdefault(key, threading.Lock())
    with lock:  # who comes second waits for the first instead of reading everything too
        known = _kept.get(key) or _read_file(run)
        if known is None or known.last_seq != run.last_seq:
            known = _Kept(run.last_seq, _read(run, tell=tell) if known is None else _read_on(run, known))
            if run.has_ended and len(known.columns) >= FILE_FROM:
                _write_file(run, known)
        _keep(key, known)
    return known.columns


def are_at_hand(run: EvalRun) -> bool:
    """Whether `columns_of` need not read the whole run."""
    return key_of(run) in _kept or are_filed(run)


def are_filed(run: EvalRun) -> bool:
    """Whether the columns of a run that has ended were written down since, as far as the clock says."""
    try:
        written_at = _path(run).stat().st_mtime
    except OSError:
        return False
    return run.finished_at is not None and written_at >= run.finished_at.timestamp()


def forget_columns() -> None:
    """Everything kept in memory; for tests and measurements."""
    with _guard:
        _kept.clear()


def _keep(key: Key, known: _Kept) -> None:
    with _guard:
        _kept[key] = known
        _kept.move_to_end(key)
        while len(_kept) > 1 and sum(len(each.columns) for each in _kept.values()) > MAX_KEPT_ATTEMPTS:
            _locks.pop(_kept.popitem(last=False)[0], None)


# the database


def _read(run: EvalRun, tasks: Iterable[int] | None = None, *, tell: Tell | None = None) -> Columns:
    """Of the tasks with these keys, or of all."""
    builder = ColumnsBuilder(str(run.pk))
    found = Attempt.objects.filter(eval_run=run).order_by("task_id", "attempt").values_list(*READ)  # as the index has them
    for rows in [found] if tasks is None else (found.filter(task__in=some) for some in _batches(tasks, TASKS_PER_QUERY)):
        for pk, task_id, prompt, number, is_correct, reward, signals, error, num_tokens, messages in rows.iterator(CHUNK):
            builder.add(
                benchmark=pool_name(run, prompt),
                task_id=task_id,
                attempt=number,
                is_correct=is_correct,
                reward=reward,
                signals=signals,
                error=error,
                num_tokens=num_tokens,
                conversation=read_conversation(messages),
                id=pk,
            )
            if tell is not None and len(builder) % CHUNK == 0:
                tell(len(builder))
    return builder.build()


def pool_name(run: EvalRun, prompt: str) -> str:
    """Attempts are pooled by this and their task's id. A task id says what is meant within a benchmark alone: attempts that were
    imported without one are pooled where their prompts begin alike, too."""
    return f"benchmark {run.benchmark_id}" if run.benchmark_id else f"prompt {prompt}"


def _read_on(run: EvalRun, known: _Kept) -> Columns:
    changed = dict(run.tasks.filter(seq__gt=known.last_seq).values_list("pk", "task_id"))
    old, new, again = known.columns, _read(run, changed), set(changed.values())
    is_old = np.array([task_id in again for task_id in old.task_ids], np.bool_)
    stays = np.flatnonzero(~is_old[old.task]) if len(old) else np.zeros(0, np.int64)
    arrays = {name: np.concatenate([getattr(old, name)[stays], getattr(new, name)]) for name in ARRAYS}
    num_tasks, num_reasons = len(old.task_ids), len(old.reasons)
    arrays["task"][len(stays) :] += num_tasks
    arrays["unusable"][len(stays) :] += np.where(new.unusable > 0, num_reasons, 0)
    absent = [np.full(len(part), np.nan) for part in (stays, new.task)]
    signals = {
        name: np.concatenate([old.signals[name][stays] if name in old.signals else absent[0], new.signals.get(name, absent[1])])
        for name in dict.fromkeys([*old.signals, *new.signals])
    }
    return Columns(
        run=old.run,
        task_ids=old.task_ids + new.task_ids,
        benchmarks=old.benchmarks + new.benchmarks,
        reasons=old.reasons + new.reasons,
        signals=signals,
        **arrays,
    )


def _batches(items: Iterable[int], size: int) -> Iterator[list[int]]:
    rest = iter(items)
    while batch := list(islice(rest, size)):
        yield batch


# the file

WORDS = ("task_ids", "benchmarks", "reasons")
ARRAYS = tuple(each.name for each in fields(Columns) if each.name not in (*WORDS, "run", "signals"))


def _path(run: EvalRun) -> Path:
    return Path(settings.HOME) / "columns" / f"{run.pk}.npz"


def _stamp(run: EvalRun) -> str:
    """Tells this run from one that had its number in another database, and these columns from those of older code."""
    code = ",".join((*ARRAYS, *WORDS))
    return hashlib.sha256(f"2 {code} {run.pk} {run.created_at.isoformat()} {run.benchmark_id}".encode()).hexdigest()


def _write_file(run: EvalRun, known: _Kept) -> None:
    path, columns = _path(run), known.columns
    head = {"stamp": _stamp(run), "last_seq": known.last_seq, "signals": list(columns.signals)}
    head |= {name: getattr(columns, name) for name in WORDS}
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
    files = {int(path.stem): path for path in folder.glob("*.npz") if path.stem.isdecimal()}
    for pk in files.keys() - set(EvalRun.objects.filter(pk__in=files).values_list("pk", flat=True)):
        files[pk].unlink(missing_ok=True)


def _read_file(run: EvalRun) -> _Kept | None:
    try:
        with np.load(_path(run), allow_pickle=False) as stored:
            head = json.loads(stored["head"].tobytes())
            if head["stamp"] != _stamp(run):
                return None
            signals = {name: stored[f"signal_{at}"] for at, name in enumerate(head["signals"])}
            words, arrays = {name: head[name] for name in WORDS}, {name: stored[name] for name in ARRAYS}
            return _Kept(head["last_seq"], Columns(run=str(run.pk), signals=signals, **words, **arrays))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):  # not there, half written, or of another version
        return None
