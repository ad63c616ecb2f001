"""`manage.py demo` for real: the bundled model, sampled and trained in this process."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from pytest_django.fixtures import Settings

from evsys_web.cycles.models import Cycle, Status
from evsys_web.runs.models import TrainingRun

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(280)]


@pytest.fixture(autouse=True)
def runs_dir(settings: Settings, tmp_path: Path) -> None:
    settings.RUNS_DIR = tmp_path / "runs"


def test_the_demo_ends_with_an_improvement_beyond_doubt() -> None:
    out, err = io.StringIO(), io.StringIO()
    call_command("demo", "--quick", "--json", stdout=out, stderr=err)
    shown = json.loads(out.getvalue())
    assert shown["status"] == "completed" and shown["answer"].startswith("Better after round 1: +")
    assert shown["rounds"][0]["finding"]["baseline"]["difference"]["low"] > 0.1
    assert "Password" in err.getvalue() and "Curation. Tasks it always or never solves teach nothing." in err.getvalue()
    assert TrainingRun.objects.get().status == Status.COMPLETED and Cycle.objects.get().rounds.count() == 1


def test_a_demo_without_an_improvement_fails_and_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same with a step size of next to nothing."""
    from evsys_web.cycles import first

    settings = tmp_path / "cycle.yaml"
    settings.write_text(first.SETTINGS.read_text().replace("learning_rate: 0.003", "learning_rate: 1.0e-12"))
    monkeypatch.setattr(first, "SETTINGS", settings)
    monkeypatch.setattr(first, "QUICK_TASKS", 10)
    out = io.StringIO()
    with pytest.raises(CommandError, match="No improvement could be seen"):
        call_command("demo", "--quick", stdout=out)
    assert "No change can be seen after round 1" in out.getvalue()
