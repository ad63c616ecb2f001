"""The list of runs: what it shows, finds and hides, and that it stays quick."""

from __future__ import annotations

import math

import pytest
from django.test import Client

from evsys_web.runs import metrics
from evsys_web.runs.models import Status, TrainingRun
from tests.evsys_web.runs.conftest import mock_config

URL = "/runs/"
QUERY_BUDGET = 8  # session, user, roles, count, keys, rows, and two for the losses


def page(client: Client, **parameters: str) -> str:
    return client.get(URL, parameters).content.decode()


def test_it_says_status_progress_loss_and_length_of_each_run(alice_client: Client, make_run):
    run = make_run(name="mine", status=Status.RUNNING, step=1234, num_steps=5000)
    metrics.append(run, 1234, {"train/mean_nll": 0.4321})
    text = page(alice_client)
    assert all(word in text for word in ("mine", "Running", "1,234 / 5,000", "0.4321", "mock_sft", "starter", "sums@1"))


def test_a_loss_that_is_no_number_is_said_in_a_word(alice_client: Client, make_run):
    metrics.append(make_run(), 1, {"train/mean_nll": math.nan})
    assert "NaN" in page(alice_client)


def test_the_last_loss_is_found_among_folded_points_and_among_live_ones(make_run):
    folded, live, none = make_run(), make_run(), make_run()
    for step in (1, 2, 3):
        metrics.append(folded, step, {"train/mean_nll": float(step)})
        metrics.append(live, step, {"train/mean_nll": 10.0 * step})
    metrics.fold(folded)
    metrics.append(live, 4, {"eval/validation_nll": 7.0})
    assert metrics.last_values(dict.fromkeys([folded.pk, live.pk, none.pk], "train/mean_nll")) == {folded.pk: 3.0, live.pk: 30.0}


def test_every_algorithm_is_judged_by_its_own_headline_in_as_few_queries(
    alice_client: Client, make_run, django_assert_max_num_queries
):
    for number, (kind, key) in enumerate(
        (("rl", "reward/mean"), ("dpo", "train/loss"), ("sdft", "kl/teacher"), ("gone", "no/such"))
    ):
        config = mock_config() | {"algorithm": {"kind": kind, "params": {}}}
        metrics.append(make_run(name=kind, config=config), 1, {key: 0.125 + number, "train/mean_nll": 99.0})
    metrics.append(make_run(is_external=True, config={}), 1, {"train/mean_nll": 7.5})
    with django_assert_max_num_queries(QUERY_BUDGET):
        text = page(alice_client)
    for words in (">0.125 ", "reward</div>", ">1.125<", ">2.125 ", "KL to the teacher</div>", ">7.5<"):
        assert words in text
    assert text.count('class="number">99<') == 1, "a kind that is not installed any more shows the loss"


def test_words_and_status_narrow_it(alice_client: Client, make_run):
    other = {**mock_config(), "model": {"name": "Qwen/Qwen3-0.6B"}}
    make_run(name="alpha one", status=Status.COMPLETED)
    make_run(name="beta two", status=Status.FAILED, config=other)
    assert "alpha one" in page(alice_client, q="one alpha") and "beta two" not in page(alice_client, q="one alpha")
    assert "beta two" in page(alice_client, q="qwen3") and "alpha one" not in page(alice_client, q="qwen3")
    assert "beta two" in page(alice_client, status="failed") and "alpha one" not in page(alice_client, status="failed")
    assert "No run fits" in page(alice_client, q="gamma")


def test_only_the_table_answers_a_search_by_htmx(alice_client: Client, make_run):
    make_run(name="alpha")
    text = alice_client.get(URL, {"q": "alpha"}, headers={"HX-Request": "true"}).content.decode()
    assert "alpha" in text and "<html" not in text


def test_it_asks_again_only_while_something_runs(alice_client: Client, make_run):
    run = make_run(status=Status.RUNNING)
    assert "every 4s" in page(alice_client)
    TrainingRun.objects.filter(pk=run.pk).update(status=Status.COMPLETED)
    assert "every 4s" not in page(alice_client)


def test_strangers_see_none_of_it_and_members_all(mallory_client: Client, bob_client: Client, make_run):
    make_run(name="secret")
    assert "secret" not in page(mallory_client) and "No runs yet" in page(mallory_client)
    assert "secret" in page(bob_client)


def test_hostile_names_are_escaped(alice_client: Client, make_run):
    make_run(name="<img src=x onerror=alert(1)>", dataset_reference="<b>x</b>@1")
    assert "<img src=x" not in page(alice_client) and "<b>x</b>" not in page(alice_client)


@pytest.mark.parametrize("number", ["0", "-1", "999999", "two", ""])
def test_a_page_that_is_not_there_shows_one_that_is(alice_client: Client, make_run, number):
    make_run(name="only one")
    assert "only one" in page(alice_client, page=number)


def test_ten_thousand_runs_cost_as_many_queries_as_two(
    alice_client: Client, alice, project, make_run, django_assert_max_num_queries
):
    for _ in range(2):
        metrics.append(make_run(status=Status.RUNNING), 1, {"train/mean_nll": 1.0})
    with django_assert_max_num_queries(QUERY_BUDGET):
        alice_client.get(URL)
    TrainingRun.objects.bulk_create(
        TrainingRun(project=project, created_by=alice, name=f"run {number}", config=mock_config(), status=Status.COMPLETED)
        for number in range(10_000)
    )
    with django_assert_max_num_queries(QUERY_BUDGET):
        assert "10,002 runs" in page(alice_client)
    with django_assert_max_num_queries(QUERY_BUDGET):
        assert "No run fits" in page(alice_client, q="nowhere", status="failed")
