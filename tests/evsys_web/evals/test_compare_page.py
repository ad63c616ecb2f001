"""Two evals beside each other: an honest sentence, the tasks that changed with the way to both, and nothing for strangers."""

from __future__ import annotations

from django.test import Client

from evsys_web.evals.comparison import RunsCompared, say
from tests.conftest import as_read
from tests.evsys_web.evals.eval_runs import build_eval


def body(client: Client, **parameters: object) -> str:
    return as_read(client.get("/evals/compare", parameters))


def many(right: int, of: int) -> dict[str, list[bool | None]]:
    return {f"t{number}": [number < right] for number in range(of)}


def test_a_clear_difference_is_said_with_its_interval_and_p_value(alice_client: Client, alice, project):
    a, b = build_eval(project, alice, many(5, 40)), build_eval(project, alice, many(30, 40))
    text = body(alice_client, a=a.pk, b=b.pk)
    assert "B is right more often than A, by 62.5 points on the 40 tasks in common (95 % interval" in text
    assert "p &lt; 0.001" in text
    assert say(RunsCompared(b, a).comparison).sentence.startswith("B is right less often than A, by 62.5 points")
    whole = alice_client.get("/evals/compare", {"a": a.pk, "b": b.pk}).content.decode()
    assert "62.5\N{NO-BREAK SPACE}points" in whole, "no line ends between them"
    found = RunsCompared(a, b).comparison
    assert (say(found).level, say(found, num_leaked=3).level) == ("success", "warning")  # tasks were left out by what they taught


def test_where_nothing_can_be_seen_it_says_what_could_have_been(alice_client: Client, alice, project):
    verdicts = {"a": [True], "b": [False], "c": [True], "d": [False], "e": [True]}
    a, b = build_eval(project, alice, verdicts), build_eval(project, alice, {**verdicts, "a": [False], "b": [True], "c": [False]})
    text = body(alice_client, a=a.pk, b=b.pk)
    assert "No difference can be seen" in text and "would be seen four times out of five" in text


def test_tasks_that_changed_lead_to_both_attempts(alice_client: Client, alice, project):
    a = build_eval(project, alice, {"same": [True, True], "won": [False, False], "lost": [True, False]})
    b = build_eval(project, alice, {"won": [True, False], "lost": [False, False], "same": [True, True], "new": [True]})
    compared = RunsCompared(a, b)
    assert [(pair.task_id, pair.position_a, pair.position_b) for pair in compared.newly_solved()] == [("won", 2, 1)]
    assert [(pair.task_id, pair.position_a, pair.position_b) for pair in compared.newly_broken()] == [("lost", 3, 2)]
    text = body(alice_client, a=a.pk, b=b.pk)
    assert f'href="/evals/{a.pk}/tasks/2"' in text and f'href="/evals/{b.pk}/tasks/1"' in text
    assert "Left out: 1 task only in B." in text


def test_evals_without_a_common_task_are_not_compared(alice_client: Client, alice, project):
    a, b = build_eval(project, alice, {"x": [True]}), build_eval(project, alice, {"y": [True], "x": [None]})
    assert "Nothing in common" in body(alice_client, a=a.pk, b=b.pk)


def test_two_ticked_ones_come_in_the_order_they_were_made(alice_client: Client, alice, project):
    a, b = build_eval(project, alice, many(0, 9)), build_eval(project, alice, many(9, 9))
    assert "B is right more often" in body(alice_client, run=[b.pk, a.pk])


def test_nonsense_in_the_address_asks_for_a_choice(alice_client: Client, alice, project):
    build_eval(project, alice)
    for parameters in ({}, {"a": "x", "b": "9" * 30}, {"run": ["1' or 1"]}, {"a": "-1", "b": "0"}, {"run": ["7"]}):
        assert "Choose two evals" in body(alice_client, **parameters)


def test_strangers_evals_are_neither_shown_nor_offered(mallory_client: Client, alice, project):
    a, b = build_eval(project, alice, name="secret"), build_eval(project, alice, name="secret")
    text = body(mallory_client, a=a.pk, b=b.pk)
    assert "secret" not in text and "Choose two evals" in text


def test_hostile_names_are_escaped(alice_client: Client, alice, project):
    a, b = (build_eval(project, alice, {"<b>t</b>": [right]}, name="<script>x</script>") for right in (True, False))
    text = body(alice_client, a=a.pk, b=b.pk)
    assert "<script>x" not in text and "<b>t" not in text
