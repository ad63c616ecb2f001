"""The columns of a large eval are read by a worker once it has ended, so that its first preview does not wait for them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from django.utils.timezone import now
from pytest_django import DjangoAssertNumQueries
from pytest_django.fixtures import Settings

from evsys_web.curation import columns, tasks
from evsys_web.curation.columns import columns_of, forget_columns
from evsys_web.evals.models import EvalRun, Status

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found: list[int] = []
    monkeypatch.setattr(tasks, "_asked", {})
    monkeypatch.setattr(tasks.prepare_columns, "delay", found.append)
    return found


@pytest.fixture(autouse=True)
def _every_size(monkeypatch: pytest.MonkeyPatch, settings: Settings, tmp_path: Path) -> None:
    settings.HOME = tmp_path  # no file of another test's run with the same number
    monkeypatch.setattr(columns, "FILE_FROM", 1)
    monkeypatch.setattr(tasks, "FILE_FROM", 1)


def ended(run: EvalRun, ago: timedelta = timedelta(seconds=5)) -> None:
    EvalRun.objects.filter(pk=run.pk).update(status=Status.COMPLETED, finished_at=now() - ago)
    run.refresh_from_db()


def test_a_worker_asks_once_for_an_eval_that_has_ended_and_the_preview_reads_a_file(
    run: EvalRun, asked: list[int], django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    ended(run)
    tasks.sweep("worker")
    tasks.sweep("worker")
    assert asked == [run.pk]
    tasks.prepare_columns(run.pk)
    forget_columns()
    with django_assert_num_queries(0):
        assert len(columns_of(run)) == 16
    tasks._asked.clear()
    tasks.sweep("another worker")
    assert asked == [run.pk], "the file is there"

    ended(run, ago=timedelta(seconds=-5))  # it was resumed meanwhile
    tasks.sweep("worker")
    assert asked == [run.pk, run.pk]


def test_every_sweep_there_is_is_done_by_workers(settings: Settings) -> None:
    """A sweep that nobody lists is never done, however well it is tested."""
    there_are = {
        f"{path.relative_to(ROOT).with_suffix('').as_posix().replace('/', '.')}.sweep"
        for path in (ROOT / "evsys_web").rglob("*.py")
        if "\ndef sweep(worker: str)" in path.read_text(encoding="utf-8")
    }
    assert there_are and there_are <= set(settings.SWEEPS)


def test_nothing_is_read_ahead_of_small_running_or_older_evals_nor_of_deleted_ones(
    run: EvalRun, asked: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    ended(run, ago=tasks.ENDED_WITHIN + timedelta(minutes=1))
    tasks.sweep("worker")
    ended(run)
    EvalRun.objects.filter(pk=run.pk).update(status=Status.RUNNING)
    tasks.sweep("worker")
    tasks.prepare_columns(run.pk)
    ended(run)
    monkeypatch.setattr(tasks, "FILE_FROM", run.num_done + 1)
    tasks.sweep("worker")
    tasks.prepare_columns(0)
    assert asked == [] and not columns._path(run).exists()
