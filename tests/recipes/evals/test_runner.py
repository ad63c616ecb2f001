"""An eval from its config to its end: on the starter, on a server, stopped, resumed, and with input that cannot work."""

from __future__ import annotations

import gc
import json
import math
from pathlib import Path
from typing import Any

import pytest

import recipes
from recipes.errors import ConfigError
from recipes.eval_config import EvalConfig
from recipes.evals.runner import attempt_line
from recipes.rollouts import AttemptResult
from recipes.types import Task
from tests.recipes.chat_server import Answer, Behaviour, ChatServer, chat_server, completion, echo, refusal

STARTER_TASKS = Path(recipes.__file__).parent / "starter" / "rows" / "tasks_held_out.jsonl"
TASKS = [Task(f"t{i}", [{"role": "user", "content": f"{i}"}], answer=i) for i in range(6)]


def config(server: ChatServer | None = None, **changes: Any) -> EvalConfig:
    source: dict[str, Any] = {"model": {"name": "starter"}}
    if server is not None:
        source = {"endpoint": {"base_url": server.base_url, "model": "m", "max_retries": 0, "timeout_seconds": 60}}
    values = source | {
        "data": {"dataset": "tasks@1"},
        "verifier": {"kind": "numeric", "params": {"pick": "first"}},
        "attempts": 2,
        "sampling": {"max_tokens": 48, "seed": 3},
    }
    return EvalConfig.from_values(values | changes)


def rows(folder: Path) -> dict[tuple[str, int], dict[str, Any]]:
    lines = (folder / "attempts.jsonl").read_text().splitlines()
    return {(row["task_id"], row["attempt"]): row for row in map(json.loads, lines)}


def test_the_starter_is_right_about_four_times_in_ten_and_its_run_folder_tells_it_all(tmp_path: Path) -> None:
    heard: list[AttemptResult] = []
    evaluated = config(data={"path": str(STARTER_TASKS)}, max_tasks=60, attempts=4, verifier={"kind": "numeric"})
    result = recipes.evaluate(evaluated, run_dir=tmp_path, on_attempt=heard.append)
    assert (result.status, result.num_tasks, result.num_attempts, result.num_done, result.num_errors) == (
        "completed",
        60,
        240,
        240,
        0,
    )
    kept = rows(tmp_path)
    assert len(kept) == len(heard) == 240
    assert 0.2 < sum(row["is_correct"] for row in kept.values()) / 240 < 0.55
    assert EvalConfig.from_yaml((tmp_path / "config.yaml").read_text()) == evaluated


def test_the_same_call_again_samples_only_what_is_missing_and_gets_the_same_attempts(tmp_path: Path) -> None:
    evaluated = config(data={"path": str(STARTER_TASKS)}, max_tasks=5, attempts=6, verifier={"kind": "numeric"})
    recipes.evaluate(evaluated, run_dir=tmp_path)
    before = rows(tmp_path)
    path = tmp_path / "attempts.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[::2]) + lines[1][:20])  # as a killed process leaves it
    heard: list[AttemptResult] = []
    result = recipes.evaluate(evaluated, run_dir=tmp_path, on_attempt=heard.append)
    assert (result.status, result.num_done, len(heard)) == ("completed", 30, 15)
    after = rows(tmp_path)
    assert {key: row["messages"] for key, row in after.items()} == {key: row["messages"] for key, row in before.items()}
    assert recipes.evaluate(evaluated, run_dir=tmp_path, on_attempt=lambda attempt: pytest.fail("all is done")).num_done == 30


def test_a_run_folder_of_another_eval_is_refused(tmp_path: Path) -> None:
    with chat_server() as server:
        assert recipes.evaluate(config(server), tasks=TASKS, run_dir=tmp_path).status == "completed"
        more = recipes.evaluate(config(server, attempts=3), tasks=TASKS, run_dir=tmp_path)
        assert (more.status, more.num_done) == ("completed", 18)
        other = recipes.evaluate(config(server, sampling={"temperature": 0.1}), tasks=TASKS, run_dir=tmp_path)
    assert other.status == "failed"
    assert "sampling differ" in str(other.error)


