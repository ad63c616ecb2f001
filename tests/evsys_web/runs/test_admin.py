"""Runs as staff see them."""

from __future__ import annotations

from typing import Any

from django.test import Client
from django.urls import reverse

from evsys_web.accounts.models import User
from evsys_web.runs.models import Status, TrainingRun
from tests.conftest import signed_in
from tests.evsys_web.runs.conftest import MakeRun


def test_staff_see_runs_and_the_traceback_of_a_crash(admin: User, held_run: TrainingRun) -> None:
    held_run.crash("It broke.", error_type="ValueError", detail="Traceback: line 1 <script>")
    client = signed_in(admin)
    assert held_run.name in client.get(reverse("admin:runs_trainingrun_changelist")).content.decode()
    page = client.get(reverse("admin:runs_trainingrun_change", args=[held_run.pk])).content.decode()
    assert "Traceback: line 1 &lt;script&gt;" in page


def test_nobody_makes_or_edits_a_run_in_the_admin(admin: User, run: TrainingRun) -> None:
    client = signed_in(admin)
    assert client.get(reverse("admin:runs_trainingrun_add")).status_code == 403
    assert client.post(reverse("admin:runs_trainingrun_change", args=[run.pk]), {"name": "x"}).status_code == 403
    run.refresh_from_db()
    assert run.name == "sums"


def test_a_running_run_cannot_be_deleted_and_an_ended_one_can(admin: User, held_run: TrainingRun, make_run: MakeRun) -> None:
    client = signed_in(admin)
    ended = make_run(status=Status.COMPLETED)
    for run in (held_run, ended):
        client.post(reverse("admin:runs_trainingrun_delete", args=[run.pk]), {"post": "yes"})
    assert list(TrainingRun.objects.all()) == [held_run]


def test_only_staff_get_there(alice_client: Client) -> None:
    assert alice_client.get(reverse("admin:runs_trainingrun_changelist")).status_code == 302


def test_runs_are_stopped_and_resumed_by_the_functions_of_the_pages(admin: User, make_run: MakeRun) -> None:
    client, queued, ended = signed_in(admin), make_run(), make_run(status=Status.FAILED, dataset_version=None)
    page = choose(client, "stop_chosen", queued, ended)
    queued.refresh_from_db()
    assert queued.status == Status.CANCELLED and "asked to stop" in page and "cannot be stopped" in page
    assert "was deleted, so this run cannot go on" in choose(client, "resume_chosen", ended)


def test_deleting_takes_the_runs_folder_along_and_lists_nothing_that_belongs_to_it(
    admin: User, make_run: MakeRun, django_capture_on_commit_callbacks: Any
) -> None:
    run = make_run(status=Status.COMPLETED)
    run.output_dir.mkdir(parents=True)
    address = reverse("admin:runs_trainingrun_delete", args=[run.pk])
    assert "with everything that belongs to it" in signed_in(admin).get(address).content.decode()
    with django_capture_on_commit_callbacks(execute=True):
        signed_in(admin).post(address, {"post": "yes"})
    assert not TrainingRun.objects.exists() and not run.output_dir.exists()


def test_a_list_asks_as_little_of_many_rows_as_of_few(admin: User, make_run: MakeRun, django_assert_max_num_queries: Any) -> None:
    """No count of the whole table beside that of the rows found, and no query per row."""
    make_run()
    TrainingRun.objects.bulk_create(make_run_unsaved(TrainingRun.objects.get(), number) for number in range(200))
    client = signed_in(admin)
    for query in ("", "?q=sums", "?status=queued", "?p=3", "?o=1"):
        with django_assert_max_num_queries(10) as asked:
            assert client.get(reverse("admin:runs_trainingrun_changelist") + query).status_code == 200
        counts = [each["sql"] for each in asked.captured_queries if "COUNT(" in each["sql"]]
        assert len(counts) <= 1 + ("?q" in query)


def make_run_unsaved(like: TrainingRun, number: int) -> TrainingRun:
    return TrainingRun(project=like.project, created_by=like.created_by, name=f"sums {number}", config=like.config)


def choose(client: Client, action: str, *runs: TrainingRun) -> str:
    sent = {"action": action, "_selected_action": [run.pk for run in runs]}
    return client.post(reverse("admin:runs_trainingrun_changelist"), sent, follow=True).content.decode()
