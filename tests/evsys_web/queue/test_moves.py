"""Moving a row of the queue: what it costs, that it never runs out of places, and people who move at once."""

from __future__ import annotations

import random
import threading
import time

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from hypothesis import given, settings
from hypothesis import strategies as st

from evsys_web.accounts.models import AuditEntry, Project, User
from evsys_web.queue.actions import Move, move
from evsys_web.queue.places import new_places
from evsys_web.runs.models import Status, TrainingRun
from evsys_web.runs.turns import in_turn, take

NOW = 1_790_000_000.0
MOVES: tuple[Move, ...] = ("first", "up", "down", "last")


def queue_runs(user: User, project: Project, count: int) -> list[TrainingRun]:
    return TrainingRun.objects.bulk_create(
        TrainingRun(project=project, created_by=user, name=str(number), status=Status.QUEUED, queue_place=NOW + number)
        for number in range(count)
    )


def order() -> list[int]:
    return [row.pk for row in in_turn(TrainingRun)]


def after(pks: list[int], pk: int, there: int) -> list[int]:
    rest = [other for other in pks if other != pk]
    return [*rest[:there], pk, *rest[there:]]


@pytest.mark.django_db
@pytest.mark.parametrize("to", MOVES)
def test_a_move_writes_one_row_however_long_the_queue_is(alice: User, project: Project, to: Move) -> None:
    runs = queue_runs(alice, project, 300)
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert move(user=alice, work=runs[150], to=to)
    writes = [query["sql"] for query in queries if query["sql"].startswith("UPDATE")]
    assert len(writes) == 1 and len(queries) < 15, [query["sql"] for query in queries]
    there = {"first": 0, "up": 149, "down": 151, "last": 299}[to]
    assert order() == after([run.pk for run in runs], runs[150].pk, there)


@pytest.mark.django_db
def test_what_is_queued_later_stands_behind_what_was_moved_last(alice: User, project: Project) -> None:
    runs = queue_runs(alice, project, 3)
    assert move(user=alice, work=runs[0], to="last") and move(user=alice, work=runs[1], to="last")
    time.sleep(0.002)  # twice what a place may lie ahead
    late = TrainingRun.objects.create(project=project, created_by=alice, name="late", status=Status.QUEUED)
    assert order() == [runs[2].pk, runs[0].pk, runs[1].pk, late.pk]


@settings(max_examples=50)
@given(
    st.lists(st.sampled_from([0.0, 1e-7, 1e-3, 1.0]), min_size=2, max_size=30),
    st.lists(st.tuples(st.integers(0, 29), st.integers(0, 29)), max_size=60),
)
def test_any_moves_among_any_places_end_in_the_order_wanted(gaps: list[float], moves: list[tuple[int, int]]) -> None:
    rows, at = [], NOW
    for number, gap in enumerate(gaps):
        at += gap
        rows.append((at, number))
    for here, there in moves:
        here, there = here % len(rows), there % len(rows)
        rows.insert(there, rows.pop(here))
        wanted = [number for _, number in rows]
        for moved, place in new_places([place for place, _ in rows], there).items():
            rows[moved] = (place, rows[moved][1])
        if here != there:
            assert [number for _, number in sorted(rows)] == wanted


def test_moving_to_the_same_spot_for_ever_writes_few_rows_at_a_time() -> None:
    rows = [NOW + number * 0.001 for number in range(1000)]
    written = []
    for _ in range(2000):
        rows.insert(500, rows.pop())
        changed = new_places(rows, 500)
        for number, place in changed.items():
            rows[number] = place
        written.append(len(changed))
        assert rows[499] < rows[500] < rows[501]
    assert sum(written) / len(written) < 5, max(written)
    assert rows == sorted(rows)


@pytest.mark.django_db(transaction=True)
def test_moves_at_the_same_time_end_as_if_one_had_come_after_the_other(alice: User, project: Project) -> None:
    """The audit log says from where to where each went, in the order in which they came: played again it gives what is there."""
    runs = queue_runs(alice, project, 8)
    TrainingRun.objects.update(queue_place=NOW)  # no room between any two
    before = [run.pk for run in runs]
    barrier = threading.Barrier(3)

    def work(seed: int) -> None:
        chance = random.Random(seed)
        try:
            barrier.wait(30)
            for _ in range(12):
                move(user=alice, work=chance.choice(runs), to=chance.choice(MOVES))
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    played = before
    moves = AuditEntry.objects.filter(verb="moved").order_by("pk")
    for entry in moves:
        here, there = (turn - 1 for turn in entry.changes["turn"])
        played = after(played, played[here], there)
    assert len(moves) > 10 and order() == played


@pytest.mark.django_db(transaction=True)
def test_what_a_worker_takes_while_it_is_moved_stays_taken(alice: User, project: Project) -> None:
    runs = queue_runs(alice, project, 2)
    assert take(TrainingRun, "worker") == runs[0]
    assert not runs[0].place_at(NOW + 9)
    runs[0].refresh_from_db()
    assert (runs[0].status, runs[0].queue_place) == (Status.STARTING, NOW)