@pytest.mark.fault(
    "The server that an eval asks answers 500", "Those attempts are errors with a sentence, the others count; tried again."
)
def test_errors_are_tried_again_by_the_next_call_and_nothing_else_is(tmp_path: Path) -> None:
    def fail_some(request: dict[str, Any], number: int) -> Answer:
        return refusal(500, "boom") if request["messages"][-1]["content"] in "14" and number < 6 else echo(request, number)

    with chat_server(fail_some) as server:
        first = recipes.evaluate(config(server), tasks=TASKS, run_dir=tmp_path)
        assert (first.status, first.num_done, first.num_errors) == ("completed", 8, 4)
        assert {key for key, row in rows(tmp_path).items() if row.get("error")} == {(t, a) for t in ("t1", "t4") for a in (0, 1)}
        second = recipes.evaluate(config(server), tasks=TASKS, run_dir=tmp_path)
    assert (second.status, second.num_done, second.num_errors) == ("completed", 12, 0)
    assert len(server.requests) == 8


def test_the_garbage_collector_passes_over_older_objects_for_as_long_as_an_eval_takes() -> None:
    counts: list[int] = []

    def evaluated() -> None:
        before, heard = gc.get_freeze_count(), len(counts)
        with chat_server(echo) as server:
            recipes.evaluate(config(server), tasks=TASKS, on_attempt=lambda attempt: counts.append(gc.get_freeze_count()))
        # None, or those of the caller, of which some may die meanwhile with a thread of the server before.
        assert (gc.get_freeze_count() > 1000) == (before > 1000) and len(counts) == heard + 12

    evaluated()
    gc.freeze()  # by the process that calls: stays so
    try:
        evaluated()
    finally:
        gc.unfreeze()
    assert min(counts) > 1000


def test_a_stop_ends_as_cancelled_with_what_was_done() -> None:
    heard: list[AttemptResult] = []
    many = [Task(f"t{i}", [{"role": "user", "content": "1"}], answer=1) for i in range(400)]
    with chat_server() as server:
        result = recipes.evaluate(
            config(server, concurrency=2), tasks=many, on_attempt=heard.append, should_stop=lambda: len(heard) >= 4
        )
    assert result.status == "cancelled"
    assert 4 <= result.num_done == len(heard) < 800


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (lambda request, number: refusal(401, "bad key"), "refuses the key (401: bad key). Check the credential."),
        (lambda request, number: refusal(500, "boom"), "Gave up after 20 failed attempts in a row. The last: The endpoint"),
        (lambda request, number: Answer(body=b"garbage"), "no chat completion"),
        (lambda request, number: refusal(404, "none"), "knows no model 'm'"),
    ],
)
def test_a_server_that_cannot_be_used_ends_the_run_with_a_sentence(behaviour: Behaviour, words: str) -> None:
    many = [Task(f"t{i}", [{"role": "user", "content": "1"}], answer=1) for i in range(300)]
    with chat_server(behaviour) as server:
        result = recipes.evaluate(config(server, concurrency=4), tasks=many, secrets={"api_key": "sk-7"})
        assert len(server.requests) < 60
    assert result.status == "failed"
    assert words in str(result.error)
    assert "sk-7" not in str(result.error)
    assert result.num_done == 0


@pytest.mark.parametrize(
    ("tasks", "changes", "words"),
    [
        ([], {}, "no tasks"),
        ([Task("a", [], 1), Task("a", [], 1)], {}, "Two tasks have the id 'a'"),
        ([Task("a", [], 1), Task("b", [])], {}, "cannot judge 1 of 2 tasks. The first is task 2, 'b'"),
        (None, {}, "known to the dashboard only"),
        (None, {"data": {"path": "no/such/file"}}, "no file no/such/file"),
        (TASKS, {"model": {"name": "/no/such/folder"}}, "There is no folder"),
        (TASKS, {"model": {"name": "starter", "checkpoint": "/no/such/checkpoint"}}, "holds neither an adapter nor a model"),
    ],
)
def test_input_that_cannot_work_is_a_sentence_before_anything_is_sampled(
    tasks: list[Task] | None, changes: dict[str, Any], words: str
) -> None:
    result = recipes.evaluate(config(**changes), tasks=tasks, on_attempt=lambda attempt: pytest.fail("sampled"))
    assert result.status == "failed"
    assert words in str(result.error)


