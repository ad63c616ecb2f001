"""The list of evals and the page of a benchmark: what they show, find and hide."""

from __future__ import annotations

import pytest
from django.test import Client

from evsys_web.evals.models import EvalRun
from evsys_web.runs.status import Status
from tests.conftest import as_read
from tests.evsys_web.evals.eval_runs import build_eval

QUERY_BUDGET = 6  # session, user, roles, count, keys, rows


def page(client: Client, **parameters: str) -> str:
    return as_read(client.get("/evals/", parameters))


def test_it_says_status_attempts_share_right_and_interval_of_each(alice_client: Client, alice, project):
    run = build_eval(project, alice, name="mine")
    text = page(alice_client)
    assert all(word in text for word in ("mine", "Completed", "50.0 %", "starter", "Sums"))
    low, high = (100 * run.summary["avg"][end] for end in ("low", "high"))
    assert f"{low:.1f} – {high:.1f} %" in text
    assert "66.7 %" in text and "k = 2" in text, "pass@2 of one solved, one mixed and one failed task"


def test_errors_are_counted_beside_the_attempts(alice_client: Client, alice, project):
    build_eval(project, alice, {"one": [True, None]})
    assert "1 error" in page(alice_client)


def test_words_and_status_narrow_it(alice_client: Client, alice, project):
    build_eval(project, alice, name="alpha")
    build_eval(project, alice, name="beta", model_label="gpt-x", status=Status.FAILED)
    assert "beta" in page(alice_client, q="GPT") and "alpha" not in page(alice_client, q="GPT")
    assert "beta" in page(alice_client, status="failed") and "alpha" not in page(alice_client, status="failed")
    assert "No eval fits" in page(alice_client, q="gamma") and "No eval fits" in page(alice_client, q="\0gamma")


def test_it_asks_again_only_while_something_is_live(alice_client: Client, alice, project):
    run = build_eval(project, alice, status=Status.RUNNING)
    assert "every 4s" in page(alice_client)
    EvalRun.objects.filter(pk=run.pk).update(status=Status.COMPLETED)
    assert "every 4s" not in page(alice_client)


def test_strangers_see_none_of_it_and_members_all(mallory_client: Client, bob_client: Client, alice, project):
    run = build_eval(project, alice, name="secret eval")
    assert "secret eval" not in page(mallory_client) and "secret eval" in page(bob_client)
    assert mallory_client.get(f"/evals/benchmarks/{run.benchmark_id}/").status_code == 404
    assert "secret eval" in bob_client.get(f"/evals/benchmarks/{run.benchmark_id}/").content.decode()


def test_hostile_words_are_escaped(alice_client: Client, alice, project):
    build_eval(project, alice, name="<img src=x onerror=alert(1)>", model_label="<b>model</b>")
    assert "<img src=x" not in page(alice_client) and "<b>model</b>" not in page(alice_client)


@pytest.mark.parametrize("number", ["0", "-1", "999999", "two", ""])
def test_a_page_that_is_not_there_shows_one_that_is(alice_client: Client, alice, project, number):
    build_eval(project, alice, name="only one")
    assert "only one" in page(alice_client, page=number)


def test_a_long_list_costs_as_many_queries_as_a_short_one(alice_client: Client, alice, project, django_assert_max_num_queries):
    run = build_eval(project, alice)
    with django_assert_max_num_queries(QUERY_BUDGET):
        page(alice_client)
    EvalRun.objects.bulk_create(
        EvalRun(project=project, name=f"eval {number}", benchmark=run.benchmark, status=Status.COMPLETED) for number in range(500)
    )
    with django_assert_max_num_queries(QUERY_BUDGET):
        assert "501 evals" in page(alice_client)


def test_benchmarks_are_listed_with_their_newest_eval_to_members_only(
    alice_client: Client, mallory_client: Client, alice, project, django_assert_max_num_queries
):
    empty = alice_client.get("/evals/benchmarks/").content.decode()
    assert "No benchmark yet" in empty
    build_eval(project, alice, {"one": [False]}, name="older eval")
    build_eval(project, alice, name="newest eval")
    build_eval(project, alice, {}, name="nothing done")
    with django_assert_max_num_queries(QUERY_BUDGET):
        text = as_read(alice_client.get("/evals/benchmarks/"))
    assert "Sums" in text and "newest eval" in text and "50.0 %" in text and "older eval" not in text
    assert 'data-label="Evals" class="number">3</td>' in text
    assert "Sums" not in mallory_client.get("/evals/benchmarks/").content.decode()
