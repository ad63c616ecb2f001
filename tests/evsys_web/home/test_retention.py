"""What goes after a while, and what never does."""

from __future__ import annotations

import io
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.utils.timezone import now
from pytest_django.fixtures import Settings

from evsys_web.accounts.models import User
from evsys_web.checkpoints.models import Export
from evsys_web.cycles.models import Cycle, CycleRound
from evsys_web.evals.models import EvalRun
from evsys_web.home import tasks
from evsys_web.home.retention import prune, removals
from evsys_web.runs import metrics
from evsys_web.runs.actions import RunRefused
from evsys_web.runs.models import Checkpoint, Status, TrainingRun
from recipes.callbacks import METRICS_FILE
from recipes.rollout_log import ROLLOUTS_FILE
from tests.evsys_web.home.conftest import MakeRun

pytestmark = pytest.mark.django_db
ALL = {"metrics": 30, "rollouts": 30, "checkpoints": 30}


@pytest.fixture
def old_run(make_run: MakeRun, settings: Settings, tmp_path: Path) -> TrainingRun:
    """Ended 40 days ago, with points, samples and two checkpoints."""
    settings.RUNS_DIR = tmp_path
    run = make_run("old", status=Status.COMPLETED, finished_at=now() - timedelta(days=40), step=2)
    for step in (1, 2):
        metrics.append(run, step, {"train/mean_nll": 1.0})
        folder = run.output_dir / "checkpoints" / f"step-{step}"
        folder.mkdir(parents=True)
        (folder / "adapter_model.safetensors").write_bytes(b"weights")
        Checkpoint.objects.create(run=run, name=f"step-{step}", step=step, seq=step, sampler_uri=str(folder))
    for name in (ROLLOUTS_FILE, METRICS_FILE):
        (run.output_dir / name).write_text("{}\n")
    return run


def is_whole(run: TrainingRun) -> bool:
    return (
        len(metrics.after(run, 0)) == 2
        and (run.output_dir / ROLLOUTS_FILE).exists()
        and (run.output_dir / METRICS_FILE).exists()
        and all(Path(checkpoint.sampler_uri).exists() for checkpoint in run.checkpoints.all())
        and run.checkpoints.count() == 2
    )


def test_points_samples_and_all_but_the_last_checkpoint_go(
    old_run: TrainingRun, django_capture_on_commit_callbacks: Callable[..., object]
) -> None:
    with django_capture_on_commit_callbacks(execute=True):  # type: ignore[attr-defined]
        assert prune(ALL) == 3
    assert metrics.after(old_run, 0) == []
    assert [path.name for path in old_run.output_dir.iterdir()] == ["checkpoints"]
    assert [checkpoint.name for checkpoint in old_run.checkpoints.all()] == ["step-2"]
    assert [path.name for path in (old_run.output_dir / "checkpoints").iterdir()] == ["step-2"]
    assert "points were deleted" in old_run.events.get().message
    assert prune(ALL) == 0, "twice does no harm"


def of_a_cycle(run: TrainingRun) -> None:
    CycleRound.objects.create(cycle=Cycle.objects.create(project=run.project, name="c"), number=1, training_run=run)


def evaluated(run: TrainingRun) -> None:
    EvalRun.objects.create(project=run.project, name="e", checkpoint=run.checkpoints.last(), status=Status.COMPLETED)


def pushed(run: TrainingRun) -> None:
    Export.objects.create(checkpoint=run.checkpoints.last(), project=run.project, destination="hub", status=Status.COMPLETED)


def gone_on_from(run: TrainingRun) -> None:
    uri = run.checkpoints.last().sampler_uri
    TrainingRun.objects.create(project=run.project, name="next", config={"model": {"init_from_checkpoint": uri}})


def running(run: TrainingRun) -> None:
    TrainingRun.objects.filter(pk=run.pk).update(status=Status.RUNNING)


def young(run: TrainingRun) -> None:
    TrainingRun.objects.filter(pk=run.pk).update(finished_at=now() - timedelta(days=29))


@pytest.mark.parametrize("make", [of_a_cycle, evaluated, pushed, gone_on_from, running, young])
def test_nothing_goes_that_something_stands_on(old_run: TrainingRun, make: Callable[[TrainingRun], None]) -> None:
    make(old_run)
    assert prune(ALL) == 0
    assert is_whole(old_run)


def test_nothing_goes_unless_somebody_said_so(old_run: TrainingRun) -> None:
    assert prune() == 0
    assert is_whole(old_run)
    with pytest.raises(CommandError, match="kept for ever"):
        call_command("prune")
    with pytest.raises(CommandError, match="negative"):
        call_command("prune", metrics_days=-1)


@pytest.mark.parametrize("kind", ["metrics", "rollouts"])
def test_a_run_that_is_resumed_meanwhile_keeps_everything(old_run: TrainingRun, kind: str) -> None:
    (removal,) = removals({kind: 30})
    running(old_run)
    with pytest.raises(RunRefused, match="runs again"):
        removal.remove()
    assert is_whole(old_run)


def test_a_run_that_is_resumed_while_another_is_pruned_is_passed_over(old_run: TrainingRun, make_run: MakeRun) -> None:
    younger = make_run("younger", status=Status.COMPLETED, finished_at=now() - timedelta(days=35), step=1)
    younger.output_dir.mkdir(parents=True)
    (younger.output_dir / ROLLOUTS_FILE).write_text("{}\n")
    going = removals({"rollouts": 30})
    assert next(going).run == old_run
    running(younger)
    assert list(going) == []


def test_two_workers_that_prune_at_once_do_each_other_no_harm(old_run: TrainingRun) -> None:
    mine, theirs = list(removals({"rollouts": 30})), list(removals({"rollouts": 30}))
    for removal in mine + theirs:
        removal.remove()
    assert not (old_run.output_dir / ROLLOUTS_FILE).exists()


def test_a_dry_run_names_what_would_go_and_deletes_nothing(old_run: TrainingRun) -> None:
    out = io.StringIO()
    call_command("prune", dry_run=True, metrics_days=30, rollouts_days=30, checkpoints_days=30, stdout=out)
    assert f"run {old_run.pk} (old): checkpoints, step-1" in out.getvalue()
    assert "3 things would go" in out.getvalue()
    assert is_whole(old_run)


def test_a_run_says_how_long_its_points_were_kept(old_run: TrainingRun, settings: Settings) -> None:
    """By whoever deleted them, whatever the settings are."""
    settings.KEEP_DAYS = {"metrics": 365}
    call_command("prune", metrics_days=30, stdout=io.StringIO())
    assert old_run.events.get(message__contains="points").message == "The points were deleted: they are kept for 30 days."


def test_workers_ask_for_it_at_their_start_and_then_daily(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, alice: User
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(tasks.prune_old, "delay", lambda: asked.append("prune"))
    monkeypatch.setattr(tasks, "_asked_at", [])
    tasks.sweep("w")
    assert asked == [], "everything is kept"
    settings.KEEP_DAYS = ALL
    tasks.sweep("w")
    tasks.sweep("w")
    assert asked == ["prune"]
    tasks._asked_at[:] = [tasks._asked_at[-1] - tasks.EVERY_SECONDS]
    tasks.sweep("w")
    assert asked == ["prune", "prune"]
