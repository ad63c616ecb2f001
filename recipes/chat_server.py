"""Answers chats from a process of its own, so that whoever asks needs no model in memory: `python -m recipes.chat_server FOLDER`.

One such process serves a machine: a lock in FOLDER sees to that, and FOLDER/address says where it listens (a Unix socket in a
folder that only this user can enter). A request is a line of JSON on a connection of its own:

    {"model", "checkpoint", "backend": {kind, params}, "secrets", "tuned": messages, "base": messages,
     "params": {side: SamplingParams}}

Without a side nothing is asked, and the models are only read. secrets: keys for the backend, kept as long as its models are.
What comes back are lines of JSON, the last one "ready":

    {"event": "loading"} · {"event": "text", "side", "text"} · {"event": "end", "side", "content", "reasoning", "stop_reason", …}
    {"event": "error", "side" or null, "message"} · {"event": "ready"}

Hanging up ends the sampling. One pair of models is in memory at a time; a request for another waits for those that are being
answered. The process ends when nobody asked for a while, when its parent is gone, or when it takes more memory than it may.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import json
import logging
import os
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from recipes.chat import LocalChat
from recipes.chat_pair import ChatPair, open_pair
from recipes.config import BackendChoice
from recipes.errors import RecipeError
from recipes.stores import write_atomically
from recipes.types import SamplingParams

logger = logging.getLogger(__name__)

SIDES = ("tuned", "base")
LOCK_FILE, ADDRESS_FILE = "lock", "address"
LONGEST_LINE = 8 * 1024 * 1024
MOST_AT_ONCE = 16
TAKEN, TOO_LARGE = 3, 4
"""Exit statuses: another process serves this folder; more memory than allowed was taken."""
WATCH_SECONDS = 0.5


class Models:
    """The pair that is in memory, for as many requests at once as ask for it."""

    def __init__(self) -> None:
        self._key: tuple[Any, ...] | None = None
        self._pair: ChatPair | None = None
        self._open = contextlib.AsyncExitStack()
        self._users = 0
        self._changed = asyncio.Condition()

    @contextlib.asynccontextmanager
    async def pair(self, request: Mapping[str, Any]) -> AsyncIterator[ChatPair]:
        """Raises ConfigError, CheckpointError, BackendError."""
        backend = BackendChoice.model_validate(request["backend"])
        secrets = dict(request.get("secrets", {}))
        key = (request["model"], request["checkpoint"], backend.model_dump_json(), tuple(sorted(secrets.items())))
        async with self._changed:
            await self._changed.wait_for(lambda: self._key == key or not self._users)
            if self._key != key or self._pair is None:
                await self._exchange(key, backend, secrets)
            assert self._pair is not None
            pair = self._pair
            self._users += 1
        try:
            yield pair
        finally:
            async with self._changed:
                self._users -= 1
                self._changed.notify_all()

    async def _exchange(self, key: tuple[Any, ...], backend: BackendChoice, secrets: Mapping[str, str]) -> None:
        self._key = self._pair = None
        await self._open.aclose()
        self._pair = await self._open.enter_async_context(open_pair(key[0], key[1], backend, secrets=secrets))
        self._key = key

    def holds(self, request: Mapping[str, Any]) -> bool:
        return self._key is not None and self._key[:2] == (request.get("model"), request.get("checkpoint"))

    async def close(self) -> None:
        await self._open.aclose()


class ChatServer:
    def __init__(self) -> None:
        self.models = Models()
        self.num_asking = 0
        self.last_asked = time.monotonic()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: a request in, events out. After its line a client sends nothing more: the end is its going away."""
        self.num_asking += 1
        try:
            line = await reader.readline()
            work = asyncio.create_task(self._work(line, writer))
            gone = asyncio.create_task(reader.read())
            await asyncio.wait({work, gone}, return_when=asyncio.FIRST_COMPLETED)
            for task in (work, gone):
                task.cancel()
            await asyncio.wait({work, gone})
        except (ConnectionError, ValueError) as error:
            logger.warning("A request could not be read: %r", error)
        finally:
            self.num_asking -= 1
            self.last_asked = time.monotonic()
            writer.close()

    async def _work(self, line: bytes, writer: asyncio.StreamWriter) -> None:
        def say(event: str, **values: Any) -> None:
            writer.write(json.dumps({"event": event, **values}).encode() + b"\n")

        try:
            if self.num_asking > MOST_AT_ONCE:
                raise RecipeError("Too many chats are being answered at this moment. Try again shortly.")
            request = json.loads(line)
            if not self.models.holds(request):
                say("loading")
            async with self.models.pair(request) as pair:
                await asyncio.gather(*(self._one(side, getattr(pair, side), request, say) for side in SIDES if side in request))
            say("ready")
        except RecipeError as error:
            say("error", side=None, message=str(error))
        except Exception as error:  # the edge of a task: whoever asked must hear of it
            logger.exception("A chat failed")
            say(
                "error",
                side=None,
                message=f"Sampling failed unforeseen ({type(error).__name__}); the server's chat log says more.",
            )
        with contextlib.suppress(ConnectionError):
            await writer.drain()

    async def _one(self, side: str, chat: LocalChat, request: Mapping[str, Any], say: Any) -> None:
        began, first = time.perf_counter(), None

        def on_text(text: str) -> None:
            nonlocal first
            first = time.perf_counter() - began if first is None else first
            say("text", side=side, text=text)

        try:
            reply = await chat.stream(request[side], SamplingParams(**request["params"][side]), on_text)
        except RecipeError as error:
            say("error", side=side, message=str(error))
            return
        say(
            "end",
            side=side,
            content=reply.text,
            reasoning=reply.message.get("reasoning", ""),
            stop_reason=reply.stop_reason,
            num_prompt_tokens=reply.num_prompt_tokens,
            num_tokens=reply.num_tokens,
            seconds=round(reply.seconds, 4),
            first_token_seconds=None if first is None else round(first, 4),
        )


