"""Server-sent events: framing, and one reader per process that serves many viewers. Knows no model.

Viewers of a topic share the reader: it polls all watched topics in one go, frames what is new once, and puts the same bytes on a
bounded queue per viewer. A viewer first reads what it missed (everything after its Last-Event-ID), then goes live and drops what
it has. One that cannot keep up is disconnected and resumes where it was. All queries run in one thread, hence on one connection.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from django.db import connections
from django.http import HttpRequest, StreamingHttpResponse

logger = logging.getLogger(__name__)

POLL_SECONDS = 0.1
HEARTBEAT_SECONDS = 15.0
ASK_AGAIN_SECONDS = 30.0
"""How long whoever lost the right to watch still sees what comes."""
QUEUE_SIZE = 100
RETRY = b"retry: 1000\n\n"
HEARTBEAT = b": still here\n\n"


class Frame(NamedTuple):
    """One event as bytes; seq 0 is for events without an id, which a reconnect does not count."""

    seq: int
    data: bytes


class News(NamedTuple):
    """What a topic has beyond a cursor. state: how things are now, sent when it differs from what was sent before.
    more: there is a further page. ended: nothing will come any more."""

    cursor: int
    frames: list[Frame]
    state: Frame
    more: bool = False
    ended: bool = False


Result = TypeVar("Result")
Read = Callable[[Mapping[int, int]], Mapping[int, News]]
"""read({topic: cursor}) -> {topic: News}, a topic that is gone left out. Runs in the reader's thread; may query."""


def frame(event: str, data: Mapping[str, Any], *, seq: int = 0) -> Frame:
    """An event with one line of JSON; its id is `seq`."""
    number = f"id: {seq}\n" if seq else ""
    text = json.dumps(data, separators=(",", ":"), allow_nan=False)
    return Frame(seq, f"{number}event: {event}\ndata: {text}\n\n".encode())


def last_event_id(request: HttpRequest) -> int:
    """What the viewer has seen: the Last-Event-ID of a reconnect, or ?after= of a first connection; 0 for nothing."""
    text = request.headers.get("Last-Event-ID") or request.GET.get("after", "")
    return min(int(text), 2**62) if text.isascii() and text.isdigit() and len(text) < 20 else 0


def response(stream: AsyncIterator[bytes]) -> StreamingHttpResponse:
    """Answers with the stream. The caller's database connections are let go first: a stream lives for hours."""
    release_connections()
    answer = StreamingHttpResponse(stream, content_type="text/event-stream")
    answer["Cache-Control"] = "no-cache"
    answer["X-Accel-Buffering"] = "no"
    return answer


def release_connections() -> None:
    for connection in connections.all(initialized_only=True):
        if not connection.in_atomic_block:
            connection.close()


def _anybody() -> bool:
    return True


class _Topic:
    def __init__(self) -> None:
        self.cursor: int | None = None
        self.state: Frame | None = None
        self.viewers: set[asyncio.Queue[list[Frame] | None]] = set()

    def send(self, frames: list[Frame] | None) -> None:
        """None ends the viewers' streams."""
        for viewer in list(self.viewers):
            if viewer.full():  # too slow: end it; the client comes back with its Last-Event-ID
                self.viewers.discard(viewer)
                while not viewer.empty():
                    viewer.get_nowait()
                frames_for_it = None
            else:
                frames_for_it = frames
            viewer.put_nowait(frames_for_it)


