from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest

from recipes.errors import DataError
from recipes.evals import import_rllm
from recipes.evals.imports import ImportFormat, check, read_attempts, recognise, scan
from recipes.rollouts import AttemptResult

CHAT = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!", "reasoning_content": "hm"}]


def episode(task: str, rollout: int, **more: Any) -> dict[str, Any]:
    steps = [{"chat_completions": CHAT[:1]}, {"chat_completions": CHAT}]
    return {
        "id": f"{task}:{rollout}",
        "task": {"question": "?", "answer": "42"},
        "termination_reason": "env_done",
        "is_correct": rollout == 0,
        "trajectories": [{"name": "solver", "steps": steps, "reward": float(rollout == 0), "signals": {"steps": 2}}],
    } | more


def item(idx: int, attempt: int, **more: Any) -> dict[str, Any]:
    right = attempt == 0
    return {
        "idx": idx,
        "attempt": attempt,
        "reward": float(right),
        "is_correct": right,
        "error": None,
        "signals": {"steps": 2},
    } | more


def run(folder: Path, tasks: list[str], k: int, *, suffixed: bool, items: list[Any] | None = None) -> Path:
    """A run as `rllm eval` leaves it. suffixed: episode files are named <task>_<rollout>, as its writer really does."""
    (folder / "episodes").mkdir(parents=True)
    made = [item(idx, attempt) for idx in range(len(tasks)) for attempt in range(k)] if items is None else items
    (folder / "results.json").write_text(json.dumps({"model": "qwen", "attempts": k, "items": made}))
    (folder / "meta.json").write_text(json.dumps({"model": "qwen", "attempts": k}))
    for idx, task in enumerate(tasks):
        for attempt in range(k):
            name = "".join(c if c.isalnum() or c in "-_." else "_" for c in task) + (f"_{attempt}" if suffixed else "")
            path = folder / "episodes" / f"episode_{idx * k + attempt:06d}_{name}.json"
            path.write_text(json.dumps(episode(task, attempt) | {"eval_idx": idx * k + attempt}))
    return folder


def results(path: Path) -> list[AttemptResult]:
    return [found.result for found in read_attempts(recognise(path))]


def refusals(path: Path) -> list[str]:
    return [str(found.attempt) for found in scan(recognise(path)) if isinstance(found.attempt, DataError)]


def packed(folder: Path, root: str) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*.json")):
            archive.write(file, root + file.relative_to(folder).as_posix())
    return path


