"""What was asked and is not answered yet. A request is answered at once with an id; its result is fetched by long poll.

The SDK waits 45 seconds for an answer to a poll and asks again without a pause after a 5xx, for ever. So a poll is answered
within POLL_SECONDS, and a request that failed for good is a result, {"error", "category"}, never a status of HTTP.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, Literal

from recipes.errors import BackendError, RecipeError
from recipes.tinker_server.codec import Payload, RequestRefused

log = logging.getLogger(__name__)

POLL_SECONDS = 20.0
KEPT_SECONDS = 600.0
"""How long a result that nobody fetches is kept; one that was fetched may be fetched again for a while."""

Answer = Payload | dict[str, Any]


@dataclass(frozen=True, slots=True)
class Failure:
    sentence: str
    category: Literal["user", "server"]


@dataclass(slots=True)
class _Promise:
    session_id: str
    done: asyncio.Event = field(default_factory=asyncio.Event)
    outcome: Answer | Failure | None = None
    task: asyncio.Task[None] | None = None
    settled_at: float = 0.0


class Promises:
    """By id. All methods are called in the server's event loop."""

    def __init__(self) -> None:
        self._open: dict[str, _Promise] = {}

    def add(self, session_id: str, work: Awaitable[Answer]) -> str:
        """Takes work that is submitted already; gives the id under which its result can be fetched."""
        request_id = uuid.uuid4().hex
        promise = _Promise(session_id)
        self._open[request_id] = promise
        promise.task = asyncio.ensure_future(self._settle(promise, work))
        return request_id

    async def fetch(self, request_id: str) -> Answer | Failure | None:
        """The outcome; None when it is not there within POLL_SECONDS. Raises RequestRefused for an id that is not known."""
        promise = self._open.get(request_id)
        if promise is None:
            raise RequestRefused(f"There is no request {request_id}; results are kept for ten minutes.", status=404)
        try:
            async with asyncio.timeout(POLL_SECONDS):
                await promise.done.wait()
        except TimeoutError:
            return None
        return promise.outcome

    def cancel(self, request_id: str) -> None:
        promise = self._open.get(request_id)
        if promise is not None and promise.task is not None:
            promise.task.cancel()

    def drop_session(self, session_id: str) -> None:
        """A session ended: whoever still waits hears of it."""
        for promise in self._open.values():
            if promise.session_id == session_id and promise.task is not None:
                promise.task.cancel()

    def sweep(self) -> None:
        before = time.monotonic() - KEPT_SECONDS
        for request_id in [key for key, promise in self._open.items() if promise.settled_at and promise.settled_at < before]:
            del self._open[request_id]

    async def _settle(self, promise: _Promise, work: Awaitable[Answer]) -> None:
        try:
            promise.outcome = await work
        except asyncio.CancelledError:
            promise.outcome = Failure("The request was cancelled, or its session has ended.", "user")
        except BackendError as error:
            promise.outcome = Failure(str(error), "user" if error.permanent else "server")
        except (RecipeError, RequestRefused) as error:
            promise.outcome = Failure(str(error), "user")
        except Exception as error:  # noqa: BLE001 - the client must hear of it, or it would ask for ever
            log.exception("a request failed")
            promise.outcome = Failure(f"The server failed: {type(error).__name__}: {error}", "server")
        finally:
            promise.settled_at = time.monotonic()
            promise.done.set()
