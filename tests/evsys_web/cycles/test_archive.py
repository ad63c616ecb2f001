"""A cycle as a zip: it goes out whole, comes in elsewhere with the same answer, and a zip that lies leaves nothing behind."""

from __future__ import annotations

import csv
import io
import json
import re
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command
from django.test import Client

from evsys_web.accounts.models import Project, User
from evsys_web.curation.models import CuratedRow, Curation
from evsys_web.cycles import archive_file
from evsys_web.cycles.answer import answer_of
from evsys_web.cycles.export import export_cycle
from evsys_web.cycles.import_actions import import_cycle
from evsys_web.cycles.models import Cycle, visible_cycle
from evsys_web.evals.models import EvalRun
from evsys_web.runs import metrics
from evsys_web.runs.actions import RunRefused
from evsys_web.runs.models import Checkpoint, TrainingRun
from recipes.errors import DataError, RecipeError
from tests.evsys_web.cycles.conftest import MakeCycle, drive

pytestmark = pytest.mark.django_db(transaction=True)
Change = Callable[[dict[str, bytes]], None]


@pytest.fixture
def done(make_cycle: MakeCycle) -> Cycle:
    return drive(make_cycle(rounds=2, stop={"patience": None}))


@pytest.fixture
def zipped(done: Cycle, alice: User, tmp_path: Path) -> Path:
    path = tmp_path / "cycle.zip"
    path.write_bytes(b"".join(export_cycle(visible_cycle(alice, done.pk))))
    return path


