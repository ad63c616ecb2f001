"""What a launch refuses, and where it puts what it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.core.exceptions import PermissionDenied

from evsys_web.accounts.models import Project, User
from evsys_web.cycles.actions import launch_cycle
from evsys_web.cycles.models import Cycle, Status
from evsys_web.datasets.models import DatasetVersion
from evsys_web.evals.models import Benchmark
from recipes.cycle_config import CycleConfig
from recipes.errors import ConfigError
from tests.evsys_web.cycles.conftest import VERIFIER, MakeCycle, cycle_values, task_rows

pytestmark = pytest.mark.django_db

Tasks = Callable[..., DatasetVersion]


def test_a_launch_keeps_tasks_and_verifiers_spelled_out(make_cycle: MakeCycle, learn: Benchmark, judge: Benchmark) -> None:
    cycle = make_cycle()
    assert (cycle.status, cycle.learn, cycle.judge) == (Status.QUEUED, learn, judge)
    assert cycle.config["learn"]["dataset"] == "learn@1" and cycle.config["learn"]["benchmark"] is None
    assert cycle.config["judge"]["verifier"]["kind"] == "contains"
    assert CycleConfig.from_yaml(cycle.load_config().to_yaml()) == cycle.load_config()


def test_named_tasks_find_the_benchmark_that_has_them_or_make_one(
    make_cycle: MakeCycle, learn: Benchmark, make_tasks: Tasks
) -> None:
    make_tasks("others")
    cycle = make_cycle(
        learn={"dataset": "learn", "verifier": VERIFIER}, judge={"dataset": "others@1", "verifier": VERIFIER, "max_tasks": 2}
    )
    assert cycle.learn == learn
    assert cycle.judge.dataset_reference == "others@1" and cycle.load_config().judge.max_tasks == 2


def test_the_same_key_makes_one_cycle(alice: User, project: Project, learn: Benchmark, judge: Benchmark) -> None:
    config = CycleConfig.from_values(cycle_values())
    made = [launch_cycle(user=alice, project=project, config=config, idempotency_key="k") for _ in range(2)]
    assert made[0] == made[1] and Cycle.objects.count() == 1


def refusal(make_cycle: MakeCycle, **values: Any) -> tuple[str, tuple[str | int, ...]]:
    with pytest.raises(ConfigError) as refused:
        make_cycle(**values)
    assert not Cycle.objects.exists()
    return str(refused.value), refused.value.path


def test_a_benchmark_cannot_judge_what_was_learned_from_it(make_cycle: MakeCycle) -> None:
    sentence, path = refusal(make_cycle, judge={"benchmark": "Learn"})
    assert "6 tasks stand on both sides" in sentence and "'learn-0'" in sentence and path == ("judge",)


def test_a_prompt_on_both_sides_is_found_whatever_its_id_case_and_spaces(make_cycle: MakeCycle, make_tasks: Tasks) -> None:
    rows = task_rows("other")
    rows[3]["messages"][0]["content"] = " LEARN \n 2"
    make_tasks("leaky", rows)
    sentence, path = refusal(make_cycle, judge={"dataset": "leaky", "verifier": VERIFIER})
    assert "1 task stands on both sides" in sentence and "'other-3'" in sentence and path == ("judge",)


def test_ids_mean_the_same_task_within_a_dataset_only(make_cycle: MakeCycle, make_tasks: Tasks) -> None:
    counted = [row | {"task_id": str(number)} for number, row in enumerate(task_rows("counted"))]
    make_tasks("counted", counted)
    reworded = [row | {"messages": [{"role": "user", "content": f"Again {row['task_id']}"}]} for row in counted]
    make_tasks("counted", reworded)
    make_tasks("also-counted", [row | {"task_id": str(number)} for number, row in enumerate(task_rows("also"))])
    first = {"dataset": "counted@1", "verifier": VERIFIER}
    sentence, _ = refusal(make_cycle, learn=first, judge={"dataset": "counted@2", "verifier": VERIFIER})
    assert "6 tasks stand on both sides" in sentence
    assert make_cycle(learn=first, judge={"dataset": "also-counted", "verifier": VERIFIER}).pk


def test_only_the_tasks_that_are_used_count(make_cycle: MakeCycle, make_tasks: Tasks) -> None:
    make_tasks("mixed", [*task_rows("mixed", 2), *task_rows("learn", 2)])
    judge = {"dataset": "mixed", "verifier": VERIFIER}
    assert "2 tasks stand" in refusal(make_cycle, judge=judge)[0]
    assert make_cycle(judge={**judge, "max_tasks": 2}).pk


def test_what_cannot_be_meant_is_refused_at_its_field(make_cycle: MakeCycle, make_tasks: Tasks) -> None:
    chats = [{"messages": [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]}]
    make_tasks("chats", chats)
    cases: list[tuple[dict[str, Any], str, tuple[str, ...]]] = [
        ({"learn": {"benchmark": "Nowhere"}}, "no benchmark 'Nowhere'", ("learn", "benchmark")),
        ({"judge": {"dataset": "gone@3"}}, "no dataset version 'gone@3'", ("judge", "dataset")),
        ({"judge": {"dataset": "chats"}}, "An eval needs tasks", ("judge", "dataset")),
        ({"learn": {"path": "tasks.jsonl"}}, "read by the command alone", ("learn", "path")),
        ({"curation": {"val_fraction": 0.01}}, "leaves the validation split empty", ("curation", "val_fraction")),
        ({"model": {"name": "no/such/folder/"}}, "no/such/folder", ("model", "name")),
    ]
    for values, words, path in cases:
        sentence, found = refusal(make_cycle, **values)
        assert words in sentence and found == path, (sentence, found)


def test_a_stranger_may_not_launch_in_the_project(mallory: User, project: Project, learn: Benchmark, judge: Benchmark) -> None:
    with pytest.raises(PermissionDenied):
        launch_cycle(user=mallory, project=project, config=CycleConfig.from_values(cycle_values()))
