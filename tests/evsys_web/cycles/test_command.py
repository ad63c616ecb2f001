"""`manage.py cycle`, from a YAML file to an answer on the screen."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import CommandError, call_command

from evsys_web.accounts.models import User
from evsys_web.cycles.models import Cycle
from evsys_web.evals.models import Benchmark
from tests.evsys_web.cycles.conftest import VERIFIER, cycle_values, task_rows

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(120)]


@pytest.fixture
def write(tmp_path: Path, admin: User) -> Any:
    def do(**values: Any) -> str:
        for name in ("learn", "judge"):
            (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps(row) for row in task_rows(name)))
        sides = {name: {"path": f"{name}.jsonl", "verifier": VERIFIER} for name in ("learn", "judge")}
        path = tmp_path / "cycle.yaml"
        path.write_text(yaml.safe_dump(cycle_values(**sides) | values))
        return str(path)

    return do


def test_it_imports_the_tasks_goes_round_and_prints_the_answer(write: Any) -> None:
    out, again = io.StringIO(), io.StringIO()
    call_command("cycle", write(), "--here", stdout=out)
    assert "Round 1, training: bytes · round 1" in out.getvalue()
    assert "after round 1" in out.getvalue() and "k = 3 on 6 held-out tasks" in out.getvalue()
    call_command("cycle", write(), "--here", "--json", stdout=again)
    found = json.loads(again.getvalue())
    assert (found["status"], found["reason"], found["round_number"]) == ("completed", "rounds", 1)
    assert found["rounds"][0]["finding"]["baseline"]["num_common"] == 6 and "after round 1" in found["answer"]
    assert Benchmark.objects.count() == 2 and Cycle.objects.count() == 2


def test_what_it_failed_of_is_an_exit_status_with_its_sentence(write: Any) -> None:
    with pytest.raises(CommandError, match=r"failed after Round 1, curation.*no attempt passes the filter"):
        call_command("cycle", write(curation={"filter": "n > 100"}), "--here", stdout=io.StringIO())


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"learn": {"path": "missing.jsonl"}}, "there is no file"),
        ({"judge": {"path": "learn.jsonl", "verifier": VERIFIER}}, "6 tasks stand on both sides"),
        ({"rounds": 0}, "rounds"),
        ({"training": {"kind": "guess"}}, "guess"),
    ],
)
def test_a_bad_file_is_refused_in_a_sentence(write: Any, values: dict[str, Any], words: str) -> None:
    with pytest.raises(CommandError, match=words):
        call_command("cycle", write(**values), stdout=io.StringIO())
    assert Cycle.objects.count() == 0
