"""The operator's page and /metrics: what they say, and who may read them."""

from __future__ import annotations

import os
from datetime import timedelta

import pytest
from django.test import Client
from django.utils.timezone import now
from prometheus_client.parser import text_string_to_metric_families

from evsys_web.accounts.models import ApiToken, Scope, User
from evsys_web.home import beats, operations
from evsys_web.home.models import Worker
from evsys_web.runs.models import Status
from tests.conftest import signed_in, token_headers
from tests.evsys_web.home.conftest import MakeRun

pytestmark = pytest.mark.django_db


def samples(text: str) -> dict[tuple[str, ...], float]:
    """By name and label values, in the order of the labels' names."""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_queue_that_nobody_reads_is_said_with_what_to_start(admin: User, make_run: MakeRun) -> None:
    asked = now() - timedelta(minutes=5)
    make_run("waits again", status=Status.QUEUED, created_at=asked - timedelta(days=30), queued_at=asked)
    training = next(queue for queue in operations.queues() if queue.name == "training")
    assert (training.num_waiting, training.num_workers, training.is_unread) == (1, 0, True)
    assert 300 <= training.seconds < 400
    page = signed_in(admin).get("/operations/").content.decode()
    assert "Nobody reads it: start a worker with -Q training." in page


def test_a_worker_that_beats_reads_its_queues_until_it_falls_silent(admin: User) -> None:
    beats.beat("evsys@here")
    worker = Worker.objects.get()
    assert (worker.process_id, worker.is_silent) == (os.getpid(), False)
    beats.beat("evsys@here")
    assert Worker.objects.get().seen_at == worker.seen_at, "two beats at once cost one write"
    Worker.objects.update(seen_at=now() - timedelta(minutes=2))
    assert "Silent" in signed_in(admin).get("/operations/").content.decode()
    beats.beat("evsys@here")
    assert not Worker.objects.get().is_silent
    assert Worker.objects.get().started_at == worker.started_at


def test_a_restarted_worker_of_that_name_begins_anew_and_a_long_silent_one_is_forgotten() -> None:
    old = {"queues": [], "started_at": now() - timedelta(days=1)}
    Worker.objects.create(name="evsys@here", process_id=os.getpid() + 1, seen_at=now(), **old)
    Worker.objects.create(name="evsys@gone", process_id=1, seen_at=now() - timedelta(hours=2), **old)
    beats.beat("evsys@here")
    (worker,) = Worker.objects.all()
    assert worker.process_id == os.getpid()
    assert worker.started_at > now() - timedelta(minutes=1)


def test_the_page_shows_who_holds_what_and_what_broke(admin: User, make_run: MakeRun) -> None:
    make_run(
        "held", status=Status.RUNNING, lease_owner="evsys@gpu1/abc", lease_until=now() - timedelta(seconds=5), started_at=now()
    )
    make_run("<b>broken</b>", status=Status.FAILED, error="<script>alert(1)</script>", finished_at=now())
    page = signed_in(admin).get("/operations/").content.decode()
    assert "evsys@gpu1" in page and "run out" in page
    assert "&lt;b&gt;broken&lt;/b&gt;" in page and "<script>alert" not in page
    fragment = signed_in(admin).get("/operations/", headers={"HX-Request": "true"}).content.decode()
    assert "<html" not in fragment and "evsys@gpu1" in fragment


def test_nobody_but_superusers_sees_the_page(client: Client, alice_client: Client, mallory_client: Client) -> None:
    assert client.get("/operations/").status_code == 302
    for visitor in (alice_client, mallory_client):
        assert visitor.get("/operations/").status_code == 404
        assert visitor.get("/metrics").status_code == 404
        assert "Operations" not in visitor.get("/").content.decode()


def test_prometheus_reads_with_the_token_of_a_superuser(client: Client, admin: User, make_run: MakeRun) -> None:
    make_run(status=Status.QUEUED)
    make_run(status=Status.CRASHED)
    beats.beat("evsys@here")
    client.get("/health/live")
    response = client.get("/metrics", headers=token_headers(admin, scope=Scope.READ))
    assert response.status_code == 200
    assert response["Content-Type"].startswith("text/plain")
    found = samples(response.content.decode())
    assert found["evsys_queue_waiting", "training"] == 1
    assert found["evsys_work", "training run", "crashed"] == 1
    assert found["evsys_worker_seen_timestamp_seconds", "evsys@here"] > 1e9
    assert found["evsys_database_bytes",] > 0
    assert found["evsys_disk_free_bytes",] > 0
    assert found["evsys_http_request_seconds_count", "GET", "2xx", "home:live"] >= 1


@pytest.mark.parametrize("header", ["Bearer evs_wrong", "Bearer", "Basic YWRtaW46YWRtaW4=", "Bearer {alice}", "Bearer {revoked}"])
def test_any_other_token_is_refused(client: Client, alice: User, admin: User, header: str) -> None:
    revoked, secret = ApiToken.objects.issue(admin, name="old")
    ApiToken.objects.revoke(revoked.pk)
    hers = token_headers(alice)["Authorization"].partition(" ")[2]
    response = client.get("/metrics", headers={"Authorization": header.format(alice=hers, revoked=secret)})
    assert response.status_code == 401
    assert b"evsys_" not in response.content


def test_an_address_that_anybody_can_think_of_makes_no_series(client: Client, admin: User) -> None:
    for number in range(5):
        client.get(f"/no-such-page-{number}")
    text = client.get("/metrics", headers=token_headers(admin)).content.decode()
    assert "no-such-page" not in text


def test_the_numbers_cost_few_queries(
    client: Client, admin: User, make_run: MakeRun, django_assert_max_num_queries: pytest.FixtureRequest
) -> None:
    for number in range(30):
        make_run(f"run {number}", status=[Status.QUEUED, Status.RUNNING, Status.FAILED][number % 3])
    browser = signed_in(admin)
    with django_assert_max_num_queries(30):  # type: ignore[operator]
        browser.get("/operations/")
