"""The queue as page and API: what is seen of it, who may change what, and that the workers' order is the one shown."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.core.exceptions import PermissionDenied
from django.test import Client

from evsys_web.accounts.models import Project, Role, User
from evsys_web.cycles.models import Cycle
from evsys_web.evals.models import EvalRun
from evsys_web.queue.actions import move, set_limits, set_priority
from evsys_web.runs.actions import RunRefused
from evsys_web.runs.models import QueueLimits, Status, TrainingRun
from evsys_web.runs.status import Priority
from evsys_web.runs.turns import in_turn, take
from tests.conftest import signed_in, token_headers
from tests.evsys_web.runs.conftest import MakeRun
from tests.evsys_web.runs.conftest import make_run as make_run

pytestmark = pytest.mark.django_db
HTMX = {"HX-Request": "true"}


def names() -> list[str]:
    by_pk = dict(TrainingRun.objects.values_list("pk", "name"))
    return [by_pk[row.pk] for row in in_turn(TrainingRun)]


@pytest.fixture
def runs(make_run: MakeRun) -> dict[str, TrainingRun]:
    return {name: make_run(name=name) for name in ("a", "b", "c", "d")}


@pytest.mark.parametrize(
    ("name", "to", "after"),
    [
        ("c", "first", "cabd"),
        ("c", "up", "acbd"),
        ("b", "down", "acbd"),
        ("a", "last", "bcda"),
        ("a", "up", "abcd"),
        ("a", "first", "abcd"),
        ("d", "down", "abcd"),
    ],
)
def test_moving_changes_the_order_in_which_workers_take(
    alice: User, runs: dict[str, TrainingRun], name: str, to: Any, after: str
) -> None:
    assert move(user=alice, work=runs[name], to=to) is (after != "abcd")
    assert "".join(names()) == after
    assert [run.name for run in iter(lambda: take(TrainingRun, "worker"), None)] == list(after)


def test_rows_of_the_same_instant_can_be_moved(alice: User, runs: dict[str, TrainingRun]) -> None:
    TrainingRun.objects.update(queue_place=5.0)
    assert move(user=alice, work=runs["d"], to="up") and "".join(names()) == "abdc"
    assert move(user=alice, work=runs["b"], to="first") and "".join(names()) == "badc"


def test_nobody_moves_before_others_only_among_their_own(alice: User, bob: User, make_run: MakeRun) -> None:
    make_run(name="hers")
    his = [make_run(name=f"his {number}", created_by=bob) for number in range(3)]
    assert names() == ["hers", "his 0", "his 1", "his 2"]
    move(user=bob, work=his[2], to="first")
    assert names() == ["hers", "his 2", "his 0", "his 1"]


def test_who_may_change_what(alice: User, bob: User, mallory: User, make_run: MakeRun) -> None:
    hers, his = make_run(name="hers"), make_run(name="his", created_by=bob)
    with pytest.raises(PermissionDenied, match="Only whoever made this"):
        move(user=bob, work=hers, to="last")
    with pytest.raises(PermissionDenied):
        move(user=mallory, work=hers, to="last")
    with pytest.raises(PermissionDenied, match="Only an admin"):
        set_priority(user=bob, work=his, priority=Priority.HIGH)
    set_priority(user=bob, work=his, priority=Priority.LOW)
    set_priority(user=alice, work=his, priority=Priority.HIGH)
    assert names() == ["his", "hers"]
    with pytest.raises(PermissionDenied):
        set_limits(user=bob, project=hers.project, max_running=1, max_waiting=None)


def test_what_does_not_wait_has_no_place(alice: User, make_run: MakeRun) -> None:
    run = make_run()
    assert run.start("worker")
    with pytest.raises(RunRefused, match="does not wait any more"):
        move(user=alice, work=run, to="first")
    set_priority(user=alice, work=run, priority=Priority.LOW)
    assert run.complete()
    with pytest.raises(RunRefused, match="has ended"):
        set_priority(user=alice, work=run, priority=Priority.LOW)


def test_the_page_shows_what_works_and_waits_and_of_strangers_only_that_it_is_there(
    alice_client: Client, runs: dict[str, TrainingRun], project: Project, mallory: User
) -> None:
    assert runs["a"].start("worker")
    eval_run = EvalRun.objects.create(project=project, name="judged", status=Status.QUEUED)
    Cycle.objects.create(project=project, name="the circle", status=Status.RUNNING, current_eval=eval_run)
    page = alice_client.get("/queue/").content.decode()
    assert "1 running, 3 waiting" in page and "part of the cycle" in page and "the circle" in page
    assert page.index(">b<") < page.index(">c<") < page.index(">d<")
    seen = signed_in(mallory).get("/queue/").content.decode()
    assert seen.count("Run of another project") == 4 and "judged" not in seen and "the circle" not in seen and ">b<" not in seen


def test_buttons_move_and_prioritize(alice_client: Client, runs: dict[str, TrainingRun], bob: User) -> None:
    moved = alice_client.post(f"/queue/runs/{runs['d'].pk}/move", {"to": "first"}, headers=HTMX).content.decode()
    assert "".join(names()) == "dabc" and "<html" not in moved
    alice_client.post(f"/queue/runs/{runs['c'].pk}/move", {"priority": "high"})
    assert "".join(names()) == "cdab"
    for nothing in ({}, {"to": "sideways"}, {"priority": "9"}):
        assert alice_client.post(f"/queue/runs/{runs['c'].pk}/move", nothing).status_code == 302
    assert "".join(names()) == "cdab"
    refused = signed_in(bob).post(f"/queue/runs/{runs['a'].pk}/move", {"to": "first"}, headers=HTMX).content.decode()
    assert "Only whoever made this" in refused


@pytest.mark.parametrize("text", ["-1", "many", "1e3", "99999999999999999999", "٣"])
def test_a_limit_that_is_none_is_refused_with_a_sentence(alice_client: Client, project: Project, text: str) -> None:
    page = alice_client.post(f"/queue/limits/{project.pk}", {"max_running": text}, follow=True).content.decode()
    assert "A limit is a number from 0 to 100,000" in page and not QueueLimits.objects.exists()


def test_limits_are_set_and_taken_away(alice_client: Client, bob_client: Client, project: Project) -> None:
    alice_client.post(f"/queue/limits/{project.pk}", {"max_running": "2", "max_waiting": ""})
    assert QueueLimits.objects.values_list("max_running", "max_waiting").get() == (2, None)
    assert b"Only an admin" in bob_client.post(f"/queue/limits/{project.pk}", {"max_running": ""}, follow=True).content
    assert b'value="2"' in alice_client.get("/queue/").content
    alice_client.post(f"/queue/limits/{project.pk}", {})
    assert QueueLimits.objects.get().max_running is None


def test_the_api_does_the_same(client: Client, alice_headers: dict[str, str], runs: dict[str, TrainingRun], bob: User) -> None:
    def post(name: str, headers: dict[str, str] = alice_headers, **body: Any) -> Any:
        return client.post(f"/api/v1/queue/runs/{runs[name].pk}", json.dumps(body), "application/json", headers=headers)

    shown = post("d", to="first").json()[0]
    assert shown["name"] == "training" and [each["name"] for each in shown["waiting"]] == ["d", "a", "b", "c"]
    assert [each["position"] for each in shown["waiting"]] == [1, 2, 3, 4]
    assert post("b", priority="high").json()[0]["waiting"][0]["priority"] == "high"
    assert post("b", to="sideways").status_code == 422
    assert post("b", headers=token_headers(bob), to="last").status_code == 403
    limits = f"/api/v1/queue/limits/{runs['a'].project_id}"
    assert client.get(limits, headers=alice_headers).json() == {"max_running": None, "max_waiting": None}
    put = client.put(limits, json.dumps({"max_running": 0}), "application/json", headers=alice_headers)
    assert put.json() == {"max_running": 0, "max_waiting": None}
    assert all(each["held"] for each in client.get("/api/v1/queue", headers=alice_headers).json()[0]["waiting"])
    assert client.put(limits, json.dumps({"max_running": -1}), "application/json", headers=alice_headers).status_code == 422


def test_the_page_costs_as_many_queries_for_many_as_for_few(
    alice_client: Client, make_run: MakeRun, django_assert_max_num_queries: Any
) -> None:
    for number in range(12):
        make_run(name=str(number))
    with django_assert_max_num_queries(30):
        alice_client.get("/queue/")


def test_who_only_looks_by_now_is_shown_no_buttons_for_what_they_launched(bob: User, project: Project, make_run: MakeRun) -> None:
    for name in ("his", "his too"):
        make_run(name=name, created_by=bob)
    assert "queue-moves" in signed_in(bob).get("/queue/", headers=HTMX).content.decode()
    bob.memberships.filter(project=project).update(role=Role.VIEWER)
    page = signed_in(bob).get("/queue/", headers=HTMX).content.decode()
    assert "his too" in page and "queue-moves" not in page and "queue-priority" not in page
