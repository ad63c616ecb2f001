from __future__ import annotations

import re

from django.test import Client
from pytest_django import DjangoAssertNumQueries

from tests.evsys_web.home.conftest import MakeDataset, MakeRun


def found(client: Client, words: str) -> list[str]:
    text = client.get("/search", {"q": words}).content.decode()
    return re.findall(r'<a href="([^"]+)" role="option"', text)


def test_it_finds_runs_and_datasets_by_every_word_in_any_order(
    alice_client: Client, make_run: MakeRun, make_dataset: MakeDataset
) -> None:
    run, dataset = make_run("Sums with a high rate"), make_dataset("rate limits")
    make_run("something else")
    assert found(alice_client, "RATE sums") == [run.get_absolute_url()]
    assert found(alice_client, "rate") == [run.get_absolute_url(), dataset.get_absolute_url()]


def test_without_words_it_offers_the_newest_and_the_pages(alice_client: Client, make_run: MakeRun) -> None:
    run = make_run()
    links = found(alice_client, "")
    assert links[0] == run.get_absolute_url()
    assert "/runs/new" in links
    assert "/api/docs" in links


def test_pages_are_found_too(alice_client: Client) -> None:
    assert found(alice_client, "tokens") == ["/accounts/tokens/"]


def test_nothing_found_is_said_with_the_words_as_text(alice_client: Client) -> None:
    text = alice_client.get("/search", {"q": "<b>nope</b>"}).content.decode()
    assert "Nothing is called" in text
    assert "<b>" not in text


def test_a_stranger_finds_none_of_it(mallory_client: Client, make_run: MakeRun, make_dataset: MakeDataset) -> None:
    make_run("zebra")
    make_dataset("zebra")
    assert found(mallory_client, "zebra") == []


def test_signs_of_the_query_language_are_plain_text(alice_client: Client, make_run: MakeRun) -> None:
    make_run("plain")
    for words in ("%", "_lain", "'; DROP TABLE", "\\", "\0x", "x" * 3000):
        assert found(alice_client, words) == []


def test_it_costs_six_queries(alice_client: Client, make_run: MakeRun, django_assert_num_queries: DjangoAssertNumQueries) -> None:
    for index in range(12):
        make_run(f"r{index}")
    with django_assert_num_queries(6):  # session, user, cycles, runs, evals, datasets
        alice_client.get("/search", {"q": "r"})
