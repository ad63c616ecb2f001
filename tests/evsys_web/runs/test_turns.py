"""Whose turn it is: priority, people in turn, limits of projects; and two workers who ask at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from hypothesis import given
from hypothesis import strategies as st

from evsys_web.accounts.models import Project, User
from evsys_web.datasets.models import DatasetVersion
from evsys_web.runs.actions import launch_run
from evsys_web.runs.leases import sweep
from evsys_web.runs.models import QueueLimits, Status, TrainingRun
from evsys_web.runs.status import Priority
from evsys_web.runs.turns import Waiting, dealt, in_turn, take
from recipes.config import RunConfig
from recipes.errors import ConfigError
from tests.evsys_web.runs.conftest import MakeRun, mock_config

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC)


def waiting(*rows: tuple[int, int, int]) -> list[Waiting]:
    """(person, priority, place) each; numbered as they come."""
    return [
        Waiting(pk, 1, user, priority, float(place), NOON + timedelta(minutes=place))
        for pk, (user, priority, place) in enumerate(rows)
    ]


def order(rows: list[Waiting], **served: int) -> list[int]:
    """served: minutes after noon at which a person (u1, u2, …) was served last."""
    times = {int(name[1:]): NOON + timedelta(minutes=minutes) for name, minutes in served.items()}
    return [row.pk for row in dealt(rows, times)]


def test_people_of_one_priority_take_turns() -> None:
    rows = waiting((1, 0, 1), (1, 0, 2), (1, 0, 3), (2, 0, 4), (3, 0, 5))
    assert order(rows) == [0, 3, 4, 1, 2]  # nobody was served: who came first begins
    assert order(rows, u1=5) == [3, 4, 0, 1, 2]
    assert order(rows, u1=1, u2=9, u3=5) == [0, 4, 3, 1, 2]


def test_higher_priority_goes_first_whoever_it_is() -> None:
    rows = waiting((1, 0, 1), (1, 1, 2), (2, 0, 3), (2, -1, 4), (1, 1, 5))
    assert order(rows) == [1, 4, 2, 0, 3]  # after two of 1's, 2 has the next turn


def test_ones_own_are_in_the_order_of_their_places() -> None:
    assert order(waiting((1, 0, 9), (1, 0, 3), (1, 0, 3))) == [1, 2, 0]


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(-1, 1), st.integers(0, 5)), max_size=30))
def test_taking_one_after_the_other_gives_the_order_foretold(rows: list[tuple[int, int, int]]) -> None:
    """What the page shows is what happens: the whole order, and the first of what is left after each start."""
    left, taken = waiting(*rows), list[Waiting]()
    served: dict[int | None, datetime] = {}
    foretold = dealt(left, {})
    for minute in range(len(rows)):
        row = dealt(left, served)[0]
        served[row.user] = NOON + timedelta(minutes=minute)
        left.remove(row)
        taken.append(row)
    assert taken == foretold


@pytest.fixture
def launch(alice: User, project: Project, version: DatasetVersion) -> Callable[..., TrainingRun]:
    def launched(user: User = alice, **more: Any) -> TrainingRun:
        config = RunConfig.from_values(mock_config())
        return launch_run(user=user, project=project, config=config, dataset_version=version, **more)

    return launched


@pytest.mark.django_db
def test_a_worker_takes_the_row_whose_turn_it_is(make_run: MakeRun, bob: User) -> None:
    hers = [make_run(name=f"hers {number}") for number in range(3)]
    his = make_run(name="his", created_by=bob)
    urgent = make_run(name="urgent", priority=Priority.HIGH)
    taken = [take(TrainingRun, "worker") for _ in range(6)]
    assert taken == [urgent, his, *hers, None]
    assert {run.status for run in TrainingRun.objects.all()} == {Status.STARTING}


@pytest.mark.django_db
def test_a_call_by_name_takes_that_row_alone(make_run: MakeRun) -> None:
    first, second = make_run(), make_run()
    assert take(TrainingRun, "worker", named=second.pk) == second
    assert take(TrainingRun, "worker", named=second.pk) is None
    assert take(TrainingRun, "worker") == first


@pytest.mark.django_db(transaction=True)
def test_workers_who_ask_at_once_get_different_rows(make_run: MakeRun) -> None:
    for _ in range(4):
        make_run()
    taken: list[int] = []
    barrier = threading.Barrier(6)

    def work(number: int) -> None:
        try:
            barrier.wait(30)
            if (run := take(TrainingRun, f"worker {number}")) is not None:
                taken.append(run.pk)
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(taken) == sorted(TrainingRun.objects.values_list("pk", flat=True))


@pytest.mark.django_db(transaction=True)
def test_workers_who_ask_at_once_keep_a_projects_limit(make_run: MakeRun, project: Project) -> None:
    QueueLimits.objects.create(project=project, max_running=2)
    for _ in range(6):
        make_run()
    barrier = threading.Barrier(6)

    def work(number: int) -> None:
        try:
            barrier.wait(30)
            take(TrainingRun, f"worker {number}")
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert TrainingRun.objects.active().count() == 2


@pytest.mark.django_db
def test_a_full_project_holds_up_nobody_else(make_run: MakeRun, project: Project, mallory: User) -> None:
    QueueLimits.objects.create(project=project, max_running=1)
    first, held = make_run(), make_run()
    other = make_run(project=mallory.default_project(), created_by=mallory)
    make_run(is_external=True, status=Status.RUNNING)  # done elsewhere: takes none of the room here
    assert take(TrainingRun, "a") == first
    assert take(TrainingRun, "b") == other
    assert take(TrainingRun, "c") is None
    first.refresh_from_db()
    assert first.start("again") is False
    TrainingRun.objects.filter(pk=first.pk).update(status=Status.COMPLETED)
    assert take(TrainingRun, "c") == held


@pytest.mark.django_db
def test_what_was_held_back_is_told_of_as_soon_as_there_is_room(make_run: MakeRun, project: Project) -> None:
    limits = QueueLimits.objects.create(project=project, max_running=0)
    run = make_run()
    told: list[int] = []
    sweep("idle", send=told.append)
    assert told == []  # nobody is told of what may not begin
    assert take(TrainingRun, "worker") is None
    limits.delete()
    sweep("idle", send=told.append)
    assert told == [run.pk]


@pytest.mark.django_db
def test_a_worker_with_room_is_told_of_more(make_run: MakeRun) -> None:
    make_run(), make_run()
    assert take(TrainingRun, "worker") is not None
    told: list[int] = []
    sweep("worker", send=told.append, concurrency=1)
    assert told == []
    sweep("worker", send=told.append, concurrency=2)
    assert len(told) == 1


@pytest.mark.django_db
def test_a_full_queue_takes_no_more_but_ends_no_cycle(launch: Callable[..., TrainingRun], project: Project) -> None:
    QueueLimits.objects.create(project=project, max_waiting=1)
    launch()
    with pytest.raises(ConfigError, match="Sums may have 1 runs and evals waiting at a time") as refused:
        launch()
    assert refused.value.path == ("project",)
    launch(is_part=True)
    assert TrainingRun.objects.count() == 2


@pytest.mark.django_db
def test_what_a_worker_gives_back_keeps_its_place_and_what_is_resumed_goes_behind(make_run: MakeRun) -> None:
    first, second = make_run(), make_run()
    assert first.start("worker") and first.give_back()
    assert [row.pk for row in in_turn(TrainingRun)] == [first.pk, second.pk]
    assert first.start("worker") and first.fail("Its disk was full.") and first.queue()
    assert [row.pk for row in in_turn(TrainingRun)] == [second.pk, first.pk]


@pytest.mark.django_db
def test_whoever_resumes_many_runs_at_once_waits_for_others_between_them(make_run: MakeRun, bob: User) -> None:
    hers = [make_run(name=f"hers {number}") for number in range(3)]
    for run in hers:
        assert run.start("worker") and run.fail("Its disk was full.")
    earlier = make_run(name="his first", created_by=bob)
    assert earlier.start("worker") and earlier.complete()
    TrainingRun.objects.update(started_at=NOON)  # long ago, all at once
    for run in hers:
        assert run.queue()
    his = [make_run(name=f"his {number}", created_by=bob) for number in range(3)]
    taken = [take(TrainingRun, "worker") for _ in range(6)]
    assert taken == [hers[0], his[0], hers[1], his[1], hers[2], his[2]]


@pytest.mark.django_db
def test_what_is_trained_elsewhere_is_no_turn(make_run: MakeRun, bob: User) -> None:
    make_run(is_external=True, status=Status.RUNNING, started_at=NOON)
    hers, his = make_run(), make_run(created_by=bob)
    assert [take(TrainingRun, "worker") for _ in range(2)] == [hers, his]
