"""The runs' API: every operation, what it refuses, and that a stranger finds nothing."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.test import Client

from evsys_web.accounts.models import Project, User
from evsys_web.datasets.actions import import_dataset
from evsys_web.datasets.models import DatasetVersion
from evsys_web.runs import metrics
from evsys_web.runs.models import Checkpoint, Status, TrainingRun
from recipes.registry import backends
from tests.evsys_web.runs.conftest import MakeRun, mock_config

Headers = dict[str, str]
BODY = {
    "name": "by script",
    "data": {"dataset": "sums"},
    "algorithm": {"kind": "mock_sft", "params": {"learning_rate": 0.002}},
    "backend": {"kind": "mock"},
}


def post(client: Client, path: str, body: Any, headers: Headers) -> Any:
    return client.post(f"/api/v1/runs{path}", json.dumps(body), content_type="application/json", headers=headers)


def content(response: Any) -> bytes:
    async def collect() -> bytes:
        return b"".join([chunk async for chunk in response])

    collected: bytes = async_to_sync(collect)()
    return collected


@pytest.fixture
def saved(run: TrainingRun) -> Checkpoint:
    folder = run.output_dir / "checkpoints" / "final" / "weights"
    (folder / "nested").mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(b"weights" * 100_000)
    (folder / "nested" / "adapter_config.json").write_text("{}")
    (run.output_dir / "secret.txt").write_text("secret")
    (folder / "link").symlink_to(run.output_dir / "secret.txt")
    return Checkpoint.objects.create(run=run, name="final", step=9, sampler_uri=str(folder))


def test_preferences_are_learnt_from_pairs_and_from_nothing_else(
    client: Client, alice: User, project: Project, alice_headers: Headers, version: DatasetVersion, tmp_path: Path
) -> None:
    path = tmp_path / "pairs.jsonl"
    path.write_text('{"prompt": "1 + 1?", "chosen": "2", "rejected": "3"}\n')
    import_dataset(user=alice, project=project, name="pairs", path=path)
    body = BODY | {"algorithm": {"kind": "dpo", "params": {"beta": 0.2}}}
    refused = post(client, "", body, alice_headers)
    assert refused.status_code == 422 and b"dpo learns from preference rows, and sums@1 holds messages rows" in refused.content
    made = post(client, "", body | {"data": {"dataset": "pairs"}}, alice_headers)
    assert made.status_code == 201, made.content
    assert TrainingRun.objects.get().dataset_reference == "pairs@1"


def test_a_backend_without_likeliest_tokens_is_refused_to_a_teacher(
    client: Client, alice_headers: Headers, version: DatasetVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends.get("mock"), "gives_topk_prompt_logprobs", False)
    body = BODY | {"algorithm": {"kind": "sdft", "params": {}}, "backend": {"kind": "mock", "params": {}}}
    refused = post(client, "", body, alice_headers)
    assert refused.status_code == 422 and b"which the backend mock does not tell" in refused.content
    assert not TrainingRun.objects.exists()


def test_a_run_is_launched_and_found_again(client: Client, alice_headers: Headers, version: DatasetVersion) -> None:
    made = post(client, "", BODY, alice_headers)
    assert made.status_code == 201, made.content
    found = client.get(f"/api/v1/runs/{made.json()['id']}", headers=alice_headers).json()
    assert found["status"] == "queued" and found["dataset"] == "sums@1" and found["metrics"] == {}
    assert found["config"]["algorithm"] == {"kind": "mock_sft", "params": {"learning_rate": 0.002}}


def test_the_yaml_of_a_run_launches_the_same_run_again(client: Client, alice_headers: Headers, version: DatasetVersion) -> None:
    first = post(client, "", BODY, alice_headers).json()
    text = client.get(f"/api/v1/runs/{first['id']}/config.yaml", headers=alice_headers).content
    second = client.post("/api/v1/runs", text, content_type="application/yaml", headers=alice_headers)
    assert second.status_code == 201, second.content
    assert second.json()["config"] == first["config"] and second.json()["id"] != first["id"]


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"algorithm": {"kind": "mock_sft", "params": {"learning_rate": 2}}}, "algorithm.params.learning_rate"),
        ({"algorithm": {"kind": "mock_sft", "params": {"learning_rate": "NaN"}}}, "algorithm.params.learning_rate"),
        ({"algorithm": {"kind": "mock_sft", "params": {"learnig_rate": 1}}}, "algorithm.params.learnig_rate"),
        ({"algorithm": {"kind": "astrology"}}, "algorithm"),
        ({"data": {"path": "/etc/passwd"}}, "data.dataset"),
        ({"data": {"dataset": "sums", "path": "/etc/passwd"}}, "data.path"),
        ({"data": {"dataset": "sums@7"}}, "data.dataset"),
        ({"surprise": 1}, "surprise"),
    ],
)
def test_a_wrong_setting_is_refused_at_its_place(
    client: Client, alice_headers: Headers, version: DatasetVersion, change: dict[str, Any], field: str
) -> None:
    answer = post(client, "", BODY | change, alice_headers)
    assert answer.status_code == 422, answer.content
    assert field in [error["field"] for error in answer.json()["errors"]]
    assert not TrainingRun.objects.exists()


def test_several_mistakes_are_told_at_once(client: Client, alice_headers: Headers, version: DatasetVersion) -> None:
    wrong = {"algorithm": {"kind": "mock_sft", "params": {"learning_rate": 2, "batch_size": 0}}, "name": ""}
    answer = post(client, "", BODY | wrong, alice_headers).json()
    assert {error["field"] for error in answer["errors"]} == {
        "algorithm.params.learning_rate",
        "algorithm.params.batch_size",
        "name",
    }


@pytest.mark.parametrize(
    ("text", "content_type", "sentence"),
    [
        ("{", "application/json", "cannot be read"),
        ("a: [", "application/yaml", "not YAML in line 1"),
        ("a: &x [1]\nb: *x", "application/yaml", "aliases are not allowed"),
        ("- 1", "application/yaml", ""),
        ("\xff", "application/json", ""),
        ('{"name": "\\u0000"}', "application/json", "NUL"),
        ("name: 2026-01-01", "application/yaml", ""),
    ],
)
def test_a_body_that_is_no_config_is_refused(
    client: Client, alice_headers: Headers, text: str, content_type: str, sentence: str
) -> None:
    answer = client.post("/api/v1/runs", text.encode("latin-1"), content_type=content_type, headers=alice_headers)
    assert answer.status_code == 422 and sentence in answer.json()["detail"]


def test_a_backslash_before_u0000_is_no_nul(client: Client, alice_headers: Headers, version: DatasetVersion) -> None:
    made = post(client, "", BODY | {"name": r"C:\u0000"}, alice_headers)
    assert made.status_code == 201 and made.json()["name"] == r"C:\u0000"
    announced = post(client, "/external", {"name": "elsewhere", "config": {"path": r"C:\u0000"}}, alice_headers)
    assert announced.status_code == 201
    assert post(client, "/external", {"name": "elsewhere", "config": {"path": "\\\0"}}, alice_headers).status_code == 422


def test_the_same_key_launches_one_run(client: Client, alice_headers: Headers, version: DatasetVersion) -> None:
    keyed = alice_headers | {"Idempotency-Key": "once"}
    assert post(client, "", BODY, keyed).json() == post(client, "", BODY, keyed).json()
    assert TrainingRun.objects.count() == 1


def test_runs_are_listed_newest_first_page_by_page_and_by_status(
    client: Client, alice_headers: Headers, make_run: MakeRun
) -> None:
    runs = [make_run(name=str(number)) for number in range(5)]
    make_run(status=Status.FAILED)
    page = client.get("/api/v1/runs?limit=3&status=queued", headers=alice_headers).json()
    rest = client.get(f"/api/v1/runs?limit=3&status=queued&cursor={page['next_cursor']}", headers=alice_headers).json()
    assert [item["id"] for item in page["items"] + rest["items"]] == [run.pk for run in reversed(runs)]
    assert rest["next_cursor"] is None


@pytest.mark.parametrize("project", [0, -1, 10**40, "sums"])
def test_a_project_that_cannot_be_is_refused(client: Client, alice_headers: Headers, project: Any) -> None:
    assert client.get("/api/v1/runs", {"project": project}, headers=alice_headers).status_code == 422


def test_a_run_is_stopped_resumed_and_deleted(client: Client, alice_headers: Headers, version: DatasetVersion) -> None:
    made = post(client, "", BODY, alice_headers).json()["id"]
    assert post(client, f"/{made}/stop", None, alice_headers).json()["status"] == "cancelled"
    again = post(client, f"/{made}/stop", None, alice_headers)
    assert again.status_code == 409 and "cancelled" in again.json()["detail"]
    assert post(client, f"/{made}/resume", None, alice_headers).json()["status"] == "queued"
    assert client.delete(f"/api/v1/runs/{made}", headers=alice_headers).status_code == 204
    assert client.get(f"/api/v1/runs/{made}", headers=alice_headers).status_code == 404


def test_a_clone_changes_only_what_it_is_told_to(client: Client, alice_headers: Headers, version: DatasetVersion) -> None:
    first = post(client, "", BODY, alice_headers).json()
    change = {"name": "faster", "algorithm": {"params": {"learning_rate": 0.01}}}
    clone = post(client, f"/{first['id']}/clone", change, alice_headers).json()
    assert clone["cloned_from_id"] == first["id"] and clone["name"] == "faster"
    assert clone["config"]["algorithm"] == {"kind": "mock_sft", "params": {"learning_rate": 0.01}}
    wrong = post(client, f"/{first['id']}/clone", {"algorithm": {"params": {"learning_rate": 9}}}, alice_headers)
    assert wrong.json()["errors"][0]["field"] == "algorithm.params.learning_rate"


def test_curves_come_as_json_and_every_point_as_csv(client: Client, alice_headers: Headers, run: TrainingRun) -> None:
    for step in range(1, 8):
        metrics.append(run, step, {"train/mean_nll": float("nan") if step == 3 else step, "=cmd": 1.0})
    metrics.append(run, 7, {"eval/validation_nll": 0.5})
    found = client.get(f"/api/v1/runs/{run.pk}/metrics?key=train/mean_nll&points=3&start=2&stop=7", headers=alice_headers).json()
    assert found["last_seq"] == 8 and list(found["series"]) == ["train/mean_nll"]
    assert found["series"]["train/mean_nll"]["count"] == 6
    assert found["series"]["train/mean_nll"]["non_finite"] == [{"x": 3.0, "value": "NaN"}]
    everything = client.get(f"/api/v1/runs/{run.pk}/metrics", headers=alice_headers).json()
    assert set(everything["series"]) == {"train/mean_nll", "=cmd", "eval/validation_nll"}
    table = client.get(f"/api/v1/runs/{run.pk}/metrics?format=csv", headers=alice_headers)
    rows = list(csv.DictReader(io.StringIO(content(table).decode())))
    assert len(rows) == 8 and rows[2]["train/mean_nll"] == "nan" and rows[7]["eval/validation_nll"] == "0.5"
    assert "'=cmd" in rows[0] and "attachment" in table["Content-Disposition"]
    assert client.get(f"/api/v1/runs/{run.pk}", headers=alice_headers).json()["metrics"]["train/mean_nll"] == 7.0


def test_a_checkpoint_is_downloaded_whole_or_file_by_file(client: Client, alice_headers: Headers, saved: Checkpoint) -> None:
    path = f"/api/v1/runs/{saved.run_id}/checkpoints"
    listed = client.get(path, headers=alice_headers).json()["items"]
    assert listed[0]["files"] == ["adapter_model.safetensors", "nested/adapter_config.json"]
    whole = client.get(f"{path}/{saved.pk}/download", headers=alice_headers)
    archive = zipfile.ZipFile(io.BytesIO(content(whole)))
    assert archive.testzip() is None and archive.namelist() == listed[0]["files"]
    assert archive.read("adapter_model.safetensors") == b"weights" * 100_000
    one = client.get(f"{path}/{saved.pk}/download?file=adapter_model.safetensors", headers=alice_headers)
    assert content(one) == b"weights" * 100_000 and one["Content-Disposition"].startswith("attachment")


@pytest.mark.parametrize("file", ["../../../secret.txt", "link", "/etc/passwd", "nested", "nothing"])
def test_only_files_of_the_checkpoint_are_sent(client: Client, alice_headers: Headers, saved: Checkpoint, file: str) -> None:
    path = f"/api/v1/runs/{saved.run_id}/checkpoints/{saved.pk}/download"
    assert client.get(path, {"file": file}, headers=alice_headers).status_code == 404


@pytest.mark.parametrize("uri", ["/etc", "../other", "tinker://run/weights/final", ""])
def test_weights_outside_the_runs_folder_are_not_sent(
    client: Client, alice_headers: Headers, saved: Checkpoint, uri: str
) -> None:
    Checkpoint.objects.update(sampler_uri=uri)
    path = f"/api/v1/runs/{saved.run_id}/checkpoints"
    answer = client.get(f"{path}/{saved.pk}/download", headers=alice_headers)
    assert answer.status_code == 409 and "not on this server" in answer.json()["detail"]
    assert client.get(path, headers=alice_headers).json()["items"][0]["files"] == []


def test_a_run_trained_elsewhere_reports_its_points_and_its_end(
    client: Client, alice_headers: Headers, alice: User, project: Project
) -> None:
    made = post(client, "/external", {"name": "cluster", "num_steps": 4, "config": {"note": "A100"}}, alice_headers).json()
    assert made["is_external"] and made["status"] == "running"
    points: list[dict[str, Any]] = [{"step": step, "values": {"train/mean_nll": 1 / step}} for step in (1, 2)]
    points.append({"step": 2, "values": {"train/mean_nll": 9.0, "optim/lr": "NaN"}, "at": "2026-01-01T00:00:00Z"})
    first = post(client, f"/{made['id']}/log-batch", points, alice_headers)
    assert first.json() == {"accepted": 3, "repeated": 1, "last_seq": 3}
    second = post(client, f"/{made['id']}/log-batch", points, alice_headers)
    assert second.json() == {"accepted": 0, "repeated": 4, "last_seq": 3}
    run = TrainingRun.objects.get(pk=made["id"])
    assert metrics.series(run, ["train/mean_nll"])["train/mean_nll"].y_last.tolist() == [1.0, 0.5] and run.step == 2
    assert post(client, f"/{made['id']}/stop", None, alice_headers).status_code == 409
    assert (
        post(client, f"/{made['id']}/finish", {"status": "failed", "error": "NaN."}, alice_headers).json()["status"] == "failed"
    )
    refused = post(client, f"/{made['id']}/resume", None, alice_headers)
    assert refused.status_code == 409 and "trained elsewhere" in refused.json()["detail"]
    assert post(client, f"/{made['id']}/log-batch", points, alice_headers).status_code == 409


@pytest.mark.parametrize(
    "points", [[{"step": -1, "values": {"a": 1}}], [{"step": 1, "values": {}}], [{"step": 1, "values": {":a": 1}}]]
)
def test_points_that_cannot_be_stored_are_refused(
    client: Client, alice_headers: Headers, make_run: MakeRun, points: list[Any]
) -> None:
    run = make_run(is_external=True, status=Status.RUNNING)
    assert post(client, f"/{run.pk}/log-batch", points, alice_headers).status_code == 422
    assert metrics.keys(run) == []


def test_a_run_that_is_trained_here_takes_no_points(client: Client, alice_headers: Headers, run: TrainingRun) -> None:
    answer = post(client, f"/{run.pk}/log-batch", [{"step": 1, "values": {"a": 1}}], alice_headers)
    assert answer.status_code == 409 and "trained here" in answer.json()["detail"]


OPERATIONS = [
    ("get", ""),
    ("delete", ""),
    ("post", "/stop"),
    ("post", "/resume"),
    ("post", "/clone"),
    ("get", "/config.yaml"),
    ("get", "/metrics"),
    ("get", "/metrics?format=csv"),
    ("get", "/metrics/stream"),
    ("get", "/rollouts"),
    ("get", "/events"),
    ("get", "/checkpoints"),
    ("get", "/checkpoints/{checkpoint}/download"),
    ("post", "/log-batch"),
    ("post", "/finish"),
]


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
def test_a_stranger_finds_nothing_and_changes_nothing(
    client: Client, alice_headers: Headers, mallory_headers: Headers, saved: Checkpoint, method: str, path: str
) -> None:
    url = f"/api/v1/runs/{saved.run_id}{path.format(checkpoint=saved.pk)}"
    body = json.dumps([{"step": 1, "values": {"a": 1}}] if path == "/log-batch" else {})
    for headers, status in ((mallory_headers, 404), ({}, 401)):
        sent = {"data": body, "content_type": "application/json"} if method == "post" else {}
        answer = getattr(client, method)(url, headers=headers, **sent)
        assert answer.status_code == status, (url, answer.content)
    run = TrainingRun.objects.get(pk=saved.run_id)
    assert run.status == Status.QUEUED and run.last_seq == 0


def test_every_operation_on_a_run_is_in_the_strangers_list(client: Client) -> None:
    paths = client.get("/api/openapi.json").json()["paths"]
    of_one_run = {
        (method, path.removeprefix("/api/v1/runs/{run_id}").replace("{checkpoint_id}", "{checkpoint}"))
        for path, operations in paths.items()
        for method in operations
        if path.startswith("/api/v1/runs/{run_id}")
    }
    assert of_one_run == {(method, path.partition("?")[0]) for method, path in OPERATIONS}


def test_a_stranger_sees_no_run_and_launches_none_on_rows_of_others(
    client: Client, mallory_headers: Headers, project: Project, version: DatasetVersion, run: TrainingRun
) -> None:
    assert client.get("/api/v1/runs", headers=mallory_headers).json()["items"] == []
    assert post(client, "", BODY, mallory_headers).status_code == 422
    assert post(client, "", BODY | {"project": project.pk}, mallory_headers).status_code == 404
    assert post(client, "/external", {"name": "x", "project": project.pk}, mallory_headers).status_code == 404


def test_a_token_that_may_only_read_changes_nothing(
    client: Client, read_only_headers: Headers, run: TrainingRun, version: DatasetVersion
) -> None:
    assert post(client, "", BODY, read_only_headers).status_code == 403
    assert post(client, f"/{run.pk}/stop", None, read_only_headers).status_code == 403
    assert client.get(f"/api/v1/runs/{run.pk}", headers=read_only_headers).status_code == 200


def test_the_openapi_says_the_bounds_of_every_knob(client: Client) -> None:
    whole = client.get("/api/openapi.json").json()

    def at(schema: dict[str, Any]) -> dict[str, Any]:
        reference = schema.get("$ref") or schema["allOf"][0]["$ref"]
        return whole["components"]["schemas"][reference.rpartition("/")[2]]

    body = whole["paths"]["/api/v1/runs"]["post"]["requestBody"]["content"]["application/json"]
    choices = [at(choice)["properties"] for choice in at(body["schema"])["properties"]["algorithm"]["oneOf"]]
    kinds = {choice["kind"]["const"]: at(choice["params"])["properties"] for choice in choices}
    assert {"sft", "mock_sft"} <= set(kinds)
    rate = kinds["sft"]["learning_rate"]
    assert rate["exclusiveMinimum"] == 0 and rate["maximum"] == 1 and rate["description"]


def test_the_config_in_a_row_is_what_was_asked_for(run: TrainingRun) -> None:
    assert run.load_config().model_dump(mode="json")["algorithm"] == mock_config()["algorithm"]
