"""The process that answers chats: asked over a Unix socket, started when it is needed. The web process loads no model.

`recipes/chat_server.py` says what travels. The process is this one's child, ends with it, and ends by itself when nobody asks;
several web processes on a machine share one, since its lock lets no second begin.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

from django.conf import settings

from recipes.chat_server import ADDRESS_FILE, LONGEST_LINE, TAKEN, TOO_LARGE
from recipes.errors import BackendError

START_SECONDS = 60.0
POLL_SECONDS = 0.02
LOG_FILE = "log"
SECRETS = ("SECRET_KEY", "EVSYS_SECRET_KEYS", "DATABASE_URL", "CELERY_BROKER_URL", "EVSYS_STORAGE_URL", "EVSYS_TINKER_KEY")

_process: subprocess.Popen[bytes] | None = None


async def ask(request: Mapping[str, Any]) -> AsyncIterator[dict[str, Any]]:
    """The events that answer a request. Closing the iterator ends the sampling. Raises BackendError."""
    reader, writer = await _connected()
    try:
        writer.write(json.dumps(request).encode() + b"\n")
        await writer.drain()
        ended = False
        while line := await reader.readline():
            event = json.loads(line)
            if event["event"] == "ready":
                return
            ended = event["event"] == "error" and event["side"] is None
            yield event
        if not ended:
            raise BackendError(_end_sentence(), permanent=False)
    except ConnectionError:
        raise BackendError(_end_sentence(), permanent=False) from None
    finally:
        writer.close()


async def _connected() -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Raises BackendError when no process can be started."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + START_SECONDS
    tried = 0
    while loop.time() < deadline:
        try:
            address = (_folder() / ADDRESS_FILE).read_text()
            return await asyncio.open_unix_connection(address, limit=LONGEST_LINE)
        except (OSError, ValueError):
            pass  # none there, or one that was killed
        if _process is None or _process.poll() is not None:
            if tried and _process is not None and _process.returncode != TAKEN:
                raise BackendError(_end_sentence(), permanent=False)
            if not tried or _process is None:
                _start()
            tried += 1
        await asyncio.sleep(POLL_SECONDS)
    raise BackendError(f"The process that answers chats did not start within {START_SECONDS:.0f} s. {_said()}", permanent=False)


def _start() -> None:
    global _process
    folder = _folder()
    command = [sys.executable, "-m", "recipes.chat_server", str(folder)]
    command += ["--idle-seconds", str(settings.CHAT_IDLE_SECONDS), "--most-megabytes", str(settings.CHAT_MEMORY_MB)]
    environment = {name: value for name, value in os.environ.items() if name not in SECRETS}
    with (folder / LOG_FILE).open("wb") as log:
        _process = subprocess.Popen(command, cwd=settings.ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)


def _end_sentence() -> str:
    if _process is not None and _process.poll() == TOO_LARGE:
        return (
            f"The models need more than the {settings.CHAT_MEMORY_MB:,} MB that a chat may take here. "
            "Whoever runs this server can allow more with EVSYS_CHAT_MEMORY_MB."
        )
    return f"The process that answers chats ended (killed, or out of memory). Try again. {_said()}".rstrip()


def _said() -> str:
    """The last line of its log."""
    try:
        lines = (_folder() / LOG_FILE).read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return f"Its last words: {lines[-1][:300]}" if lines else ""


def _folder() -> Path:
    folder = Path(settings.HOME) / "chat"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder
