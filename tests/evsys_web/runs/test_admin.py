"""Runs as staff see them."""

from __future__ import annotations

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
