"""The REST door: what it takes, what it refuses, and who sees what."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from evsys_web.evals.models import Benchmark, EvalRun, Status
from evsys_web.evals.recorder import EvalRecorder
from recipes.evals.runner import EvalResult
from tests.evsys_web.evals.conftest import NUM_TASKS, MakeEval, attempt, tasks

Headers = dict[str, str]
API = "/api/v1"


def post(client: Client, url: str, body: Any, headers: Headers, content_type: str = "application/json") -> Any:
    return client.post(f"{API}{url}", body, content_type=content_type, headers=headers)


@pytest.fixture
def done_eval(transactional_db: None, held_eval: EvalRun) -> EvalRun:
    """Task n (from 0) is solved when even, unsolved when odd; the last one has an error."""
    with EvalRecorder(held_eval) as recorder:
        recorder.begin(tasks())
        for task in range(NUM_TASKS):
            recorder.on_attempt(attempt(task, 0, right=task % 2 == 0))
        recorder.on_attempt(attempt(NUM_TASKS - 1, 1, error="No answer."))
        recorder.result = EvalResult("completed", NUM_TASKS, 12, 6, 1)
    held_eval.refresh_from_db()
    return held_eval


def test_a_benchmark_from_yaml_and_an_eval_of_it(client: Client, alice_headers: Headers, version: Any) -> None:
    body = "name: Adding\ndataset: sums@1\nverifier:\n  kind: numeric\n"
    made = post(client, "/benchmarks", body, alice_headers, "application/yaml")
    assert made.status_code == 201, made.content
    assert made.json()["num_tasks"] == NUM_TASKS and made.json()["verifier"]["kind"] == "numeric"
    answer = post(client, "/evals", {"benchmark": made.json()["id"], "model": {"name": "starter"}, "attempts": 4}, alice_headers)
    assert answer.status_code == 201, answer.content
    found = answer.json()
    assert (found["status"], found["k"], found["num_attempts"], found["verifier"]) == ("queued", 4, 24, "numeric")
    listed = client.get(f"{API}/evals?benchmark={made.json()['id']}", headers=alice_headers).json()["items"]
    assert [each["id"] for each in listed] == [found["id"]]


def test_a_verifier_that_there_is_not_is_told_from_those_there_are(client: Client, alice_headers: Headers, version: Any) -> None:
    body = {"data": {"dataset": "sums@1"}, "model": {"name": "starter"}}
    refused = post(client, "/evals", body | {"verifier": {"kind": "guess"}}, alice_headers)
    assert refused.status_code == 422
    assert refused.json()["detail"].startswith("verifier: There is no kind 'guess'. Choose one of: 'contains', ")
    refused = post(client, "/evals", body | {"verifier": {}}, alice_headers)
    assert (refused.status_code, refused.json()["detail"]) == (422, "verifier: It does not say its kind.")


def test_an_estimate_starts_nothing_and_makes_no_benchmark(
    client: Client, alice_headers: Headers, mallory_headers: Headers, version: Any, make_version: Any
) -> None:
    endpoint = {"base_url": "https://api.openai.com/v1", "model": "gpt-4.1"}
    body = {"data": {"dataset": "sums"}, "verifier": {"kind": "numeric"}, "endpoint": endpoint, "attempts": 4, "max_tasks": 5}
    found = post(client, "/evals/estimate", body, alice_headers).json()
    assert (found["num_tasks"], found["num_attempts"]) == (5, 20) and found["sampled_tokens"] == {"low": 20, "high": 5120}
    read, said = found["prompt_tokens"]["high"], found["sampled_tokens"]["high"]
    assert found["dollars"]["high"] == pytest.approx((read * 2 + said * 8) / 1e6) and found["seconds"] is None
    assert not EvalRun.objects.exists() and not Benchmark.objects.exists()
    assert post(client, "/evals/estimate", body, mallory_headers).status_code in (404, 422)
    assert post(client, "/evals/estimate", body | {"attempts": 0}, alice_headers).status_code == 422
    make_version([{"messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]}], "chats")
    refused = post(client, "/evals/estimate", body | {"data": {"dataset": "chats"}}, alice_headers)
    assert refused.status_code == 422 and "An eval needs tasks" in refused.content.decode()


def test_an_estimate_learns_from_the_last_eval_of_its_kind(
    client: Client, alice_headers: Headers, done_eval: EvalRun, version: Any
) -> None:
    """Replies of three tokens each."""
    done_eval.config = done_eval.load_config().model_dump(mode="json")  # as a launch writes it
    done_eval.save(update_fields=["config"])
    body = {"benchmark": done_eval.benchmark_id, "model": {"name": "starter"}, "attempts": 1}
    found = post(client, "/evals/estimate", body, alice_headers).json()
    said = found["sampled_tokens"]
    assert found["seconds"] is not None and found["dollars"] is None
    assert (said["low"] * said["high"]) ** 0.5 / NUM_TASKS == pytest.approx(3)
    other = body | {"sampling": {"max_tokens": 99}}
    assert post(client, "/evals/estimate", other, alice_headers).json()["seconds"] is None


def test_tasks_and_verifier_find_their_benchmark_or_make_it(client: Client, alice_headers: Headers, version: Any) -> None:
    body = {"data": {"dataset": "sums"}, "verifier": {"kind": "numeric"}, "model": {"name": "starter"}}
    ids = {post(client, "/evals", body, alice_headers).json()["benchmark_id"] for _ in range(2)}
    assert len(ids) == 1 and Benchmark.objects.count() == 1


def test_a_key_makes_one_eval(client: Client, alice_headers: Headers, benchmark_row: Benchmark) -> None:
    body = {"benchmark": benchmark_row.pk, "model": {"name": "starter"}}
    answers = [post(client, "/evals", body, {**alice_headers, "Idempotency-Key": "one"}).json() for _ in range(2)]
    assert answers[0] == answers[1] and EvalRun.objects.count() == 1


@pytest.mark.parametrize(
    ("change", "field", "words"),
    [
        ({"attempts": 0}, "attempts", "greater than or equal to 1"),
        ({"model": None}, "", "exactly one of model and endpoint"),
        ({"model": {"name": "/no/such/folder"}}, "", "/no/such/folder"),
        ({"benchmark": 404}, None, "nothing at this address"),
        ({"benchmark": None}, "benchmark", "Name a benchmark"),
        ({"model": None, "endpoint": {"base_url": "ftp://x", "model": "m"}}, "endpoint.base_url", "http:// or https://"),
        ({"model": None, "endpoint": {"base_url": "http://10.0.0.1/v1", "model": "m"}}, "endpoint.base_url", "private network"),
        (
            {"model": None, "endpoint": {"base_url": "http://169.254.169.254/", "model": "m"}},
            "endpoint.base_url",
            "private network",
        ),
        (
            {"model": None, "endpoint": {"base_url": "https://example.org/v1", "model": "m", "credential": "mine"}},
            "endpoint.credential",
            "no credential 'mine'",
        ),
        ({"sampling": {"temperature": -1}}, "sampling.temperature", "greater than or equal to 0"),
        ({"nonsense": 1}, "nonsense", "no setting of this name"),
    ],
)
def test_a_bad_eval_is_refused_at_its_field(
    client: Client, alice_headers: Headers, benchmark_row: Benchmark, change: dict[str, Any], field: str | None, words: str
) -> None:
    body = {"benchmark": benchmark_row.pk, "model": {"name": "starter"}} | change
    answer = post(client, "/evals", {key: value for key, value in body.items() if value is not None}, alice_headers)
    assert answer.status_code in (404, 422), answer.content
    problem = answer.json()
    assert words in problem["detail"] + str(problem["errors"])
    if field:
        assert problem["errors"][0]["field"] == field
    assert EvalRun.objects.count() == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"verifier": {"kind": "nonsense"}}, "nonsense"),
        ({"verifier": {"kind": "numeric", "params": {"tolerance": -1}}}, "tolerance"),
        ({"verifier": {"kind": "json_schema", "params": {}}}, "json_schema"),
        ({"dataset": "other@1"}, "other"),
        ({"name": " "}, "1 to 200 characters"),
    ],
)
def test_a_bad_benchmark_is_refused(
    client: Client, alice_headers: Headers, version: Any, change: dict[str, Any], words: str
) -> None:
    body = {"name": "Adding", "dataset": "sums@1", "verifier": {"kind": "numeric"}} | change
    answer = post(client, "/benchmarks", body, alice_headers)
    assert 400 <= answer.status_code < 500 and words in answer.content.decode()
    assert Benchmark.objects.count() == 0


def test_tasks_come_in_pages_sorted_and_filtered(client: Client, alice_headers: Headers, done_eval: EvalRun) -> None:
    def pages(query: str) -> list[int]:
        positions, cursor = [], ""
        while cursor is not None:
            url = f"{API}/evals/{done_eval.pk}/tasks?limit=2&{query}&cursor={cursor}"
            page = client.get(url, headers=alice_headers).json()
            positions += [task["position"] for task in page["items"]]
            cursor = page["next_cursor"]
        return positions

    assert pages("") == [1, 2, 3, 4, 5, 6]
    assert pages("sort=accuracy") == [2, 4, 6, 1, 3, 5]
    assert pages("sort=-accuracy") == [5, 3, 1, 6, 4, 2]
    assert pages("outcome=solved&sort=-position") == [5, 3, 1]
    assert pages("with_errors=true") == [6]
    attempts = client.get(f"{API}/evals/{done_eval.pk}/tasks/6/attempts", headers=alice_headers).json()["items"]
    assert [(each["attempt"], each["is_correct"], each["error_kind"]) for each in attempts] == [
        (0, False, ""),
        (1, None, "timeout"),
    ]
    assert client.get(f"{API}/evals/{done_eval.pk}/tasks/7", headers=alice_headers).status_code == 404


def test_summary_events_config_and_comparison(
    client: Client, alice_headers: Headers, done_eval: EvalRun, make_eval: MakeEval
) -> None:
    def get(url: str) -> Any:
        answer = client.get(f"{API}/evals{url}", headers=alice_headers)
        assert answer.status_code == 200, answer.content
        return answer

    assert get(f"/{done_eval.pk}/summary").json()["avg"]["value"] == 0.5
    assert "7 of 12" not in get(f"/{done_eval.pk}/events").json()["items"][0]["message"]
    assert "verifier:" in get(f"/{done_eval.pk}/config.yaml").content.decode()
    other = make_eval()
    assert other.start("worker")
    with EvalRecorder(other) as recorder:
        recorder.begin(tasks())
        for task in range(NUM_TASKS):
            recorder.on_attempt(attempt(task, 0))
        recorder.result = EvalResult("completed", NUM_TASKS, 12, 6, 0)
    found = get(f"/compare?a={done_eval.pk}&b={other.pk}").json()
    assert found["num_common"] == 6 and found["difference"]["value"] == 0.5
    assert found["newly_solved"] == ["sum-1", "sum-3", "sum-5"] and found["newly_broken"] == []


def test_stop_resume_retry_and_delete(client: Client, alice_headers: Headers, done_eval: EvalRun) -> None:
    url = f"/evals/{done_eval.pk}"
    assert post(client, f"{url}/stop", {}, alice_headers).status_code == 409
    assert post(client, f"{url}/resume", {}, alice_headers).status_code == 409
    assert post(client, f"{url}/retry-errors", {}, alice_headers).json()["status"] == Status.QUEUED
    assert post(client, f"{url}/stop", {}, alice_headers).json()["status"] == Status.CANCELLED
    assert post(client, f"{url}/resume", {}, alice_headers).json()["status"] == Status.QUEUED
    assert client.delete(f"{API}{url}", headers=alice_headers).status_code == 204
    assert EvalRun.objects.count() == 0


def test_a_held_run_is_not_deleted(client: Client, alice_headers: Headers, held_eval: EvalRun) -> None:
    answer = client.delete(f"{API}/evals/{held_eval.pk}", headers=alice_headers)
    assert answer.status_code == 409 and "Stop it first" in answer.json()["detail"]


def test_a_stranger_sees_and_does_nothing(
    client: Client, mallory_headers: Headers, read_only_headers: Headers, eval_run: EvalRun, benchmark_row: Benchmark
) -> None:
    run, benchmark = f"{API}/evals/{eval_run.pk}", f"{API}/benchmarks/{benchmark_row.pk}"
    for url in (run, benchmark, f"{run}/tasks", f"{run}/summary", f"{run}/stream", f"{run}/config.yaml"):
        assert client.get(url, headers=mallory_headers).status_code == 404, url
    assert client.get(f"{API}/evals", headers=mallory_headers).json()["items"] == []
    for action in ("stop", "resume", "retry-errors"):
        assert client.post(f"{run}/{action}", headers=mallory_headers).status_code == 404
    assert client.delete(benchmark, headers=mallory_headers).status_code == 404
    body = {"benchmark": benchmark_row.pk, "model": {"name": "starter"}}
    assert post(client, "/evals", body, mallory_headers).status_code == 404
    assert client.post(f"{run}/stop", headers=read_only_headers).status_code == 403
