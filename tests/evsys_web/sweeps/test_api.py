"""`/api/v1/sweeps`, and `manage.py sweep`."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command
from django.test import Client

from evsys_web.datasets.models import DatasetVersion
from evsys_web.runs.models import TrainingRun
from evsys_web.sweeps.models import Sweep
from recipes.sweep_config import SweepConfig
from tests.evsys_web.sweeps.conftest import RATE, completed, sweep_values

pytestmark = pytest.mark.django_db


def post(client: Client, headers: dict[str, str], values: Any, path: str = "", **more: str) -> Any:
    return client.post(f"/api/v1/sweeps{path}", json.dumps(values), "application/json", headers=headers | more)


def test_a_sweep_is_launched_once_and_looked_at(client: Client, alice_headers: dict[str, str], version: DatasetVersion) -> None:
    answers = [post(client, alice_headers, sweep_values(), **{"Idempotency-Key": "a"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [201, 201]
    made = answers[0].json()
    assert made == answers[1].json()
    assert made["num_runs"] == 6 and len(made["runs"]) == 6 and made["config"]["matrix"]["axes"] == {RATE: [0.01, 0.1]}
    assert TrainingRun.objects.count() == 6
    listed = client.get("/api/v1/sweeps", headers=alice_headers).json()["items"]
    assert [each["num_queued"] for each in listed] == [6]


def test_what_it_gives_as_yaml_can_be_posted_again(client: Client, alice_headers: dict[str, str], sweep: Sweep) -> None:
    text = client.get(f"/api/v1/sweeps/{sweep.pk}/config.yaml", headers=alice_headers).content
    again = client.post("/api/v1/sweeps", text, "application/yaml", headers=alice_headers)
    assert again.status_code == 201 and again.json()["config"] == sweep.config


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"matrix": {"axes": {RATE: [7]}}}, f"matrix.axes.{RATE}", "value 7"),
        ({"matrix": {"axes": {"learning_rat": [1]}}}, "matrix.axes", "did you mean algorithm.params.learning_rate"),
        ({"matrix": {}}, "matrix", "at least one axis"),
        ({"matrix": {"axes": {}, "seeds": [0], "sedes": []}}, "matrix.sedes", "no setting of this name"),
        ({"data": {"path": "/etc/passwd"}}, "data", ""),
        ({"project": "x"}, "project", "integer"),
        ({"none_such": 1}, "none_such", "no setting of this name"),
    ],
)
def test_what_is_wrong_is_a_422_at_its_field(
    client: Client, alice_headers: dict[str, str], version: DatasetVersion, changes: dict[str, Any], field: str, words: str
) -> None:
    answer = post(client, alice_headers, sweep_values() | changes)
    assert answer.status_code == 422, answer.content
    errors = answer.json()["errors"]
    assert any(each["field"].startswith(field) and words in each["message"] for each in errors), errors
    assert not TrainingRun.objects.exists()


@pytest.mark.parametrize("values", [None, [], "x", 7, {"data": None}])
def test_a_body_that_is_no_sweep_is_a_422(client: Client, alice_headers: dict[str, str], values: Any) -> None:
    assert post(client, alice_headers, values).status_code == 422


def test_results_are_means_over_seeds(client: Client, alice_headers: dict[str, str], sweep: Sweep) -> None:
    for member in sweep.members.all():
        completed(member.run, train__mean_nll=float(member.seed or 0) if member.combination else float("nan"))
    results = client.get(f"/api/v1/sweeps/{sweep.pk}/results", headers=alice_headers).json()
    assert results["metrics"] == ["train/mean_nll"]
    assert results["rows"][0]["metrics"]["train/mean_nll"] == {"n": 3, "mean": "NaN", "deviation": None}
    assert results["rows"][1]["metrics"]["train/mean_nll"] == {"n": 3, "mean": 1.0, "deviation": 1.0}
    table = client.get(f"/api/v1/sweeps/{sweep.pk}/results?format=csv", headers=alice_headers)
    assert table["Content-Type"].startswith("text/csv")


def test_estimate_starts_nothing(client: Client, alice_headers: dict[str, str], version: DatasetVersion) -> None:
    found = post(client, alice_headers, sweep_values(), "/estimate").json()
    assert (found["num_runs"], found["num_combinations"], found["num_seeds"], found["steps"]) == (6, 2, 3, 18)
    assert not TrainingRun.objects.exists()


def test_stop_resume_and_delete(client: Client, alice_headers: dict[str, str], sweep: Sweep) -> None:
    address = f"/api/v1/sweeps/{sweep.pk}"
    assert client.delete(address, headers=alice_headers).status_code == 409
    assert client.post(f"{address}/stop", headers=alice_headers).json() == {"num_runs": 6}
    assert client.post(f"{address}/stop", headers=alice_headers).status_code == 409
    assert client.post(f"{address}/resume", headers=alice_headers).json() == {"num_runs": 6}
    client.post(f"{address}/stop", headers=alice_headers)
    assert client.delete(address, headers=alice_headers).status_code == 204
    assert not TrainingRun.objects.exists()


def test_a_stranger_and_a_reader_may_not(
    client: Client, mallory_headers: dict[str, str], read_only_headers: dict[str, str], sweep: Sweep
) -> None:
    assert client.get(f"/api/v1/sweeps/{sweep.pk}/results", headers=mallory_headers).status_code == 404
    assert post(client, mallory_headers, sweep_values()).status_code == 422  # there is no such dataset, for her
    assert post(client, read_only_headers, sweep_values()).status_code == 403
    assert TrainingRun.objects.count() == 6


@pytest.mark.django_db(transaction=True)
def test_the_command_trains_a_whole_sweep_here(alice_headers: dict[str, str], version: DatasetVersion, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(SweepConfig.from_values(sweep_values(seeds=[0, 1])).to_yaml())
    out = io.StringIO()
    call_command("sweep", str(path), "--user", "alice", "--here", "--json", stdout=out)
    told = json.loads(out.getvalue())
    assert told["num_completed"] == 4
    spreads = [row["metrics"]["train/mean_nll"] for row in told["results"]["rows"]]
    assert [spread["n"] for spread in spreads] == [2, 2] and 0 < spreads[0]["mean"] < 10
    text = io.StringIO()
    call_command("sweep", str(path), "--user", "alice", "--here", stdout=text)
    assert "learning_rate  train/mean_nll" in text.getvalue() and "2 of 2" in text.getvalue()


def test_the_command_refuses_with_axis_and_value(alice_headers: dict[str, str], version: DatasetVersion, tmp_path: Path) -> None:
    path = tmp_path / "sweep.yaml"
    path.write_text(SweepConfig.from_values(sweep_values()).to_yaml().replace("0.01", "70"))
    with pytest.raises(CommandError, match="axis algorithm.params.learning_rate, value 70"):
        call_command("sweep", str(path), "--user", "alice")
    assert not TrainingRun.objects.exists()
