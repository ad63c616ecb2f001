"""`manage.py evaluate`, from a YAML file to numbers on the screen."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import CommandError, call_command
from django.test import Client

from evsys_web.accounts.models import User
from evsys_web.evals.models import Benchmark, EvalRun
from tests.evsys_web.evals.conftest import config_values, task_rows
from tests.evsys_web.evals.test_tasks import solve
from tests.recipes.chat_server import chat_server, refusal

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def write(tmp_path: Path, admin: User) -> Any:
    def do(base_url: str, **values: Any) -> Path:
        (tmp_path / "adding.jsonl").write_text("\n".join(json.dumps(row) for row in task_rows()))
        endpoint = {"base_url": base_url, "model": "adder", "max_retries": 0}
        config = config_values(endpoint=endpoint, data={"path": "adding.jsonl"}) | values
        del config["model"]
        path = tmp_path / "eval.yaml"
        path.write_text(yaml.safe_dump(config))
        return path

    return do


def test_it_imports_the_tasks_samples_them_and_prints_numbers(write: Any) -> None:
    with chat_server(solve) as server:
        path = write(server.base_url)
        out = io.StringIO()
        call_command("evaluate", str(path), "--here", stdout=out)
        again = io.StringIO()
        call_command("evaluate", str(path), "--here", "--json", stdout=again)
    assert "100.0%" in out.getvalue() and "12 attempts are right; 0 errors" in out.getvalue()
    found = json.loads(again.getvalue())
    assert (found["status"], found["num_done"]) == ("completed", 12) and found["summary"]["pass_at"]["2"]["value"] == 1.0
    assert Benchmark.objects.count() == 1 and EvalRun.objects.count() == 2


def test_a_failed_eval_is_an_exit_status_with_its_sentence(write: Any) -> None:
    with chat_server(lambda request, number: refusal(401, "no")) as server, pytest.raises(CommandError, match="refuses the key"):
        call_command("evaluate", str(write(server.base_url)), "--here", stdout=io.StringIO())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"data": {"path": "missing.jsonl"}}, "there is no file"),
        ({"verifier": {"kind": "guess"}}, "guess"),
        ({"attempts": 0}, "attempts"),
        ({"endpoint": {"base_url": "http://192.168.0.1/v1", "model": "m"}}, "private network"),
    ],
)
def test_a_bad_file_is_refused_in_a_sentence(write: Any, values: dict[str, Any], words: str) -> None:
    with pytest.raises(CommandError, match=words):
        call_command("evaluate", str(write("http://127.0.0.1:9/v1", **values)), stdout=io.StringIO())
    assert EvalRun.objects.count() == 0


def test_staff_read_evals_and_change_none(admin: User, eval_run: EvalRun) -> None:
    client = Client()
    client.force_login(admin)
    page = client.get(f"/admin/evals/evalrun/{eval_run.pk}/change/")
    assert page.status_code == 200 and b'name="_save"' not in page.content
    assert f'<a href="/evals/{eval_run.pk}/#tasks">'.encode() in page.content, "attempts are read there"
    assert client.get("/admin/evals/benchmark/").status_code == 200
    assert client.get("/admin/evals/evalrun/add/").status_code == 403
