"""The page of an eval: figures, tasks sorted and filtered on the server, the curve, what each button does, and who sees what."""

from __future__ import annotations

import re

import pytest
from django.test import Client

from evsys_web.evals.models import EvalRun, EvalTask, outcome_of
from evsys_web.runs.status import Status
from recipes.evals.metrics import summarise
from tests.conftest import as_read
from tests.evsys_web.evals.eval_runs import build_eval

VERDICTS = {"a": [True, True], "b": [False, False], "c": [True, False], "d": [None, None], "e": [None, True]}
PARTS = ("", "header", "figures", "tasks", "curve", "events", "yaml", "live", "tasks/1")
QUERY_BUDGET = 8  # session, user, roles, the eval, count, tasks, filters, events


def body(client: Client, path: str, **parameters: str) -> str:
    return as_read(client.get(path, parameters))


def listed(text: str) -> list[str]:
    """The ids of the tasks in the table, in order."""
    return re.findall(r'class="title" href="/evals/\d+/tasks/\d+[^"]*">(\w+)<', text)


@pytest.fixture
def run(alice, project) -> EvalRun:
    return build_eval(project, alice, VERDICTS, name="mine")


def test_it_shows_figures_with_their_intervals(alice_client: Client, run):
    text = body(alice_client, run.get_absolute_url())
    avg = run.summary["avg"]
    assert f"{100 * avg['value']:.1f} %" in text and f"{100 * avg['low']:.1f} – {100 * avg['high']:.1f} %" in text
    assert "pass@2" in text and "pass^k" in text and "kind: numeric" in text


@pytest.mark.parametrize(
    ("show", "expected"),
    [("all", "abcde"), ("failed", "b"), ("solved", "ae"), ("mixed", "c"), ("error", "de"), ("nonsense", "abcde")],
)
def test_the_server_filters_the_tasks(alice_client: Client, run, show, expected):
    assert listed(body(alice_client, f"{run.get_absolute_url()}tasks", show=show)) == list(expected)


@pytest.mark.parametrize(
    ("sort", "expected"),
    [
        ("-position", "edcba"),
        ("right", "bcaed"),
        ("-right", "aecbd"),
        ("-errors", "deabc"),
        ("-task", "edcba"),
        ("x'--", "abcde"),
    ],
)
def test_the_server_sorts_the_tasks_and_puts_those_without_a_verdict_last(alice_client: Client, run, sort, expected):
    assert listed(body(alice_client, f"{run.get_absolute_url()}tasks", sort=sort)) == list(expected)


def test_j_and_k_walk_through_what_is_shown(alice_client: Client, run):
    text = body(alice_client, f"{run.get_absolute_url()}tasks/4", show="error")
    assert re.search(r'/tasks/5\?show=error" data-key="j"', text) and 'data-key="k"' not in text
    text = body(alice_client, f"{run.get_absolute_url()}tasks/1", sort="-right")
    assert re.search(r'/tasks/5\?sort=-right" data-key="j"', text) and 'data-key="k"' not in text
    text = body(alice_client, f"{run.get_absolute_url()}tasks/3")
    assert re.search(r'/tasks/4" data-key="j"', text) and re.search(r'/tasks/2" data-key="k"', text)


def test_strangers_find_no_part_of_it(mallory_client: Client, bob_client: Client, run):
    for part in PARTS:
        assert mallory_client.get(f"{run.get_absolute_url()}{part}").status_code == 404, part
    for part in ("stop", "resume", "retry-errors", "delete"):
        assert mallory_client.post(f"{run.get_absolute_url()}{part}").status_code == 404, part
    assert EvalRun.objects.get().status == Status.COMPLETED
    assert "mine" in body(bob_client, run.get_absolute_url())


def test_buttons_fit_how_it_stands(alice_client: Client, alice, project, run):
    text = body(alice_client, run.get_absolute_url())
    assert "Retry only errors" in text and "Resume" not in text and ">Stop" not in text
    stopped = build_eval(project, alice, status=Status.CANCELLED)
    text = body(alice_client, stopped.get_absolute_url())
    assert "Resume" in text and "Retry only errors" not in text
    running = build_eval(project, alice, status=Status.RUNNING)
    text = body(alice_client, running.get_absolute_url())
    assert "Stop" in text and "Delete eval" not in text and f"/evals/{running.pk}/live?after=" in text


def test_an_error_is_said_with_what_was_kept_and_the_traceback_to_staff_alone(alice_client: Client, admin_client, alice, project):
    run = build_eval(project, alice, status=Status.FAILED, error="The endpoint answered 401.", error_detail="Traceback secret")
    text = body(alice_client, run.get_absolute_url())
    assert "The endpoint answered 401." in text and "What was done is kept." in text and "Traceback secret" not in text
    assert "Traceback secret" in body(admin_client, run.get_absolute_url())


def test_deleting_asks_nobody_else_and_leads_to_the_list(alice_client: Client, run):
    answer = alice_client.post(f"{run.get_absolute_url()}delete", follow=True)
    assert answer.redirect_chain[-1][0] == "/evals/" and not EvalRun.objects.exists()
    assert "mine and its attempts are deleted." in answer.content.decode()


def test_hostile_tasks_are_escaped(alice_client: Client, alice, project):
    run = build_eval(project, alice, {'"><script>alert(1)</script>': [True]}, name="</title><script>")
    for part in ("", "tasks", "tasks/1", "header"):
        assert "<script>" not in body(alice_client, f"{run.get_absolute_url()}{part}"), part


def test_twenty_thousand_tasks_paint_quickly_from_few_queries(
    alice_client: Client, alice, project, django_assert_max_num_queries
):
    run = build_eval(project, alice, {}, num_tasks=20_000, k=8)
    tasks = [
        EvalTask(
            eval_run=run,
            position=position,
            task_id=f"task-{position}",
            n=8,
            num_correct=position % 9,
            accuracy=position % 9 / 8,
            outcome=outcome_of(8, position % 9, 0),
        )
        for position in range(1, 20_001)
    ]
    EvalTask.objects.bulk_create(tasks, batch_size=2000)
    EvalRun.objects.update(summary=summarise(run.task_counts()).as_json())
    with django_assert_max_num_queries(QUERY_BUDGET):
        text = body(alice_client, run.get_absolute_url(), sort="right")
    assert "1–50 of 20,000 tasks" in text
