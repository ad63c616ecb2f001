from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import PermissionDenied
from django.core.files.uploadedfile import SimpleUploadedFile
from django.core.management import CommandError, call_command
from django.test import Client

from evsys_web.accounts.models import Project, User
from evsys_web.evals import import_actions
from evsys_web.evals.import_actions import AttemptsRefused, import_attempts
from evsys_web.evals.models import Benchmark, EvalRun, Outcome, Status
from recipes.errors import ConfigError, DataError
from recipes.evals.metrics import count_attempts, summarise
from recipes.evals.statistics import compare
from recipes.rollouts import AttemptResult

ROWS: list[dict[str, Any]] = [
    {"task_id": f"t{task}", "attempt": attempt, "is_correct": attempt < task, "reward": float(attempt < task), "model": "m"}
    | {"messages": [{"role": "user", "content": f"{task} + 2?"}, {"role": "assistant", "content": "4"}], "answer": task}
    for attempt in range(3)
    for task in range(4)
]
FAILED = {"task_id": "t0", "attempt": 3, "error": "server down", "error_kind": "server"}


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    found = tmp_path / "their run.jsonl"
    found.write_bytes(lines([*ROWS, FAILED]))
    return found


def test_an_imported_run_shows_the_numbers_of_its_attempts(alice: User, project: Project, path: Path) -> None:
    run = import_attempts(user=alice, project=project, path=path).run
    expected = summarise(
        count_attempts(
            [
                *(AttemptResult(row["task_id"], row["attempt"], row["reward"], row["is_correct"]) for row in ROWS),
                AttemptResult("t0", 3, error="x"),
            ]
        )
    )
    assert run.summary == json.loads(json.dumps(expected.as_json()))
    assert summarise(run.task_counts()) == expected
    assert (run.status, run.is_imported, run.name, run.model_label) == (Status.COMPLETED, True, "their run", "m")
    assert (run.k, run.num_tasks, run.num_done, run.num_errors) == (4, 4, 12, 1)
    assert run.source == "JSONL: their run.jsonl"


