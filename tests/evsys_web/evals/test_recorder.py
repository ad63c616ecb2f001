"""The recorder driven by hand: what is counted, what a second worker finds, and what ends it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import OperationalError
from django.utils.timezone import now

from evsys_web.evals.models import Attempt, EvalRun, Outcome, Status
from evsys_web.evals.recorder import EvalRecorder
from evsys_web.runs.leases import sweep
from recipes.errors import DataError
from recipes.evals.metrics import summarise
from recipes.evals.runner import EvalResult
from recipes.types import Task
from tests.evsys_web.evals.conftest import NUM_TASKS, attempt, tasks

pytestmark = pytest.mark.django_db(transaction=True)


def result(run: EvalRun, status: str = "completed", error: str | None = None) -> EvalResult:
    return EvalResult(status, NUM_TASKS, NUM_TASKS * run.k, 0, 0, error)  # type: ignore[arg-type]


def record(run: EvalRun, *attempts: object, status: str = "completed") -> None:
    with EvalRecorder(run) as recorder:
        recorder.begin(tasks())
        for each in attempts:
            recorder.on_attempt(each)  # type: ignore[arg-type]
        recorder.result = result(run, status)


def test_attempts_counters_and_summary_agree(held_eval: EvalRun) -> None:
    attempts = [attempt(task, number, right=(task + number) % 2 == 0) for task in range(NUM_TASKS) for number in range(2)]
    attempts[-1] = attempt(NUM_TASKS - 1, 1, error="The endpoint gave no answer.")
    record(held_eval, *attempts)
    held_eval.refresh_from_db()
    assert (held_eval.status, held_eval.num_tasks, held_eval.num_done, held_eval.num_errors) == (Status.COMPLETED, 6, 11, 1)
    assert held_eval.attempts.count() == 12
    for task in held_eval.tasks.all():
        rows = list(task.attempts.all())
        verdicts = [row for row in rows if not row.error_kind]
        assert (task.n, task.num_correct) == (len(verdicts), sum(bool(row.is_correct) for row in verdicts))
        assert task.num_errors == len(rows) - len(verdicts) and task.num_tokens == 6 and task.seq > 0
    assert [task.outcome for task in held_eval.tasks.all()] == [Outcome.MIXED] * 5 + [Outcome.FAILED]
    assert held_eval.summary == summarise(held_eval.task_counts()).as_json()
    assert held_eval.summary["avg"]["low"] < held_eval.summary["avg"]["value"] < held_eval.summary["avg"]["high"]
    assert "ended in an error (timeout): The endpoint gave no answer." in " ".join(
        held_eval.events.values_list("message", flat=True)
    )


def test_a_second_worker_keeps_verdicts_and_replaces_errors(held_eval: EvalRun) -> None:
    record(held_eval, attempt(0, 0), attempt(0, 1, error="No answer."), attempt(1, 0, right=False), status="cancelled")
    assert held_eval.status == Status.CANCELLED
    first = set(held_eval.attempts.filter(error_kind="").values_list("pk", flat=True))
    assert held_eval.queue() and held_eval.start("other")
    with EvalRecorder(held_eval) as recorder:
        recorder.begin(tasks())
        assert set(recorder.done) == {("sum-0", 0), ("sum-1", 0)}
        recorder.on_attempt(attempt(0, 1, right=False))
        recorder.result = result(held_eval)
    held_eval.refresh_from_db()
    task = held_eval.tasks.get(position=1)
    assert (task.n, task.num_correct, task.num_errors, task.outcome) == (2, 1, 0, Outcome.MIXED)
    assert (held_eval.num_done, held_eval.num_errors) == (3, 0)
    assert held_eval.attempts.count() == 3 and first <= set(held_eval.attempts.values_list("pk", flat=True))


def test_a_batch_that_is_written_twice_counts_once(held_eval: EvalRun, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    write = EvalRecorder._write_attempts

    def break_after_the_first(self: EvalRecorder, items: list[object]) -> None:
        write(self, items)  # type: ignore[arg-type]
        written.append(len(items))
        if len(written) == 1:
            raise OperationalError("the connection is gone")

    monkeypatch.setattr(EvalRecorder, "_write_attempts", break_after_the_first)
    record(held_eval, attempt(0, 0), attempt(0, 1), attempt(1, 0))
    held_eval.refresh_from_db()
    assert len(written) >= 2 and held_eval.num_done == 3
    assert [task.n for task in held_eval.tasks.all()[:2]] == [2, 1]


def test_a_worker_whose_lease_is_gone_writes_nothing_more(held_eval: EvalRun) -> None:
    with EvalRecorder(held_eval) as recorder:
        recorder.begin(tasks())
        recorder.on_attempt(attempt(0, 0))
        recorder.flush()
        EvalRun.objects.filter(pk=held_eval.pk).update(lease_owner="another")
        recorder.on_attempt(attempt(0, 1))
        recorder.flush()
        assert recorder.should_stop()
        recorder.result = result(held_eval)
    held_eval.refresh_from_db()
    assert held_eval.status == Status.RUNNING and held_eval.lease_owner == "another"
    assert held_eval.attempts.count() == 1 and held_eval.num_done == 1


def test_a_stop_reaches_the_sampler(held_eval: EvalRun) -> None:
    with EvalRecorder(held_eval) as recorder:
        recorder.begin(tasks())
        assert not recorder.should_stop()
        assert EvalRun.objects.get().request_stop()
        recorder.on_attempt(attempt(0, 0))
        recorder.flush()
        assert recorder.should_stop()
        recorder.result = result(held_eval, "cancelled")
    assert EvalRun.objects.get().status == Status.CANCELLED


def test_a_lost_worker_leaves_a_sentence_that_says_what_is_kept(held_eval: EvalRun) -> None:
    with EvalRecorder(held_eval) as recorder:
        recorder.begin(tasks())
        recorder.on_attempt(attempt(0, 0))
        recorder.flush()
        EvalRun.objects.update(lease_until=now() - timedelta(seconds=1))
        sweep("other", send=None, model=EvalRun)
        recorder.result = result(held_eval)
    held_eval.refresh_from_db()
    assert held_eval.status == Status.CRASHED and "1 of 12 attempts are kept" in held_eval.error
    assert held_eval.events.latest("seq").level == "error"


def test_what_no_database_keeps_is_replaced(held_eval: EvalRun) -> None:
    odd = attempt(0, 0, info={"score": float("nan"), "said\x00": "\ud800"}, signals={"margin": float("inf")})
    record(held_eval, odd)
    row = Attempt.objects.get()
    assert row.info == {"score": "NaN", "said\ufffd": "?"} and row.signals == {"margin": "Infinity"}


def test_a_task_id_that_no_row_holds_is_refused_in_a_sentence(held_eval: EvalRun) -> None:
    with EvalRecorder(held_eval) as recorder:
        recorder.begin([Task("x" * 301, [{"role": "user", "content": "?"}])])
    held_eval.refresh_from_db()
    assert held_eval.status == Status.FAILED and "at most 300 characters" in held_eval.error
    assert held_eval.error_type == DataError.__name__
