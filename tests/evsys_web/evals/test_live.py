"""What the live stream of an eval says, page by page."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from evsys_web.evals import live
from evsys_web.evals.live import read_news
from evsys_web.evals.models import EvalRun
from evsys_web.evals.recorder import EvalRecorder
from evsys_web.sse import Frame
from recipes.evals.runner import EvalResult
from tests.evsys_web.evals.conftest import NUM_TASKS, attempt, tasks

pytestmark = pytest.mark.django_db(transaction=True)


def parts(frame: Frame) -> tuple[str, Any]:
    lines = dict(line.split(": ", 1) for line in frame.data.decode().splitlines() if line)
    return lines["event"], json.loads(lines["data"])


def test_changed_tasks_come_once_as_they_are_now(held_eval: EvalRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PAGE_SIZE", 4)
    with EvalRecorder(held_eval) as recorder:
        recorder.begin(tasks())
        for task in range(NUM_TASKS):
            recorder.on_attempt(attempt(task, 0))
            recorder.flush()
        recorder.on_attempt(attempt(0, 1, right=False))
        recorder.flush()
        recorder.result = EvalResult("completed", NUM_TASKS, 12, 7, 0)
    seen, bundles, events = 0, [], []
    more = True
    while more:
        news = read_news({held_eval.pk: seen})[held_eval.pk]
        for name, data in map(parts, news.frames):
            bundles += [[each["position"] for each in data["tasks"]]] if name == "tasks" else []
            events += [data["message"]] if name == "event" else []
        seen, more = news.cursor, news.more
    assert bundles == [[2, 3, 4, 5], [6, 1]]
    assert [text.split(":")[0] for text in events] == ["Begins", "Completed"]
    held_eval.refresh_from_db()
    assert seen == held_eval.last_seq and news.ended
    name, status = parts(news.state)
    assert name == "status" and (status["num_done"], status["num_attempts"]) == (7, 12)
    assert status["avg"]["value"] == held_eval.summary["avg"]["value"]
    assert read_news({held_eval.pk: seen})[held_eval.pk].frames == []


def test_a_stranger_gets_no_stream(alice_client: Client, mallory_client: Client, eval_run: EvalRun) -> None:
    url = reverse("evals:live", args=[eval_run.pk])
    assert mallory_client.get(url).status_code == 404
    answer = alice_client.get(url)
    assert answer.status_code == 200 and answer["Content-Type"] == "text/event-stream"