def test_a_checkpoint_of_a_run_is_sampled_with_its_own_rank(tmp_path: Path) -> None:
    from tests.recipes.runs_under_test import chats
    from tests.recipes.runs_under_test import config as run_config

    trained = recipes.train(
        run_config(backend="local", lora_rank=4, max_steps=1, batch_size=2, learning_rate=1e-4),
        run_id="r",
        output_dir=tmp_path,
        rows=chats(4),
    )
    assert trained.status == "completed"
    adapter = next(path.parent for path in sorted(tmp_path.rglob("adapter_config.json")))
    result = recipes.evaluate(config(model={"name": "starter", "checkpoint": str(adapter)}), tasks=TASKS)
    assert (result.status, result.num_done) == ("completed", 12)
    assert result.error is None


def test_a_judge_scores_replies_and_its_own_failures_are_errors_of_the_attempt() -> None:
    verdicts = [
        '{"score": 0.9, "reason": "fine"}',
        "I would say good",
        '{"score": 7}',
        '```json\n{"score": 0.2, "reason": "no"}\n```',
    ]

    def judge(request: dict[str, Any], number: int) -> Answer:
        asked = request["messages"][-1]["content"]
        assert "# Reference answer" in asked
        assert "be kind" in asked
        return completion([verdicts[int(asked.split("# Reference answer\n")[1][0])]])

    heard: list[AttemptResult] = []
    with chat_server(judge) as judging, chat_server() as server:
        params = {"base_url": judging.base_url, "model": "j", "rubric": "be kind", "max_retries": 0}
        evaluated = config(server, verifier={"kind": "llm_judge", "params": params}, attempts=1)
        result = recipes.evaluate(evaluated, tasks=TASKS[:4], on_attempt=heard.append, secrets={"judge_api_key": "sk-j"})
    assert (result.status, result.num_done, result.num_errors) == ("completed", 2, 2)
    assert judging.keys == ["Bearer sk-j"] * 4
    found = {attempt.task_id: (attempt.reward, attempt.is_correct, attempt.error_kind) for attempt in heard}
    assert found == {
        "t0": (0.9, True, None),
        "t1": (None, None, "verifier"),
        "t2": (None, None, "verifier"),
        "t3": (0.2, False, None),
    }


def test_a_config_survives_yaml_and_its_mistakes_are_named() -> None:
    evaluated = config(sampling={"temperature": 0.7, "top_k": 5, "stop": ["\n\n"], "system_prompt": "Short."})
    assert EvalConfig.from_yaml(evaluated.to_yaml()) == evaluated
    for text, words in (
        ("data: {path: x}", "exactly one of model and endpoint"),
        ("model: {}\nendpoint: {base_url: 'http://x/v1', model: m}\ndata: {path: x}", "exactly one of model and endpoint"),
        ("model: {}\ndata: {path: x}\nattempts: 0", "attempts: "),
        ("model: {}\ndata: {path: x}\nsampling: {temperature: -1}", r"sampling\.temperature"),
        ("model: {}\ndata: {path: x}\nverifier: {kind: nonsense}", "There is no verifier 'nonsense'"),
        ("model: {}\ndata: {path: x}\napi_key: sk", "api_key"),
        ("- a", "no mapping"),
    ):
        with pytest.raises(ConfigError, match=words):
            EvalConfig.from_yaml(text)


@pytest.mark.parametrize(
    ("text", "info", "kept"),
    [
        ("half a pair \ud800", {"found": 2**80}, {"found": 2**80}),
        ("línea\u2028 a\nb", {"share": math.nan, "rest": 0.5}, {"share": None, "rest": 0.5}),
    ],
)
def test_a_line_holds_any_reply_and_any_number(text: str, info: dict[str, Any], kept: dict[str, Any]) -> None:
    line = attempt_line(AttemptResult("t", 0, 1.0, True, {}, info, [{"role": "assistant", "content": text}]))
    row = json.loads(line)
    assert line.endswith(b"\n") and line.count(b"\n") == 1
    assert row["messages"][0]["content"] == text and row["info"] == kept
