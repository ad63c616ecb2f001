"""Writes down the attempts of an eval run as they finish: in batches, each with the counters of its tasks in one transaction.

What is in the database is the truth: a run that goes on leaves out the attempts that have a verdict there. Counters are written
as whole numbers out of memory, never added to, so that a batch written twice counts once.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from django.db import connection, transaction

from evsys_web.evals.leaks import Leaks, find_leaks
from evsys_web.evals.models import PROMPT_LENGTH, Attempt, EvalEvent, EvalRun, EvalTask, outcome_of
from evsys_web.runs.status import Standing
from evsys_web.runs.work import storable, storable_json
from evsys_web.runs.work_recorder import Recorder
from recipes.errors import DataError, RecipeError
from recipes.evals.metrics import TaskCount, summarise
from recipes.evals.runner import EvalResult
from recipes.rollouts import AttemptResult
from recipes.types import Task

SUMMARY_SECONDS = 1.0
"""A running eval is summed up so often, and seldomer where that takes more than a tenth of the time."""
LONGEST_TASK_ID = 300
WRITTEN = [
    *("reward", "is_correct", "signals", "info", "messages", "num_prompt_tokens", "num_tokens", "seconds", "stop_reason"),
    *("error", "error_kind", "created_at"),
]
UPDATE_TASK = """UPDATE {table}
SET n = %s, num_correct = %s, num_errors = %s, sum_reward = %s, num_tokens = %s, accuracy = %s, outcome = %s, seq = %s
WHERE id = %s"""

Key = tuple[str, int]


class Said(NamedTuple):
    """A sentence for whoever reads the eval."""

    level: str
    message: str


@dataclass(frozen=True, slots=True)
class Counter:
    """What a task's row holds. n: attempts with a verdict."""

    pk: int
    task_id: str
    n: int = 0
    num_correct: int = 0
    num_errors: int = 0
    sum_reward: float = 0.0
    num_tokens: int = 0
    is_leaked: bool = False

    def plus(self, result: AttemptResult, *, replaces_error: bool) -> Counter:
        is_error = result.error is not None
        return replace(
            self,
            n=self.n + (not is_error),
            num_correct=self.num_correct + bool(result.is_correct),
            num_errors=self.num_errors + is_error - replaces_error,
            sum_reward=self.sum_reward + (result.reward or 0.0),
            num_tokens=self.num_tokens + result.num_tokens,
        )

    def count(self) -> TaskCount:
        return TaskCount(self.task_id, self.n, self.num_correct, self.sum_reward, self.num_errors)

    def row(self, seq: int) -> tuple[int | float | str | None, ...]:
        """The parameters of UPDATE_TASK."""
        accuracy = self.num_correct / self.n if self.n else None
        outcome = str(outcome_of(self.n, self.num_correct, self.num_errors))
        return (self.n, self.num_correct, self.num_errors, self.sum_reward, self.num_tokens, accuracy, outcome, seq, self.pk)


