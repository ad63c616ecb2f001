"""The live stream of a run, from rows to a client that loses its connection."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import uvicorn
from django.core.asgi import get_asgi_application
from django.test import Client
from django.urls import reverse

from evsys_web.runs import live, metrics
from evsys_web.runs.live import read_news
from evsys_web.runs.models import Checkpoint, RunEvent, Status, TrainingRun
from tests.evsys_web.runs.conftest import MakeRun


@pytest.fixture
def server(transactional_db: None) -> Iterator[str]:
    """The product under a real server in a thread."""
    uvicorn_server = uvicorn.Server(
        uvicorn.Config(get_asgi_application(), port=0, log_level="error", timeout_graceful_shutdown=1)
    )
    thread = threading.Thread(target=uvicorn_server.run)
    thread.start()
    while not uvicorn_server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{uvicorn_server.servers[0].sockets[0].getsockname()[1]}"
    uvicorn_server.should_exit = True
    thread.join(60)
    assert not thread.is_alive()


def events_in(lines: Iterator[str]) -> Iterator[tuple[str, int, Any]]:
    """(event, id, data) of each event, heartbeats left out."""
    event, number, data = "", 0, ""
    for line in lines:
        name, _, value = line.partition(": ")
        if name == "event":
            event = value
        elif name == "id":
            number = int(value)
        elif name == "data":
            data = value
        elif not line and event:
            yield event, number, json.loads(data)
            event, number = "", 0


def test_what_is_new_comes_in_the_order_of_its_numbers(run: TrainingRun) -> None:
    metrics.append(run, 1, {"train/mean_nll": float("inf")})
    Checkpoint.objects.create(run=run, seq=run.next_seqs(1), name="1", step=1)
    RunEvent.objects.create(run=run, seq=run.next_seqs(1), kind="rewind", step=1, message="Resumed.")
    RunEvent.objects.create(run=run, seq=run.next_seqs(1), level="warning", step=1, message="<b>hot</b>")
    news = read_news({run.pk: 0, 404: 0})[run.pk]
    found = list(events_in(iter(b"".join(each.data for each in [*news.frames, news.state]).decode().splitlines())))
    assert [(event, number) for event, number, _ in found] == [
        ("metrics", 1),
        ("checkpoint", 2),
        ("rewind", 3),
        ("event", 4),
        ("status", 0),
    ]
    assert found[0][2]["values"] == {"train/mean_nll": "Infinity"} and found[4][2]["status"] == "queued"
    assert news.cursor == 4 and not news.ended
    assert read_news({run.pk: 3})[run.pk].frames == news.frames[3:]


def test_a_long_history_comes_in_pages(run: TrainingRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "PAGE_SIZE", 4)
    for step in range(1, 11):
        metrics.append(run, step, {"train/mean_nll": 1.0})
    seen, pages = 0, []
    while (news := read_news({run.pk: seen})[run.pk]).more:
        pages.append([each.seq for each in news.frames])
        seen = news.cursor
    assert [*pages, [each.seq for each in news.frames]] == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10]]


def test_a_browser_that_saw_all_of_an_ended_run_is_told_not_to_come_back(alice_client: Client, make_run: MakeRun) -> None:
    run = make_run(status=Status.COMPLETED)
    metrics.append(run, 1, {"train/mean_nll": 1.0})
    url = reverse("runs:live", args=[run.pk])
    assert alice_client.get(url, headers={"Last-Event-ID": "1"}).status_code == 204
    assert alice_client.get(url).status_code == 200


def test_a_stranger_gets_no_stream(mallory_client: Client, client: Client, run: TrainingRun) -> None:
    url = reverse("runs:live", args=[run.pk])
    assert mallory_client.get(url).status_code == 404
    assert client.get(url).status_code == 302


def test_a_client_that_reconnects_sees_every_point_once(server: str, alice_client: Client, make_run: MakeRun) -> None:
    run = make_run()
    assert run.start("worker") and run.run_begun(step=0, num_steps=60)

    def train() -> None:
        for step in range(1, 61):
            metrics.append(run, step, {"train/mean_nll": 1 / step})
            if step == 30:
                metrics.fold(run)
            time.sleep(0.01)
        run.complete()

    cookies = {name: morsel.value for name, morsel in alice_client.cookies.items()}
    seen: list[int] = []
    status: dict[str, Any] = {}
    connections = 0
    with ThreadPoolExecutor(1) as elsewhere, httpx.Client(base_url=server, cookies=cookies, timeout=60) as viewer:
        training = elsewhere.submit(train)
        while status.get("status") != "completed":
            connections += 1
            headers = {"Last-Event-ID": str(seen[-1])} if seen else {}
            with viewer.stream("GET", reverse("runs:live", args=[run.pk]), headers=headers) as response:
                assert response.headers["content-type"] == "text/event-stream" and response.headers["cache-control"] == "no-cache"
                for event, number, data in events_in(response.iter_lines()):
                    status = data if event == "status" else status
                    seen += [number] if event == "metrics" else []
                    if event == "metrics" and number % 17 == 0:
                        break
        training.result()
    assert seen == list(range(1, 61)) and connections > 2
    assert status["step"] == 0 and status["num_steps"] == 60 and status["finished_at"]
