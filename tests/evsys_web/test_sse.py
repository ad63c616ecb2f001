"""Streams against a topic that grows while viewers come, go, and are slow."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import AsyncIterator, Mapping

import pytest
from django.test import RequestFactory

from evsys_web import sse
from evsys_web.sse import News, Reader, frame

pytestmark = pytest.mark.once


class Log:
    """A topic's numbers 1 … n; `gone` and `ended` as a run would be."""

    def __init__(self) -> None:
        self.last = 0
        self.ended = False
        self.gone = False
        self.page_size = 7
        self.num_reads = 0

    def read(self, cursors: Mapping[int, int]) -> Mapping[int, News]:
        self.num_reads += 1
        if self.gone:
            return {}
        news = {}
        for topic, cursor in cursors.items():
            numbers = range(cursor + 1, self.last + 1)[: self.page_size]
            frames = [frame("metrics", {"seq": number}, seq=number) for number in numbers]
            more = len(frames) == self.page_size
            state = frame("status", {"ended": self.ended})
            news[topic] = News(numbers[-1] if more else max(self.last, cursor), frames, state, more=more, ended=self.ended)
        return news


@pytest.fixture(autouse=True)
def quick_polls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "POLL_SECONDS", 0.002)


def numbers_in(data: bytes) -> list[int]:
    return [int(line[4:]) for line in data.decode().splitlines() if line.startswith("id: ")]


async def numbers(stream: AsyncIterator[bytes], limit: int = 10**9) -> list[int]:
    seen: list[int] = []
    async for chunk in stream:
        seen += numbers_in(chunk)
        if len(seen) >= limit:
            break
    return seen


def test_a_frame_is_one_event_with_its_number() -> None:
    assert frame("metrics", {"text": "two\nlines"}, seq=7).data == b'id: 7\nevent: metrics\ndata: {"text":"two\\nlines"}\n\n'
    assert frame("status", {}).data == b"event: status\ndata: {}\n\n"


@pytest.mark.parametrize(
    ("headers", "query", "expected"),
    [({}, "", 0), ({"Last-Event-ID": "12"}, "?after=3", 12), ({}, "?after=3", 3), ({}, "?after=-1", 0), ({}, "?after=²", 0)],
)
def test_what_a_viewer_has_seen_is_read_from_the_header_first(headers: dict[str, str], query: str, expected: int) -> None:
    assert sse.last_event_id(RequestFactory().get(f"/live{query}", headers=headers)) == expected


def test_viewers_that_reconnect_at_random_see_every_number_once_and_in_order() -> None:
    async def view(reader: Reader, rng: random.Random) -> list[int]:
        seen: list[int] = []
        while True:
            got = await numbers(reader.stream(1, seen[-1] if seen else 0), limit=rng.randint(1, 60))
            seen += got
            if seen and seen[-1] == 400:
                return seen
            await asyncio.sleep(rng.random() * 0.01)

    async def scene() -> list[list[int]]:
        log = Log()
        reader = Reader(log.read)
        viewers = [asyncio.create_task(view(reader, random.Random(seed))) for seed in range(12)]
        for _ in range(400):
            log.last += 1
            await asyncio.sleep(0.0005)
        log.ended = True
        return await asyncio.wait_for(asyncio.gather(*viewers), 60)

    for seen in asyncio.run(scene()):
        assert seen == list(range(1, 401))


def test_a_stream_ends_with_the_final_state() -> None:
    async def scene() -> list[bytes]:
        log = Log()
        reader = Reader(log.read)
        chunks: list[bytes] = []
        async for chunk in reader.stream(1, 0):
            chunks.append(chunk)
            if len(chunks) == 2:
                log.last, log.ended = 3, True
        await asyncio.sleep(0.01)
        assert reader.num_viewers == 0
        return chunks

    chunks = asyncio.run(scene())
    assert chunks[0] == b"retry: 1000\n\n"
    assert numbers_in(chunks[-1]) == [1, 2, 3] and chunks[-1].endswith(b'event: status\ndata: {"ended":true}\n\n')


def test_many_viewers_cost_one_read_a_poll() -> None:
    async def scene() -> tuple[int, int]:
        log = Log()
        log.page_size = 1000
        reader = Reader(log.read)
        viewers = [asyncio.create_task(numbers(reader.stream(1, 0))) for _ in range(40)]
        while log.num_reads < 40:
            await asyncio.sleep(0.01)
        before = log.num_reads
        for _ in range(20):
            log.last += 1
            await asyncio.sleep(0.002)
        log.ended = True
        await asyncio.wait_for(asyncio.gather(*viewers), 60)
        return before, log.num_reads

    before, after = asyncio.run(scene())
    assert after - before < 60