class EvalRecorder(Recorder[AttemptResult | Said]):
    """`with EvalRecorder(run) as recorder:` for a run that was just claimed by `run.start()`; then `begin`, then
    `recorder.result = recipes.evaluate(…, on_attempt=recorder.on_attempt, …)`. Leaving the block writes how the run ended."""

    def __init__(self, run: EvalRun) -> None:
        super().__init__(run)
        self.result: EvalResult | None = None
        self.done: Collection[Key] = ()
        self._run = run
        self._counters: dict[str, Counter] = {}
        self._in_error: set[Key] = set()
        self._num_done = self._num_errors = 0
        self._stored: list[AttemptResult] = []
        self._counters_stored: dict[str, Counter] = {}
        self._kinds_seen: set[str] = set()
        self._next_summary = 0.0

    def begin(self, tasks: Sequence[Task]) -> None:
        """Write the tasks down, or find what is done of them. Raises DataError for a task that no row could stand for."""
        run = self._run
        for position, task in enumerate(tasks, start=1):
            if len(task.task_id) > LONGEST_TASK_ID or task.task_id != storable(task.task_id):
                raise DataError(
                    f"Task {position:,} has an id that cannot be kept: {task.task_id[:40]!r}. Give it an id of at most "
                    f"{LONGEST_TASK_ID} characters, without control characters."
                )
        leaks = find_leaks(run, tasks) if not run.tasks.exists() else None
        with transaction.atomic():
            if not run.run_begun(num_tasks=len(tasks), **({"leaks": leaks.as_json()} if leaks is not None else {})):
                raise RecipeError("This eval was taken from its worker.")
            if leaks is not None:
                run.tasks.bulk_create(_rows(run, tasks, leaks), batch_size=2000)
                for level, sentence in _what_was_learnt(leaks, len(tasks)):
                    run.note(sentence, level=level)
            self._read_counters()
            missing = run.num_attempts - len(self.done)
            run.note(_first_sentence(run, len(self.done), missing, len(self._in_error)))

    def on_attempt(self, result: AttemptResult) -> None:
        """Takes any thread, also one with an event loop: it only appends."""
        self._add(result)

    def report(self, level: str, message: str) -> None:
        self._add(Said(level[:10], storable(message)))

    def should_stop(self) -> bool:
        return self.is_over or bool(self.standing.stop) or self.standing.hand_back

    def _read_counters(self) -> None:
        columns = ("pk", "task_id", "n", "num_correct", "num_errors", "sum_reward", "num_tokens", "is_leaked")
        rows = self._run.tasks.values_list(*columns)
        self._counters = {row[1]: Counter(*row) for row in rows.iterator(chunk_size=5000)}
        found = self._run.attempts.values_list("task__task_id", "attempt", "error_kind")
        done: set[Key] = set()
        for task_id, attempt, error_kind in found.iterator(chunk_size=5000):
            (self._in_error if error_kind else done).add((task_id, attempt))
        self.done = done
        self._num_done, self._num_errors = len(done), len(self._in_error)

    # what the writing thread does

    def _store(self, reported: list[AttemptResult | Said]) -> Standing:
        items = [item for item in reported if not isinstance(item, Said)]
        changed: dict[str, Counter] = {}
        for item in items:
            counter = changed.get(item.task_id) or self._counters[item.task_id]
            changed[item.task_id] = counter.plus(item, replaces_error=(item.task_id, item.attempt) in self._in_error)
        said = [item for item in reported if isinstance(item, Said)] + [Said("warning", text) for text in self._news(items)]
        events = [EvalEvent(eval_run=self._run, level=level, message=text) for level, text in said]
        standing = self._renew(changed, num_seqs=len(changed) + len(events))
        if not standing.held:
            return standing
        self._stored, self._counters_stored = items, changed
        first = standing.last_seq - len(changed) - len(events) + 1
        self._write_attempts(items)
        if changed:
            with connection.cursor() as cursor:
                statement = UPDATE_TASK.format(table=connection.ops.quote_name(EvalTask._meta.db_table))
                cursor.executemany(statement, [counter.row(seq) for seq, counter in enumerate(changed.values(), start=first)])
        for seq, event in enumerate(events, start=first + len(changed)):
            event.seq = seq
        EvalEvent.objects.bulk_create(events)
        return standing

    def _renew(self, changed: dict[str, Counter], *, num_seqs: int) -> Standing:
        if not changed:
            return self._run.renew(num_seqs=num_seqs)
        summary = None
        if (began := time.monotonic()) >= self._next_summary:
            summary = self._sum_up(self._counters | changed)
            self._next_summary = began + max(SUMMARY_SECONDS, 10 * (time.monotonic() - began))
        num_done, num_errors = self._totals(changed)
        return self._run.renew(num_seqs=num_seqs, num_done=num_done, num_errors=num_errors, summary=summary)

    def _totals(self, changed: dict[str, Counter]) -> tuple[int, int]:
        pairs = [(self._counters[task_id], counter) for task_id, counter in changed.items()]
        num_done = self._num_done + sum(new.n - old.n for old, new in pairs)
        return num_done, self._num_errors + sum(new.num_errors - old.num_errors for old, new in pairs)

    def _sum_up(self, counters: dict[str, Counter]) -> dict[str, Any]:
        kept = [counter.count() for counter in counters.values() if not counter.is_leaked]
        summary = summarise(kept).as_json()
        if len(kept) < len(counters):
            summary["all"] = summarise([counter.count() for counter in counters.values()]).as_json()
        return summary

    def _write_attempts(self, items: list[AttemptResult]) -> None:
        rows = [attempt_row(self._run, self._counters[item.task_id].pk, item) for item in items]
        keys = ["eval_run", "task", "attempt"]
        Attempt.objects.bulk_create(rows, update_conflicts=True, unique_fields=keys, update_fields=WRITTEN, batch_size=500)

    def _news(self, items: list[AttemptResult]) -> list[str]:
        """A sentence for the first error of each kind; the others are found at their tasks."""
        first = {item.error_kind: item for item in reversed(items) if item.error_kind and item.error_kind not in self._kinds_seen}
        return [
            storable(f"Attempt {item.attempt + 1} at {item.task_id} ended in an error ({kind}): {item.error}")
            for kind, item in first.items()
        ]

    def _tidy(self) -> None:
        self._num_done, self._num_errors = self._totals(self._counters_stored)
        self._counters.update(self._counters_stored)
        self._counters_stored = {}
        for item in self._stored:
            (self._in_error.discard if item.error is None else self._in_error.add)((item.task_id, item.attempt))
            self._kinds_seen |= {item.error_kind} if item.error_kind else set()
        self._stored = []

    # how it ends

    def _settle(self) -> None:
        if self._counters:
            self._run.renew(summary=self._sum_up(self._counters))

    def _write_end(self) -> None:
        run, result = self._run, self.result
        if result is None:
            run.crash("The eval ended without saying how.", error_type="NoResult")
        elif result.status == "failed":
            run.fail(result.error or "The eval failed without saying why.")
        elif result.status == "completed" and not self._num_done and self._in_error:
            run.fail(f"No attempt got a verdict. The first ended with: {self._first_error()}")
        elif result.status == "completed":
            run.complete()
        elif run.hand_back and not run.stop_requested:
            run.give_back()
        else:
            run.cancel()
        if result is not None and run.has_ended:
            with transaction.atomic():
                run.note(_last_sentence(run), level="error" if run.error else "info")

    def _first_error(self) -> str:
        failed = self._run.attempts.exclude(error_kind="").order_by("pk").first()
        return failed.error if failed is not None else ""