def rewritten(path: Path, change: Change) -> Path:
    """The same zip with other contents."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    change(files)
    target = path.with_name("changed.zip")
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return target


def manifest(files: dict[str, bytes], change: Callable[[dict[str, Any]], Any]) -> None:
    values = json.loads(files["manifest.json"])
    change(values)
    files["manifest.json"] = json.dumps(values).encode()


def lines(data: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in data.splitlines()]


def test_everything_goes_out_in_formats_that_need_no_program(zipped: Path, done: Cycle) -> None:
    with zipfile.ZipFile(zipped) as archive:
        assert archive.testzip() is None
        files = {name: archive.read(name) for name in archive.namelist()}
    assert {"README.md", "manifest.json", "config.yaml", "tasks/learn.jsonl", "tasks/judge.jsonl"} <= set(files)
    assert b"after round 2" in files["README.md"] and b"rounds: 2" in files["config.yaml"]
    assert len(lines(files["baseline/attempts.jsonl"])) == 18
    first = lines(files["baseline/attempts.jsonl"])[0]
    assert first["task_id"] == "judge-0" and first["attempt"] == 0 and first["messages"][-1]["role"] == "assistant"
    rows, origins = (lines(files[f"rounds/1/{name}.jsonl"]) for name in ("rows", "origins"))
    assert len(rows) == len(origins) > 0 and origins[0]["position"] == 0
    assert [row["metadata"]["attempt"] for row in rows] == [origin["attempt"] for origin in origins]
    points = list(csv.DictReader(io.StringIO(files["rounds/1/metrics.csv"].decode())))
    assert [point["step"] for point in points] == [str(row["step"]) for row in lines(files["rounds/1/metrics.jsonl"])]


def origins_of(round_: Any) -> list[tuple[Any, ...]]:
    rows = CuratedRow.objects.filter(version=round_.curation.dataset_version).order_by("position")
    return list(rows.values_list("position", "split", "task__task_id", "attempt__attempt", "number", "score"))


def test_it_comes_in_elsewhere_with_every_part_and_the_same_answer(zipped: Path, done: Cycle, mallory: User, alice: User) -> None:
    project = mallory.default_project()
    cycle = visible_cycle(mallory, import_cycle(user=mallory, project=project, path=zipped).pk)
    assert answer_of(cycle) == answer_of(visible_cycle(alice, done.pk))
    for name in ("status", "reason", "num_tokens", "finished_at", "round_number", "stage"):
        assert getattr(cycle, name) == getattr(done, name)
    for mine, theirs in zip(cycle.rounds.all(), done.rounds.order_by("number"), strict=True):
        run, version = mine.training_run, mine.curation.dataset_version
        assert mine.finding == theirs.finding and mine.gained == theirs.gained
        assert mine.eval_run.is_imported and mine.eval_run.summary == theirs.eval_run.summary
        assert run.is_external and run.dataset_version == version
        assert list(version.read_rows()) == list(theirs.curation.dataset_version.read_rows())
        assert [(row.step, row.values) for row in metrics.rows(run)] == [
            (row.step, row.values) for row in metrics.rows(theirs.training_run)
        ]
        assert origins_of(mine) == origins_of(theirs) and len(origins_of(mine)) == version.num_rows
    assert EvalRun.objects.filter(project=project).count() == 5 and TrainingRun.objects.filter(project=project).count() == 2


def test_weights_come_along_and_lie_in_the_runs_own_folder(zipped: Path, alice: User, project: Project) -> None:
    def add(files: dict[str, bytes]) -> None:
        files["rounds/1/adapter/adapter_model.safetensors"] = b"weights"
        manifest(files, lambda values: values["rounds"][0]["run"]["checkpoint"].update(files=["adapter_model.safetensors"]))

    cycle = import_cycle(user=alice, project=project, path=rewritten(zipped, add))
    saved = cycle.rounds.get(number=1).checkpoint
    assert saved is not None and Path(saved.sampler_uri).is_relative_to(saved.run.output_dir)
    assert (Path(saved.sampler_uri) / "adapter_model.safetensors").read_bytes() == b"weights"


def test_a_second_import_makes_a_second_cycle_on_the_same_rows(zipped: Path, alice: User, project: Project) -> None:
    first, second = (import_cycle(user=alice, project=project, path=zipped) for _ in range(2))
    assert first.pk != second.pk
    versions = {cycle.rounds.get(number=1).curation.dataset_version for cycle in (first, second)}
    assert len(versions) == 1


CHANGES: list[tuple[str, Change]] = [
    ("lacks manifest.json", lambda files: files.pop("manifest.json") and None),
    ("no cycle that was exported here", lambda files: files.update({"manifest.json": b"{}"})),
    ("no cycle that was exported here", lambda files: files.update({"manifest.json": b"\xff\xfe nonsense"})),
    ("no cycle that was exported here", lambda files: manifest(files, lambda values: values.update(version=2))),
    ("no cycle that was exported here", lambda files: manifest(files, lambda values: values.update(status="running"))),
    ("no cycle that was exported here", lambda files: manifest(files, lambda values: values.update(surprise=1))),
    ("lacks tasks/judge.jsonl", lambda files: files.pop("tasks/judge.jsonl") and None),
    ("lacks rounds/2/held_out.jsonl", lambda files: files.pop("rounds/2/held_out.jsonl") and None),
    ("outside its own folder", lambda files: files.update({"../../evil.txt": b"x"})),
    ("outside its own folder", lambda files: files.update({"/etc/cron.d/evil": b"x"})),
    ("outside its own folder", lambda files: files.update({"a\\..\\..\\evil": b"x"})),
    (
        "no file of weights",
        lambda files: manifest(files, lambda v: v["rounds"][0]["run"]["checkpoint"].update(files=["../x.safetensors"])),
    ),
    (
        "no file of weights",
        lambda files: manifest(files, lambda v: v["rounds"][0]["run"]["checkpoint"].update(files=["evil.pkl"])),
    ),
    ("no cycle that was", lambda files: manifest(files, lambda v: v["rounds"][0]["run"]["checkpoint"].update(name="../evil"))),
    ("would unpack to", lambda files: files.update({"bomb": b"0" * 20_000_000})),
    ("found broken JSON", lambda files: files.update({"rounds/2/held_out.jsonl": b'{"task_id": 1'})),
    ("row 1, messages: found an empty list", lambda files: files.update({"rounds/2/rows.jsonl": b'{"messages": []}'})),
    ("is no point", lambda files: files.update({"rounds/2/metrics.jsonl": b'{"step": -1, "at": "2026-01-01", "metrics": {}}\n'})),
    ("is no point", lambda files: files.update({"rounds/1/metrics.jsonl": b'{"step": 1, "at": "yesterday", "metrics": {}}\n'})),
]


def test_a_zip_that_lies_is_refused_in_a_sentence_and_leaves_nothing(zipped: Path, mallory: User, settings: Any) -> None:
    """All lies about one cycle: driving it takes far longer than reading it."""
    project, runs_before = mallory.default_project(), set(Path(settings.RUNS_DIR).iterdir())
    uploads_before = set(Path(settings.FILE_UPLOAD_TEMP_DIR).iterdir())
    for number, (words, change) in enumerate(CHANGES):
        said = ""
        try:
            import_cycle(user=mallory, project=project, path=rewritten(zipped, change))
        except RecipeError as error:
            said = str(error)
        assert re.search(words, said), f"change {number}: {words!r} is not in {said!r}"
        for kind in (Cycle, EvalRun, TrainingRun, Curation):
            assert not kind._default_manager.filter(project=project).exists(), f"change {number}: {kind}"
        assert set(Path(settings.RUNS_DIR).iterdir()) == runs_before, f"change {number}"
        assert set(Path(settings.FILE_UPLOAD_TEMP_DIR).iterdir()) == uploads_before, f"change {number}"


def test_what_is_no_zip_is_damaged_or_holds_a_name_twice_is_refused(
    zipped: Path, alice: User, project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut, text, twice = (tmp_path / name for name in ("cut.zip", "text.zip", "twice.zip"))
    cut.write_bytes(zipped.read_bytes()[:-400])
    text.write_bytes(b"a letter")
    with zipfile.ZipFile(twice, "w") as archive, pytest.warns(UserWarning):
        archive.writestr("manifest.json", "{}")
        archive.writestr("manifest.json", "{}")
    for path, words in ((cut, "no zip file"), (text, "no zip file"), (twice, "twice under one name")):
        with pytest.raises(DataError, match=words):
            import_cycle(user=alice, project=project, path=path)
    for name, value, words in (
        ("MAX_ENTRIES", 3, "at most 3"),
        ("MAX_BYTES", 10, "unpacks to more"),
        ("MAX_MANIFEST_BYTES", 9, "larger than"),
    ):
        with monkeypatch.context() as patch, pytest.raises(DataError, match=words):
            patch.setattr(archive_file, name, value)
            import_cycle(user=alice, project=project, path=zipped)


def test_a_damaged_entry_is_refused(zipped: Path, alice: User, project: Project) -> None:
    data = bytearray(zipped.read_bytes())
    with zipfile.ZipFile(zipped) as archive:
        at = archive.getinfo("tasks/judge.jsonl").header_offset
    data[at + 80 : at + 90] = b"\0" * 10
    zipped.write_bytes(bytes(data))
    with pytest.raises(DataError, match="damaged"):
        import_cycle(user=alice, project=project, path=zipped)


def test_a_cycle_under_way_or_without_its_tasks_is_not_exported(
    cycle: Cycle, done: Cycle, alice: User, alice_client: Client
) -> None:
    with pytest.raises(RunRefused, match="has not ended"):
        export_cycle(visible_cycle(alice, cycle.pk))
    assert "has not ended" in alice_client.get(f"/cycles/{cycle.pk}/export", follow=True).content.decode()
    done.judge.dataset_version.dataset.delete()
    with pytest.raises(RunRefused, match="were deleted"):
        export_cycle(visible_cycle(alice, done.pk))


def body_of(response: Any) -> bytes:
    async def whole() -> bytes:
        return b"".join([chunk async for chunk in response])

    return async_to_sync(whole)()


def test_page_api_and_command_give_and_take_the_same(
    zipped: Path, done: Cycle, alice_client: Client, client: Client, alice_headers: dict[str, str], admin: User, tmp_path: Path
) -> None:
    page = alice_client.get(f"/cycles/{done.pk}/export")
    assert (
        page.headers["Content-Disposition"] == f'attachment; filename="cycle-{done.pk}.zip"'
        and body_of(page) == zipped.read_bytes()
    )
    api = client.get(f"/api/v1/cycles/{done.pk}/export", headers=alice_headers)
    assert body_of(api) == zipped.read_bytes()
    call_command("export_cycle", str(done.pk), str(tmp_path / "by-command.zip"), stdout=io.StringIO())
    assert (tmp_path / "by-command.zip").read_bytes() == zipped.read_bytes()
    with pytest.raises(CommandError, match="cannot be written"):
        call_command("export_cycle", str(done.pk), str(tmp_path / "by-command.zip"))

    upload = SimpleUploadedFile("cycle.zip", zipped.read_bytes(), "application/zip")
    sent = alice_client.post("/cycles/import", {"file": upload, "project": done.project_id})
    assert sent.status_code == 302 and sent["Location"] == f"/cycles/{done.pk + 1}/"
    made = client.post("/api/v1/cycles/import", zipped.read_bytes(), content_type="application/zip", headers=alice_headers)
    assert made.status_code == 201 and made.json()["answer"] == answer_of(visible_cycle(admin, done.pk)).sentence
    out = io.StringIO()
    call_command("import_cycle", str(zipped), "--project", str(done.project_id), "--json", stdout=out)
    assert json.loads(out.getvalue())["status"] == "completed" and Cycle.objects.count() == 4
    assert Checkpoint.objects.count() == 2 * 4


def test_a_bad_file_is_said_on_the_page_in_the_api_and_by_the_command(
    alice_client: Client, client: Client, alice_headers: dict[str, str], project: Project, admin: User, tmp_path: Path
) -> None:
    upload = SimpleUploadedFile("cycle.zip", b"no zip", "application/zip")
    page = alice_client.post("/cycles/import", {"file": upload, "project": project.pk})
    assert page.status_code == 422 and "no zip file that can be read" in page.content.decode()
    assert alice_client.post("/cycles/import", {"project": project.pk}).status_code == 422
    api = client.post("/api/v1/cycles/import", b"no zip", content_type="application/zip", headers=alice_headers)
    assert api.status_code == 422 and "no zip file that can be read" in api.json()["detail"]
    (tmp_path / "x.zip").write_bytes(b"no zip")
    with pytest.raises(CommandError, match="no zip file"):
        call_command("import_cycle", str(tmp_path / "x.zip"))
    with pytest.raises(CommandError, match="There is no file"):
        call_command("import_cycle", str(tmp_path / "y.zip"))


def test_a_stranger_exports_nothing_and_imports_into_no_foreign_project(
    done: Cycle, zipped: Path, mallory_client: Client, client: Client, mallory_headers: dict[str, str], project: Project
) -> None:
    assert mallory_client.get(f"/cycles/{done.pk}/export").status_code == 404
    assert client.get(f"/api/v1/cycles/{done.pk}/export", headers=mallory_headers).status_code == 404
    upload = SimpleUploadedFile("cycle.zip", zipped.read_bytes(), "application/zip")
    assert mallory_client.post("/cycles/import", {"file": upload, "project": project.pk}).status_code == 422
    address = f"/api/v1/cycles/import?project={project.pk}"
    sent = client.post(address, zipped.read_bytes(), content_type="application/zip", headers=mallory_headers)
    assert sent.status_code == 404 and Cycle.objects.count() == 1