@pytest.mark.parametrize("suffixed", [True, False])
@pytest.mark.parametrize("root", [None, "", "deep/run/"])
def test_attempts_are_grouped_by_the_id_in_the_body_in_both_layouts_and_from_a_zip(
    tmp_path: Path, suffixed: bool, root: str | None
) -> None:
    path = run(tmp_path / "run", ["a/b", "a_b", "x:y"], 3, suffixed=suffixed)
    path = path if root is None else packed(path, root)
    assert recognise(path).format is ImportFormat.RLLM
    found = results(path)
    assert [(r.task_id, r.attempt, r.is_correct) for r in found] == [
        (task, attempt, attempt == 0) for task in ("a/b", "a_b", "x:y") for attempt in range(3)
    ]
    assert found[0].messages == [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!", "reasoning": "hm"}]
    assert found[0].signals == {"steps": 2.0} and found[0].stop_reason == "env_done"
    report = check(recognise(path))
    assert (report.num_tasks, report.attempts_per_task, report.models) == (3, 3, {"qwen": 9})


def test_an_attempt_without_an_episode_stays_with_its_task(tmp_path: Path) -> None:
    path = run(tmp_path / "run", ["a", "b"], 2, suffixed=True)
    for number in (0, 2, 3):
        next((path / "episodes").glob(f"episode_{number:06d}_*")).unlink()
    found = results(path)
    assert sorted((r.task_id, r.attempt) for r in found) == [("a", 0), ("a", 1), ("task-1", 0), ("task-1", 1)]


def test_a_run_that_was_cut_off_is_read_from_its_episodes(tmp_path: Path) -> None:
    path = run(tmp_path / "run", ["a", "b"], 2, suffixed=True)
    (path / "results.json").unlink()
    assert [(r.task_id, r.attempt, r.reward) for r in results(path)] == [
        ("a", 0, 1.0),
        ("a", 1, 0.0),
        ("b", 0, 1.0),
        ("b", 1, 0.0),
    ]


def test_errors_of_infrastructure_are_no_wrong_answers(tmp_path: Path) -> None:
    items = [
        item(0, 0, is_correct=False, error="sandbox died"),
        item(0, 1, termination_reason="timeout"),
        item(0, 2, is_correct=False),
    ]
    first, second, third = results(run(tmp_path / "run", ["a"], 3, suffixed=True, items=items))
    assert (first.error, first.is_correct) == ("sandbox died", None)
    assert (second.error, second.error_kind) == ("ended with timeout", "timeout")
    assert third.error is None and third.is_correct is False


def test_a_trajectory_can_be_taken_by_its_name_and_the_verdict_stays_the_attempts(tmp_path: Path) -> None:
    path = run(tmp_path / "run", ["a", "b"], 1, suffixed=True)
    said = [CHAT[0], {"role": "assistant", "content": "Right."}]
    judge = {"name": "judge", "steps": [{"chat_completions": said}], "reward": 0.2}
    body = episode("a", 0)
    (path / "episodes" / "episode_000000_a_0.json").write_text(
        json.dumps(body | {"trajectories": [*body["trajectories"], judge, judge | {"steps": []}]})
    )
    source = recognise(path)
    named = {name: [each.result for each in read_attempts(source._replace(trajectory=name))] for name in ("", "solver", "judge")}
    assert [result.messages[-1]["content"] for result in named["solver"]] == ["!", "!"]
    first, second = named["judge"]
    assert (first.messages[-1]["content"], first.reward, first.is_correct) == ("Right.", 1.0, True)
    assert (second.messages, second.is_correct) == ([], True)
    assert [r.messages for r in named[""]] == [r.messages for r in named["solver"]]
    assert check(source).passed_over == {import_rllm.OTHERS: 2} and not check(source._replace(trajectory="judge")).passed_over
    with pytest.raises(DataError, match="no 'critic' in any episode.*one of those there are: 'solver', 'judge'"):
        check(source._replace(trajectory="critic"))


def test_compact_episodes_are_unfolded(tmp_path: Path) -> None:
    path = run(tmp_path / "run", ["a"], 1, suffixed=True)
    nodes = {"n1": {"p": None, "m": CHAT[0]}, "n2": {"p": "n1", "m": CHAT[1]}}
    steps = [{"chat_completions": {"messages_ref": ["n2", 2]}}]
    body = episode("a", 0, trajectories=[{"steps": steps, "message_nodes": nodes, "reward": 1.0}])
    file = next((path / "episodes").glob("*.json"))
    file.write_text(json.dumps(body))
    assert [m["role"] for m in results(path)[0].messages] == ["user", "assistant"]
    nodes["n1"]["p"] = "n2"
    file.write_text(json.dumps(body))
    assert "3 messages in a chain of 2" in refusals(path)[0]


@pytest.mark.parametrize(
    ("items", "reason"),
    [
        ([item(0, 0), 7], "Item 2: found 7"),
        ([item(0, 0), {"idx": 1}], "Item 2, is_correct"),
        ([item(0, 0), item(-1, 0)], "Item 2, idx"),
        ([item(0, 0), item(0, 0)], "a second time"),
        ([item(0, 0), item(0, 1, reward=None, is_correct="so")], "expected true or false"),
    ],
)
def test_bad_items_are_refused_by_number(tmp_path: Path, items: list[Any], reason: str) -> None:
    (sentence,) = refusals(run(tmp_path / "run", ["a"], 2, suffixed=True, items=items))
    assert reason in sentence


def test_two_files_of_one_number_and_a_broken_episode_are_refused(tmp_path: Path) -> None:
    path = run(tmp_path / "run", ["a", "b"], 1, suffixed=True)
    (path / "episodes" / "episode_000000_stale.json").write_text("{}")
    next((path / "episodes").glob("episode_000001_*")).write_text('{"id": "b:0", ')
    first, second = refusals(path)
    assert "2 files of number 0" in first and "broken JSON" in second


def test_an_episode_that_is_too_large_is_refused_before_it_is_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = run(tmp_path / "run", ["a"], 1, suffixed=True)
    monkeypatch.setattr(import_rllm, "MAX_EPISODE_BYTES", 100)
    assert "a file that is too large" in refusals(path)[0]
    assert "a file that is too large" in refusals(packed(path, ""))[0]


@pytest.mark.parametrize("text", ["[]", "{", '{"items": 3}', '{"items": [], "attempts": "two"}'])
def test_broken_results_are_a_sentence(tmp_path: Path, text: str) -> None:
    path = run(tmp_path / "run", ["a"], 1, suffixed=True)
    (path / "results.json").write_text(text)
    with pytest.raises(DataError):
        results(path)


def test_a_folder_without_a_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"neither results\.json nor episodes"):
        results(tmp_path)