def _rows(run: EvalRun, tasks: Sequence[Task], leaks: Leaks) -> list[EvalTask]:
    return [
        EvalTask(
            eval_run=run,
            position=position,
            task_id=task.task_id,
            prompt=prompt_of(task.messages),
            answer=storable_json(task.answer),
            is_leaked=task.task_id in leaks.tasks,
        )
        for position, task in enumerate(tasks, start=1)
    ]


def prompt_of(messages: Sequence[object]) -> str:
    """How the last message begins, on one line."""
    content = messages[-1].get("content") if messages and isinstance(messages[-1], dict) else ""
    text = " ".join(storable(content if isinstance(content, str) else str(content or ""))[: 4 * PROMPT_LENGTH].split())
    return text if len(text) <= PROMPT_LENGTH else f"{text[: PROMPT_LENGTH - 1]}…"


def attempt_row(run: EvalRun, task_pk: int, result: AttemptResult) -> Attempt:
    return Attempt(
        eval_run=run,
        task_id=task_pk,
        attempt=result.attempt,
        reward=result.reward,
        is_correct=result.is_correct,
        signals=storable_json(result.signals),
        info=storable_json(result.info),
        messages=storable_json(result.messages),
        num_prompt_tokens=result.num_prompt_tokens,
        num_tokens=result.num_tokens,
        seconds=result.seconds,
        stop_reason=storable(result.stop_reason or "")[:100],
        error=storable(result.error or ""),
        error_kind=(result.error_kind or "error")[:40] if result.error is not None else "",
    )


def _first_sentence(run: EvalRun, num_done: int, num_missing: int, num_errors: int) -> str:
    if run.attempt == 1 and not num_done:
        return f"Begins: {run.num_tasks:,} tasks, {run.k:,} attempts each, {num_missing:,} in all."
    again = f", {num_errors:,} of them errors that are tried again" if num_errors else ""
    return f"Goes on: {num_done:,} attempts have a verdict and stay, {num_missing:,} are missing{again}."


def _what_was_learnt(leaks: Leaks, num_tasks: int) -> Iterator[tuple[str, str]]:
    """Level and sentence of what a reader of the numbers must know."""
    if leaks.tasks:
        trained = " and ".join(f"run {source['run']}" for source in leaks.sources)
        yield (
            "warning",
            f"{len(leaks.tasks):,} of {num_tasks:,} tasks trained this model (in {trained}): left out of the numbers.",
        )
    yield from (("info", sentence) for sentence in leaks.unknown)


def _last_sentence(run: EvalRun) -> str:
    if run.error:
        return run.error
    errors = f", {run.num_errors:,} ended in an error and can be tried again" if run.num_errors else ""
    return f"{run.get_status_display()}: {run.num_done:,} of {run.num_attempts:,} attempts have a verdict{errors}."
