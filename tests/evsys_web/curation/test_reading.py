"""The first preview of an eval that takes long to read."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from io import StringIO

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import reverse

from evsys_web.curation import reading
from evsys_web.curation.management.commands import curate
from evsys_web.evals.models import EvalRun
from tests.evsys_web.curation.test_pages import before_of, plain, preview

URL = "/api/v1/curations/preview"


def test_a_page_that_waits_for_a_large_eval_says_how_far_it_is_and_asks_again(
    alice_client: Client, alice_headers: dict[str, str], run: EvalRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end = threading.Event()

    def slowly(run: EvalRun, *, tell: Callable[[int], None]) -> None:
        tell(7)
        assert may_end.wait(60)

    monkeypatch.setattr(reading, "columns_of", slowly)
    monkeypatch.setattr(reading, "SLOW_FROM", 1)
    monkeypatch.setattr(reading, "WAIT_SECONDS", 0.0)
    waiting, _ = preview(alice_client, run, filter="avg > 0", before="earlier")
    assert "Reading 16 attempts." in plain(waiting) and 'hx-trigger="load delay:1s"' in waiting
    assert before_of(waiting) == "earlier"
    (thread,) = [each for each in threading.enumerate() if each.name == f"columns-{run.pk}"]
    assert "Reading 16 attempts." in plain(preview(alice_client, run, filter="avg > 0")[0]), "and nothing is read twice"
    assert [each for each in threading.enumerate() if each.name == thread.name] == [thread]
    told = alice_client.post(f"{URL}?wait=false", {"eval_runs": [run.pk]}, "application/json", headers=alice_headers)
    assert (told.status_code, told.json()) == (202, {"num_read": 7, "num_attempts": 16})
    asked = {"eval": run.pk, "filter": "avg >"}
    answers = [
        alice_client.get(reverse("curation:preview"), asked, headers=headers) for headers in ({}, {"HX-Trigger": "result"})
    ]
    assert [answer["HX-Reswap"] for answer in answers] == ["none", "innerHTML"]  # the card asked: it must not go on to say so
    may_end.set()
    thread.join(60)
    assert not thread.is_alive() and "What this keeps" in preview(alice_client, run, filter="avg > 0")[0]


def test_the_command_says_on_stderr_how_far_the_reading_of_a_large_eval_is(run: EvalRun, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(run: EvalRun, *, tell: Callable[[int], None]) -> None:
        for num_read in range(1, 17):
            tell(num_read)

    monkeypatch.setattr(curate, "columns_of", read)
    monkeypatch.setattr(reading, "SLOW_FROM", 1)
    said, found = StringIO(), StringIO()
    call_command("curate", run.pk, "--dry-run", "--json", "--user", "alice", stdout=found, stderr=said)
    first, *others = said.getvalue().splitlines()
    assert first.startswith("Reading 16 attempts of eval run") and others[0] == "2 of 16" and others[-1] == "16 of 16"
    assert len(others) == 10 and json.loads(found.getvalue())["counts"]