def test_a_slow_viewer_is_sent_away_and_the_others_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "QUEUE_SIZE", 3)

    async def scene() -> tuple[list[int], list[int]]:
        log = Log()
        reader = Reader(log.read)
        slow = reader.stream(1, 0)
        await anext(slow)
        await anext(slow)
        quick = asyncio.create_task(numbers(reader.stream(1, 0)))
        await asyncio.sleep(0.02)
        finished = asyncio.Event()
        stalled = asyncio.create_task(stall_then_read(slow, finished))
        for _ in range(60):
            log.last += 1
            await asyncio.sleep(0.005)
        log.ended = True
        others = await asyncio.wait_for(quick, 60)
        finished.set()
        return await asyncio.wait_for(stalled, 60), others

    async def stall_then_read(slow: AsyncIterator[bytes], finished: asyncio.Event) -> list[int]:
        got = numbers_in(await anext(slow))
        await finished.wait()
        return got + await numbers(slow)

    slow, quick = asyncio.run(scene())
    assert quick == list(range(1, 61))
    assert slow == list(range(1, len(slow) + 1)) and len(slow) < 60


def test_a_quiet_stream_says_that_it_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT_SECONDS", 0.01)

    async def scene() -> list[bytes]:
        stream = Reader(Log().read).stream(1, 0)
        chunks = [await anext(stream) for _ in range(4)]
        await stream.aclose()
        return chunks

    assert asyncio.run(scene())[-1] == sse.HEARTBEAT


def test_a_topic_that_is_gone_ends_its_streams() -> None:
    async def scene() -> None:
        log = Log()
        reader = Reader(log.read)
        viewer = asyncio.create_task(numbers(reader.stream(1, 0)))
        await asyncio.sleep(0.02)
        log.gone = True
        assert await asyncio.wait_for(viewer, 60) == []

    asyncio.run(scene())


def test_a_read_that_fails_does_not_end_the_streams() -> None:
    log = Log()
    failed = threading.Event()

    def read(cursors: Mapping[int, int]) -> Mapping[int, News]:
        if log.last == 1 and not failed.is_set():
            failed.set()
            raise OSError("the database is away")
        return log.read(cursors)

    async def scene() -> list[int]:
        viewer = asyncio.create_task(numbers(Reader(read).stream(1, 0)))
        while log.num_reads < 2:
            await asyncio.sleep(0.002)
        log.last = 1
        while not failed.is_set():
            await asyncio.sleep(0.002)
        log.last, log.ended = 2, True
        return await asyncio.wait_for(viewer, 60)

    assert asyncio.run(scene()) == [1, 2]


def test_a_viewer_who_comes_while_the_reader_goes_to_rest_gets_what_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    going_to_rest = threading.Event()

    def release() -> None:
        going_to_rest.set()
        time.sleep(0.05)

    monkeypatch.setattr(sse, "release_connections", release)

    async def scene() -> list[int]:
        log = Log()
        reader = Reader(log.read)
        first = reader.stream(1, 0)
        for _ in range(2):
            await anext(first)
        await first.aclose()
        await asyncio.to_thread(going_to_rest.wait, 5)
        second = asyncio.create_task(numbers(reader.stream(1, 0)))
        await asyncio.sleep(0.1)
        log.last, log.ended = 3, True
        return await asyncio.wait_for(second, 60)

    assert asyncio.run(scene()) == [1, 2, 3]


def test_whoever_may_not_watch_any_more_sees_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "ASK_AGAIN_SECONDS", 0)
    log, may = Log(), threading.Event()
    log.last = 3
    may.set()

    async def watch() -> list[int]:
        stream = Reader(log.read).stream(1, 0, may.is_set)
        seen = await numbers_until(stream, 3)
        log.last = 4
        seen += await numbers_until(stream, 4)
        may.clear()
        log.last = 5
        return seen + await asyncio.wait_for(numbers(stream), 60)

    assert asyncio.run(watch()) == [1, 2, 3, 4]


async def numbers_until(stream: AsyncIterator[bytes], last: int) -> list[int]:
    seen: list[int] = []
    while not seen or seen[-1] < last:
        seen += numbers_in(await asyncio.wait_for(anext(stream), 60))
    return seen
