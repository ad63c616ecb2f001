"""Whole eval runs through the task, on servers that behave and servers that do not."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from evsys_web.accounts.actions import store_credential
from evsys_web.accounts.models import Project, User
from evsys_web.datasets.models import DatasetVersion
from evsys_web.evals.actions import create_benchmark, launch_eval, retry_errors
from evsys_web.evals.models import Benchmark, EvalRun, Outcome, Status
from evsys_web.evals.tasks import run_eval
from recipes.eval_config import EvalConfig
from tests.evsys_web.evals.conftest import NUM_TASKS, config_values, task_rows
from tests.recipes.chat_server import Answer, Behaviour, chat_server, completion, refusal

pytestmark = pytest.mark.django_db(transaction=True)
Evaluate = Callable[..., EvalRun]


def solve(request: dict[str, Any], number: int) -> Answer:
    first, second = re.findall(r"\d+", request["messages"][-1]["content"])
    return completion([str(int(first) + int(second))] * request.get("n", 1))


@pytest.fixture
def evaluate(alice: User, project: Project, benchmark_row: Benchmark) -> Evaluate:
    """Launches on a server of this behaviour, does the work here, and gives the run as it ended."""

    def do(behaviour: Behaviour, *, run: EvalRun | None = None, **endpoint: Any) -> EvalRun:
        with chat_server(behaviour) as server:
            where = {"base_url": server.base_url, "model": "adder", "max_retries": 0, "timeout_seconds": 60, **endpoint}
            config = EvalConfig.from_values({**config_values(model=None, endpoint=where), "concurrency": 2, "attempts": 2})
            if run is None:
                run = launch_eval(user=alice, project=project, config=config, benchmark=benchmark_row)
            else:
                EvalRun.objects.filter(pk=run.pk).update(config=config.model_dump(mode="json"))
            run_eval.apply(args=[run.pk]).get()
            run.refresh_from_db()
            run.keys_seen = server.keys  # type: ignore[attr-defined]
            return run

    return do


def test_an_eval_runs_to_its_end_with_the_stored_key(evaluate: Evaluate, alice: User, project: Project) -> None:
    store_credential(user=alice, project=project, name="adder", secret="sk-very-secret-0001")
    run = evaluate(solve, credential="adder")
    assert (run.status, run.num_tasks, run.num_done, run.num_errors, run.error) == (Status.COMPLETED, 6, 12, 0, "")
    assert run.summary["avg"]["value"] == 1.0 and run.model_label == "adder"
    assert set(run.keys_seen) == {"Bearer sk-very-secret-0001"}  # type: ignore[attr-defined]
    assert "very-secret" not in str(EvalRun.objects.values().get())
    assert [task.outcome for task in run.tasks.all()] == [Outcome.SOLVED] * NUM_TASKS
    first = run.tasks.get(position=1)
    assert first.prompt == "What is 0 + 0?" and first.answer == 0 and first.attempts.count() == 2


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (lambda request, number: refusal(401, "bad key"), "refuses the key (401"),
        (lambda request, number: refusal(404, "no such model"), "knows no model 'adder'"),
    ],
    ids=["401", "404"],
)
def test_a_server_that_refuses_for_good_fails_the_run_in_a_sentence(evaluate: Evaluate, behaviour: Behaviour, words: str) -> None:
    run = evaluate(behaviour)
    assert run.status == Status.FAILED and words in run.error and run.error_detail == ""
    assert run.num_done == 0 and run.events.latest("seq").level == "error"


@pytest.mark.parametrize(
    ("behaviour", "kind", "words"),
    [
        (lambda request, number: refusal(429, "slow down"), "rate_limit", "429"),
        (lambda request, number: refusal(500, "boom"), "server", "500"),
        (lambda request, number: Answer(200, {"hello": "world"}), "bad_answer", "no chat completion"),
        (lambda request, number: Answer(200, b"<html>"), "bad_answer", "no chat completion"),
        (lambda request, number: Answer(0), "timeout", "gave no answer"),
    ],
    ids=["429", "500", "garbage", "html", "never"],
)
def test_a_server_that_breaks_down_costs_errors_and_never_wrong_answers(
    evaluate: Evaluate, behaviour: Behaviour, kind: str, words: str
) -> None:
    def works_at_first(request: dict[str, Any], number: int) -> Answer:
        return solve(request, number) if number < 2 else behaviour(request, number)

    run = evaluate(works_at_first, timeout_seconds=3 if kind == "timeout" else 60)
    assert run.has_ended and run.num_done >= 2 and run.num_errors > 0
    assert run.summary["avg"]["value"] == 1.0
    broken = run.attempts.filter(error_kind=kind)
    assert broken.count() == run.num_errors and words in broken[0].error
    assert broken[0].is_correct is None and broken[0].reward is None
    done, kept = run.num_done, set(run.attempts.filter(error_kind="").values_list("pk", flat=True))
    retry_errors(user=run.created_by, run=run)
    run = evaluate(solve, run=run)
    assert (run.status, run.num_done, run.num_errors) == (Status.COMPLETED, 12, 0) and done < 12
    assert kept <= set(run.attempts.values_list("pk", flat=True))


def test_a_server_that_is_not_there_is_named(evaluate: Evaluate) -> None:
    run = evaluate(solve, base_url="http://127.0.0.1:9/v1")
    assert run.num_done == 0 and run.has_ended
    assert "cannot be reached" in run.attempts.first().error  # type: ignore[union-attr]


def test_a_name_that_leads_into_a_private_network_is_not_called(evaluate: Evaluate, settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["evsys.example.org"]  # others can reach this server: loopback is not theirs to call
    run = evaluate(solve, base_url="http://localhost:9/v1")
    assert run.num_done == 0
    text = run.error or run.attempts.first().error  # type: ignore[union-attr]
    assert "may not be asked from here" in text


def test_a_task_that_does_not_fit_fails_the_run_before_anything_is_sampled(
    alice: User, project: Project, make_version: Callable[..., DatasetVersion], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("evsys_web.evals.actions.NUM_TASKS_LOOKED_AT", 2)
    rows = task_rows()
    rows[4]["answer"] = "no number"
    version = make_version(rows, name="odd")
    benchmark = create_benchmark(user=alice, project=project, name="Odd", dataset_version=version, verifier={"kind": "numeric"})
    with chat_server(solve) as server:
        config = EvalConfig.from_values(config_values(model=None, endpoint={"base_url": server.base_url, "model": "m"}))
        run = launch_eval(user=alice, project=project, config=config, benchmark=benchmark)
        run_eval.apply(args=[run.pk]).get()
        assert server.requests == []
    run.refresh_from_db()
    assert run.status == Status.FAILED and "'sum-4'" in run.error and run.attempts.count() == 0


def test_a_dataset_that_was_deleted_meanwhile_is_said(evaluate: Evaluate, make_eval: Any, benchmark_row: Benchmark) -> None:
    run = make_eval()
    assert benchmark_row.dataset_version is not None
    benchmark_row.dataset_version.dataset.delete()
    run_eval.apply(args=[run.pk]).get()
    run.refresh_from_db()
    assert run.status == Status.FAILED and "sums@1 was deleted" in run.error


def test_a_message_that_comes_twice_works_once(evaluate: Evaluate) -> None:
    run = evaluate(solve)
    run_eval.apply(args=[run.pk]).get()
    run.refresh_from_db()
    assert run.attempt == 1 and run.num_done == 12
