"""The time of day jumps, or two machines differ about it: leases are watched by a clock that only goes forward."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from types import SimpleNamespace

import pytest
from django.utils.timezone import now
from pytest_django.fixtures import Settings

from evsys_web.accounts.models import Project
from evsys_web.runs import leases, work
from evsys_web.runs.leases import Silence, sweep
from evsys_web.runs.models import Status, TrainingRun

pytestmark = pytest.mark.django_db
Pass = Callable[[float], None]


@pytest.fixture
def held_run(project: Project) -> TrainingRun:
    run = TrainingRun.objects.create(project=project, name="sums", status=Status.QUEUED)
    assert run.start("w1")
    return run


@pytest.fixture
def wait(monkeypatch: pytest.MonkeyPatch) -> Pass:
    """Seconds go by on the clock that only goes forward."""
    passed = [0.0]
    monkeypatch.setattr(leases, "time", SimpleNamespace(monotonic=lambda: passed[0]))
    return lambda seconds: passed.__setitem__(0, passed[0] + seconds)


def looked_at(run: TrainingRun, silence: Silence) -> str:
    sweep("w2", send=None, silence=silence)
    return str(TrainingRun.objects.get(pk=run.pk).status)


@pytest.mark.fault("The clock of a machine jumps an hour ahead", "Nothing: a run that renews its lease is never taken for lost.")
@pytest.mark.parametrize("jump", [timedelta(hours=1), timedelta(hours=-1)])
def test_a_jump_takes_no_run_from_a_worker_that_lives(
    held_run: TrainingRun, wait: Pass, settings: Settings, monkeypatch: pytest.MonkeyPatch, jump: timedelta
) -> None:
    silence = Silence()
    assert looked_at(held_run, silence) == Status.STARTING
    monkeypatch.setattr(work, "now", lambda: now() + jump)
    for _ in range(5):
        wait(settings.RUN_LEASE_SECONDS / 2)
        assert held_run.renew().held
        assert looked_at(held_run, silence) == Status.STARTING


@pytest.mark.fault("The clock jumps an hour back, and then the worker is killed", "Lost after one lease, not after an hour.")
@pytest.mark.parametrize("jump", [timedelta(hours=1), timedelta(hours=-1)])
def test_a_lost_worker_is_noticed_after_one_lease_whatever_the_clock_says(
    held_run: TrainingRun, wait: Pass, settings: Settings, monkeypatch: pytest.MonkeyPatch, jump: timedelta
) -> None:
    silence = Silence()
    monkeypatch.setattr(work, "now", lambda: now() + jump)
    assert held_run.renew().held
    assert looked_at(held_run, silence) == Status.STARTING
    for _ in range(3):
        wait(settings.RUN_LEASE_SECONDS / 3 - 0.1)
        assert looked_at(held_run, silence) == Status.STARTING
    wait(2)
    assert looked_at(held_run, silence) == Status.CRASHED
    assert not held_run.renew().held


def test_an_outage_as_long_as_a_lease_takes_no_run_from_a_worker_that_lives(
    held_run: TrainingRun, wait: Pass, settings: Settings
) -> None:
    silence = Silence()
    assert looked_at(held_run, silence) == Status.STARTING
    wait(settings.RUN_LEASE_SECONDS + 5)  # nobody reached the database
    assert looked_at(held_run, silence) == Status.STARTING
    assert held_run.renew().held


def test_a_run_that_is_taken_up_again_meanwhile_is_watched_anew(held_run: TrainingRun, wait: Pass, settings: Settings) -> None:
    silence = Silence()
    assert looked_at(held_run, silence) == Status.STARTING
    wait(settings.RUN_LEASE_SECONDS + 1)
    assert held_run.give_back() and held_run.start("w3")
    assert looked_at(held_run, silence) == Status.STARTING
    assert not silence.lost(TrainingRun)


def test_of_a_lease_that_is_renewed_at_the_last_moment_nothing_is_lost(held_run: TrainingRun) -> None:
    seen = TrainingRun.objects.get(pk=held_run.pk)
    assert held_run.renew().held
    assert not seen.declare_lost("gone", stood_still=True)