def test_tasks_keep_the_order_of_the_file_and_carry_their_counters(
    alice: User, project: Project, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(import_actions, "BATCH", 2)
    run = import_attempts(user=alice, project=project, path=path).run
    tasks = list(run.tasks.order_by("position"))
    assert [(task.task_id, task.prompt, task.answer) for task in tasks] == [(f"t{n}", f"{n} + 2?", n) for n in range(4)]
    assert [(task.n, task.num_correct, task.num_errors) for task in tasks] == [(3, 0, 1), (3, 1, 0), (3, 2, 0), (3, 3, 0)]
    assert [task.outcome for task in tasks] == [Outcome.FAILED, Outcome.MIXED, Outcome.MIXED, Outcome.SOLVED]
    failed = run.attempts.get(error_kind="server")
    assert (failed.task.task_id, failed.attempt, failed.error, failed.is_correct) == ("t0", 3, "server down", None)
    assert run.attempts.count() == 13
    assert "Imported 13 attempts at 4 tasks" in run.events.get().message


def test_a_bad_file_is_refused_whole_or_its_good_part_imported_on_request(alice: User, project: Project, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines([ROWS[0], {"task_id": "t9"}, ROWS[0]]))
    with pytest.raises(AttemptsRefused, match=r"Line 2: found no verdict.* And 1 more refused"):
        import_attempts(user=alice, project=project, path=path)
    assert not EvalRun.objects.exists()
    run, report = import_attempts(user=alice, project=project, path=path, leave_out_bad=True)
    assert (run.num_done, report.num_refused) == (1, 2)
    assert "2 refused and left out, the first: Line 2" in run.events.get().message


def test_one_model_of_several_is_imported_alone(alice: User, project: Project, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines([ROWS[0], ROWS[1] | {"model": "other"}]))
    both = import_attempts(user=alice, project=project, path=path).run
    assert both.model_label == "2 models: m, other"
    warning = both.events.get(level="warning").message
    assert "several models together: m (1), other (1)" in warning and "Only attempts by" in warning
    one = import_attempts(user=alice, project=project, path=path, only_model="other").run
    assert (one.model_label, one.num_done) == ("other", 1)
    assert not one.events.filter(level="warning").exists()
    with pytest.raises(
        AttemptsRefused,
        match=r"no attempt to import\. Passed over 2: Attempts by other models than nobody.*by m \(1\), other \(1\)",
    ):
        import_attempts(user=alice, project=project, path=path, only_model="nobody")
    path.write_bytes(lines([ROWS[0], ROWS[0] | {"model": "other"}]))
    clash = r"Line 2, .*now by other, a second time.*the same attempts by several models, m \(1\), other \(1\): choose"
    with pytest.raises(AttemptsRefused, match=clash):
        import_attempts(user=alice, project=project, path=path)


def test_two_imported_runs_compare_like_any(alice: User, project: Project, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines(ROWS))
    first = import_attempts(user=alice, project=project, path=path).run
    path.write_bytes(lines([row | {"is_correct": True} for row in ROWS[:6]]))
    second = import_attempts(user=alice, project=project, path=path).run
    found = compare(*({count.task_id: count for count in run.task_counts()} for run in (first, second)))
    assert (found.num_common, found.newly_solved, found.newly_broken) == (4, ["t0"], [])


def test_nothing_is_left_of_an_import_that_breaks(
    alice: User, project: Project, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(source: Any) -> Any:
        report = checked(source)
        path.write_bytes(lines([*ROWS, ROWS[0] | {"task_id": "new"}]))
        return report

    checked = import_actions.check
    monkeypatch.setattr(import_actions, "check", change)
    with pytest.raises(DataError, match="changed while it was read"):
        import_attempts(user=alice, project=project, path=path)
    assert not EvalRun.objects.exists()


def test_strangers_and_foreign_benchmarks_are_refused(alice: User, project: Project, mallory: User, path: Path) -> None:
    with pytest.raises(PermissionDenied):
        import_attempts(user=mallory, project=project, path=path)
    foreign = Benchmark.objects.create(project=mallory.default_project(), name="hers")
    with pytest.raises(ConfigError, match="another project"):
        import_attempts(user=alice, project=project, path=path, benchmark=foreign)


def test_what_no_database_keeps_is_replaced(alice: User, project: Project, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    row = ROWS[0] | {"info": {"seen": "a\x00b"}, "stop_reason": "x" * 300, "answer": "c\x00d"}
    path.write_bytes(lines([row]))
    run = import_attempts(user=alice, project=project, path=path, name="n\x00m").run
    attempt = run.attempts.get()
    assert (attempt.info, attempt.stop_reason) == ({"seen": "a\N{REPLACEMENT CHARACTER}b"}, "x" * 100)
    assert run.name == "n\N{REPLACEMENT CHARACTER}m"


def test_the_command_imports_each_file_and_prints_json(admin: User, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call_command("import_attempts", str(path), str(path), "--model", "qwen", "--json")
    found = json.loads(capsys.readouterr().out)
    assert [(each["num_attempts"], each["model_label"]) for each in found] == [(13, "qwen"), (13, "qwen")]
    assert EvalRun.objects.count() == 2


def test_the_command_lists_what_it_refuses(admin: User, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(lines([ROWS[0], {"task_id": "t9"}]))
    with pytest.raises(CommandError, match=r"1 refused, and nothing is imported[^$]*Line 2: found no verdict"):
        call_command("import_attempts", str(path))
    call_command("import_attempts", str(path), "--skip-bad")
    assert "Line 2: found no verdict" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["missing.jsonl"], "no file or folder"),
        (["a.jsonl", "--user", "nobody"], "no user"),
        (["a.jsonl", "--benchmark", "none"], "no benchmark"),
    ],
)
def test_the_command_says_what_is_missing(admin: User, arguments: list[str], reason: str) -> None:
    with pytest.raises(CommandError, match=reason):
        call_command("import_attempts", *arguments)


def test_the_api_takes_a_body_a_file_and_a_zip(client: Client, alice_headers: dict[str, str]) -> None:
    url = "/api/v1/evals/import"
    answer = client.post(f"{url}?filename=a.jsonl&model=q", lines(ROWS), content_type="application/jsonl", headers=alice_headers)
    assert answer.status_code == 201, answer.content
    assert (answer.json()["num_attempts"], answer.json()["model_label"], answer.json()["name"]) == (12, "q", "a")
    assert answer.json()["summary"]["avg"]["value"] == 0.5
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("run/results.json", json.dumps({"model": "m", "items": [{"idx": 0, "reward": 1.0, "is_correct": True}]}))
    answer = client.post(url, {"file": SimpleUploadedFile("run.zip", archive.getvalue())}, headers=alice_headers)
    assert (answer.status_code, answer.json()["source"]) == (201, "rLLM: run.zip")


def test_the_api_refuses_bad_lines_strangers_and_readers(
    client: Client,
    alice_headers: dict[str, str],
    read_only_headers: dict[str, str],
    mallory_headers: dict[str, str],
    project: Project,
) -> None:
    def send(rows: list[Any], headers: dict[str, str], query: str = "") -> Any:
        return client.post(f"/api/v1/evals/import{query}", lines(rows), content_type="application/jsonl", headers=headers)

    refused = send([ROWS[0], {"task_id": "t9"}], alice_headers)
    assert refused.status_code == 422 and "Line 2" in refused.json()["errors"][0]["message"]
    assert send(ROWS, read_only_headers).status_code == 403
    assert send(ROWS, mallory_headers, f"?project={project.pk}").status_code == 404
    assert send(ROWS, {}).status_code == 401
    assert not EvalRun.objects.exists()
