"""Cycles over REST: launch, read, stop, resume, delete, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from django.test import Client

from evsys_web.cycles.models import Cycle, CycleRound, Status
from evsys_web.evals.models import Benchmark
from tests.evsys_web.cycles.conftest import MakeCycle, cycle_values
from tests.evsys_web.evals.eval_runs import build_eval

pytestmark = pytest.mark.django_db
URL = "/api/v1/cycles"


@pytest.fixture(autouse=True)
def both(learn: Benchmark, judge: Benchmark) -> None:
    """What the bodies name."""


def post(client: Client, headers: dict[str, str], body: Any, **more: str) -> Any:
    return client.post(URL, body, content_type="application/json", headers=headers | more)


def test_a_launch_takes_benchmarks_by_name_and_by_id_in_json_and_yaml(
    client: Client, alice_headers: dict[str, str], judge: Benchmark
) -> None:
    made = post(client, alice_headers, cycle_values(judge={"benchmark": judge.pk}))
    assert made.status_code == 201, made.content
    found = made.json()
    assert (found["status"], found["stage"], found["num_rounds"], found["rounds"]) == ("queued", "baseline", 1, [])
    assert found["judge_id"] == judge.pk and found["config"]["judge"]["dataset"] == "judge@1"
    text = client.get(f"{URL}/{found['id']}/config.yaml", headers=alice_headers).content
    again = client.post(URL, text, content_type="application/yaml", headers=alice_headers)
    assert again.status_code == 201 and again.json()["config"] == found["config"]
    assert yaml.safe_load(text)["curation"]["filter"] == "solved"


def test_the_same_key_gives_the_same_cycle(client: Client, alice_headers: dict[str, str]) -> None:
    first, second = (post(client, alice_headers, cycle_values(), **{"Idempotency-Key": "k"}) for _ in range(2))
    assert first.json() == second.json() and Cycle.objects.count() == 1


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"rounds": 0}, "rounds"),
        ({"learn": {"benchmark": "Nowhere"}}, "learn.benchmark"),
        ({"learn": {"path": "tasks.jsonl"}}, "learn.path"),
        (
            {"learn": {"dataset": "learn", "verifier": {"kind": "numeric", "params": {"tolerance": -1}}}},
            "learn.verifier.params.tolerance",
        ),
        ({"judge": {"benchmark": "Learn"}}, "judge"),
        ({"training": {"kind": "sft", "params": {"learning_rate": 9}}}, "training.params.learning_rate"),
        ({"training": {"kind": "sft", "params": {"no_such": 9}}}, "training.params.no_such"),
        ({"training": {"kind": "none"}}, "training"),
        ({"curation": {"filter": "avg >"}}, "curation.filter"),
        ({"no_such": 1}, "no_such"),
    ],
)
def test_a_refusal_names_the_field(client: Client, alice_headers: dict[str, str], values: dict[str, Any], field: str) -> None:
    refused = post(client, alice_headers, cycle_values(**values))
    assert refused.status_code == 422, refused.content
    assert [error["field"] for error in refused.json()["errors"]] == [field], refused.json()
    assert Cycle.objects.count() == 0


def test_a_cycle_shows_its_rounds_and_how_they_compare(client: Client, alice_headers: dict[str, str], cycle: Cycle) -> None:
    owner = cycle.created_by
    cycle.baseline = build_eval(cycle.project, owner, {"a": [False, False], "b": [True, False]})
    cycle.save()
    judged = build_eval(cycle.project, owner, {"a": [True, True], "b": [True, True]})
    numbers = {"difference": {"value": 0.75, "low": 0.1, "high": 1.0, "stderr": 0.25}, "num_common": 2, "num_newly_solved": 1}
    finding = {"baseline": numbers | {"num_newly_broken": 0, "minimum_detectable_effect": 0.4}, "reference_round": 0}
    CycleRound.objects.create(cycle=cycle, number=1, judged=judged, finding=finding, gained=True)
    found = client.get(f"{URL}/{cycle.pk}", headers=alice_headers).json()
    assert found["baseline_avg"]["value"] == 0.25 and found["rounds"][0]["avg"]["value"] == 1.0
    assert found["rounds"][0]["finding"] == finding and found["rounds"][0]["gained"] is True
    assert found["answer"].startswith("Better after round 1: +75.0 points, 95 % interval +10.0 to +100.0, 1 newly solved")


def test_stop_resume_delete_and_events(client: Client, alice_headers: dict[str, str], cycle: Cycle) -> None:
    stopped = client.post(f"{URL}/{cycle.pk}/stop", headers=alice_headers)
    assert stopped.json()["status"] == "cancelled"
    assert client.post(f"{URL}/{cycle.pk}/stop", headers=alice_headers).status_code == 409
    assert client.post(f"{URL}/{cycle.pk}/resume", headers=alice_headers).json()["status"] == "queued"
    events = client.get(f"{URL}/{cycle.pk}/events", headers=alice_headers).json()["items"]
    assert [event["message"] for event in events] == ["Resume asked by alice.", "Stop asked by alice."]
    assert client.delete(f"{URL}/{cycle.pk}", headers=alice_headers).status_code == 204
    assert client.get(f"{URL}/{cycle.pk}", headers=alice_headers).status_code == 404


def test_lists_are_of_the_state_and_the_project_asked_for(
    client: Client, alice_headers: dict[str, str], mallory_headers: dict[str, str], make_cycle: MakeCycle
) -> None:
    first, second = make_cycle(name="one"), make_cycle(name="two")
    assert second.request_stop()
    listed = client.get(URL, headers=alice_headers).json()["items"]
    assert [item["name"] for item in listed] == ["two", "one"]
    queued = client.get(URL, {"status": Status.QUEUED, "project": first.project_id}, headers=alice_headers).json()["items"]
    assert [item["id"] for item in queued] == [first.pk]
    assert client.get(URL, headers=mallory_headers).json()["items"] == []