async def serve(folder: Path, *, idle_seconds: float, most_bytes: int) -> int:
    """Until idle, orphaned or too large; returns the exit status."""
    parent = os.getppid()
    server = ChatServer()
    place = Path(tempfile.mkdtemp(prefix="evsys-chat-"))  # short, as a socket's path must be, and for this user alone
    listening = await asyncio.start_unix_server(server.answer, place / "socket", limit=LONGEST_LINE)
    try:
        write_atomically(folder / ADDRESS_FILE, str(place / "socket"))
        while os.getppid() == parent:
            if server.num_asking == 0 and time.monotonic() - server.last_asked > idle_seconds:
                return 0
            if most_bytes and (taken := resident_bytes()) > most_bytes:
                logger.error("The models take %.1f GB; %.1f GB are allowed", taken / 1e9, most_bytes / 1e9)
                return TOO_LARGE
            await asyncio.sleep(WATCH_SECONDS)
        return 0
    finally:
        (folder / ADDRESS_FILE).unlink(missing_ok=True)
        listening.close()
        shutil.rmtree(place, ignore_errors=True)


def resident_bytes() -> int:
    """Memory of this process that is in RAM; 0 where the system does not say."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        return 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Answers chats on a Unix socket.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--idle-seconds", type=float, default=300.0)
    parser.add_argument("--most-megabytes", type=int, default=0, help="0: no bound")
    given = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    with contextlib.suppress(OSError):  # when memory runs out, this goes before anything that trains
        Path("/proc/self/oom_score_adj").write_text("700")
    with (given.folder / LOCK_FILE).open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return TAKEN
        return asyncio.run(serve(given.folder, idle_seconds=given.idle_seconds, most_bytes=given.most_megabytes * 1_000_000))


if __name__ == "__main__":
    sys.stdout.flush()
    status = main()
    os._exit(status)  # a thread that decodes would be waited for