class Reader:
    """One per event loop. `read` is asked every POLL_SECONDS as long as anybody watches."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._topics: dict[int, _Topic] = {}
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="sse-reader")
        self._polling: asyncio.Task[None] | None = None  # referenced, or it would be collected

    @property
    def num_viewers(self) -> int:
        return sum(len(topic.viewers) for topic in self._topics.values())

    async def stream(self, topic_id: int, after: int, may_watch: Callable[[], bool] = _anybody) -> AsyncGenerator[bytes]:
        """The events of a topic beyond `after`, until it ends, is gone, or the viewer is too slow or may not watch any more.
        may_watch is asked now and then, in the reader's thread, and may query."""
        topic = self._topics.setdefault(topic_id, _Topic())
        queue: asyncio.Queue[list[Frame] | None] = asyncio.Queue(QUEUE_SIZE)
        topic.viewers.add(queue)
        self._keep_polling()
        try:
            yield RETRY
            seen, behind = after, True
            while behind:
                news = (await self._ask({topic_id: seen})).get(topic_id)
                if news is None:
                    return
                seen = news.cursor
                # What others have seen already does not come again on the queue.
                behind = news.more or (topic.cursor is not None and seen < topic.cursor)
                yield _bytes([*news.frames, news.state])
                if news.ended and not news.more:
                    return
            if topic.cursor is None:
                topic.cursor = seen
            clock = asyncio.get_running_loop().time
            asked_at = clock()
            async for frames in _from(queue):
                if clock() - asked_at >= ASK_AGAIN_SECONDS:
                    if not await self._in_thread(may_watch):
                        return
                    asked_at = clock()
                fresh = [each for each in frames if each.seq == 0 or each.seq > seen]
                if fresh or not frames:
                    yield _bytes(fresh) or HEARTBEAT
        finally:
            topic.viewers.discard(queue)
            if not topic.viewers and self._topics.get(topic_id) is topic:
                del self._topics[topic_id]

    def _keep_polling(self) -> None:
        if self._polling is None or self._polling.done():
            self._polling = asyncio.create_task(self._poll())

    async def _poll(self) -> None:
        while self._topics:
            try:
                await self._poll_once()
            except Exception:  # noqa: BLE001 - the viewers of a whole process hang on this loop; the database may come back
                logger.exception("Reading news failed; trying again")
                await self._in_thread(release_connections)
                await asyncio.sleep(1)
            await asyncio.sleep(POLL_SECONDS)
            if not self._topics:
                await self._in_thread(release_connections)  # a viewer may come meanwhile and find this task alive: look again

    async def _poll_once(self) -> None:
        watched = {topic_id: topic.cursor for topic_id, topic in self._topics.items() if topic.cursor is not None}
        found = await self._ask(watched)
        for topic_id in watched:
            topic, news = self._topics.get(topic_id), found.get(topic_id)
            if topic is None or topic.cursor != watched[topic_id]:
                continue
            if news is None:
                topic.send(None)
                continue
            frames = news.frames if news.state == topic.state else [*news.frames, news.state]
            topic.cursor, topic.state = news.cursor, news.state
            if frames:
                topic.send(frames)
            if news.ended and not news.more:
                topic.send(None)

    async def _ask(self, cursors: Mapping[int, int]) -> Mapping[int, News]:
        return await self._in_thread(lambda: self._read(cursors))

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work)


def _bytes(frames: Sequence[Frame]) -> bytes:
    return b"".join(each.data for each in frames)


async def _from(queue: asyncio.Queue[list[Frame] | None]) -> AsyncIterator[list[Frame]]:
    """What arrives, and an empty list when nothing did for a while."""
    while True:
        try:
            frames = await asyncio.wait_for(queue.get(), HEARTBEAT_SECONDS)
        except TimeoutError:
            frames = []
        if frames is None:
            return
        yield frames


class Readers:
    """The process's reader, made in the event loop that streams."""

    def __init__(self, read: Read) -> None:
        self._read = read
        self._by_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, Reader] = WeakKeyDictionary()

    def here(self) -> Reader:
        loop = asyncio.get_running_loop()
        if loop not in self._by_loop:
            self._by_loop[loop] = Reader(self._read)
        return self._by_loop[loop]

    async def stream(self, topic_id: int, after: int, may_watch: Callable[[], bool]) -> AsyncIterator[bytes]:
        """Made by the first step of the iteration, which is in the loop that streams."""
        async for chunk in self.here().stream(topic_id, after, may_watch):
            yield chunk
