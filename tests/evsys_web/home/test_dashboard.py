from __future__ import annotations

from datetime import timedelta
from urllib.parse import urlsplit

import pytest
from django.test import Client
from django.utils.timezone import now
from pytest_django import DjangoAssertNumQueries

from evsys_web.datasets.models import Dataset, DatasetVersion
from evsys_web.runs.models import Status
from tests.evsys_web.home.conftest import MakeDataset, MakeRun


def page(client: Client) -> str:
    response = client.get("/")
    assert response.status_code == 200
    return response.content.decode()


def test_a_newcomer_is_led_to_the_first_run(alice_client: Client) -> None:
    text = page(alice_client)
    assert "Train the starter model" in text
    assert 'action="/starter"' in text


def test_the_first_button_leads_to_a_form_for_the_starter_rows(alice_client: Client) -> None:
    response = alice_client.post("/starter", follow=True)
    address, _ = response.redirect_chain[-1]
    version = DatasetVersion.objects.get()
    assert version.num_rows > 1000
    assert urlsplit(address).path == "/runs/new"
    assert f'<option value="{version.pk}" selected' in response.content.decode()


def test_pressing_it_twice_makes_one_dataset(alice_client: Client) -> None:
    alice_client.post("/starter")
    alice_client.post("/starter")
    assert Dataset.objects.count() == DatasetVersion.objects.count() == 1


def test_looking_makes_nothing(alice_client: Client) -> None:
    assert alice_client.get("/starter").status_code == 405
    page(alice_client)
    assert not Dataset.objects.exists()


def test_it_shows_what_runs_what_ended_and_why_it_broke(alice_client: Client, make_run: MakeRun) -> None:
    make_run("live one", Status.RUNNING, step=3, num_steps=12)
    make_run("waiting one", Status.QUEUED)
    make_run("good one", Status.COMPLETED, finished_at=now(), step=12, num_steps=12)
    make_run("bad one", Status.FAILED, finished_at=now(), error="The batch is larger than the data.")
    text = page(alice_client)
    assert "Train the starter model" not in text
    for words in (
        "live one",
        "Step 3 of 12",
        "waiting one",
        "Waits for a worker",
        "good one",
        "The batch is larger than the data.",
    ):
        assert words in text


def test_the_week_in_numbers_leaves_older_runs_out(alice_client: Client, make_run: MakeRun) -> None:
    make_run(status=Status.COMPLETED, finished_at=now())
    make_run(status=Status.COMPLETED, finished_at=now() - timedelta(days=8))
    make_run(status=Status.CRASHED, finished_at=now())
    assert alice_client.get("/").context["counts"] == {"running": 0, "queued": 0, "finished": 1, "broken": 1}


def test_the_refresh_is_the_live_part_alone(alice_client: Client, make_run: MakeRun) -> None:
    make_run("live one", Status.RUNNING)
    response = alice_client.get("/", headers={"HX-Request": "true"})
    text = response.content.decode()
    assert "HX-Request" in response["Vary"], "or the Back button shows the part instead of the page"
    assert "live one" in text
    assert "<html" not in text


def test_a_stranger_sees_none_of_it(mallory_client: Client, make_run: MakeRun, make_dataset: MakeDataset) -> None:
    make_run("secret run", Status.RUNNING)
    make_dataset("secret rows")
    text = page(mallory_client)
    assert "secret" not in text
    assert "Train the starter model" in text


def test_names_are_text_and_not_markup(alice_client: Client, make_run: MakeRun) -> None:
    make_run("<img src=x onerror=alert(1)>", Status.FAILED, error="<script>alert(2)</script>")
    text = page(alice_client)
    assert "<img src=x" not in text
    assert "<script>alert" not in text


@pytest.mark.parametrize("count", [1, 8, 30])
def test_it_asks_the_database_as_often_for_many_runs_as_for_one(
    alice_client: Client,
    make_run: MakeRun,
    make_dataset: MakeDataset,
    django_assert_num_queries: DjangoAssertNumQueries,
    count: int,
) -> None:
    for index in range(count):
        make_run(f"r{index}", Status.RUNNING)
        make_run(f"e{index}", Status.COMPLETED, finished_at=now())
        make_dataset(f"d{index}")
    with django_assert_num_queries(10):  # session, user, roles, counts of runs and of evals, cycles, live, ended, evals, datasets
        alice_client.get("/")
