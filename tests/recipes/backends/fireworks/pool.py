"""Our Tinker-compatible server as Fireworks' serverless pool, and small runs on it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.routing import Mount

import recipes
from recipes import starter
from recipes.backends.fireworks.steps import POOL
from recipes.config import RunConfig
from recipes.protocols import Callback
from recipes.types import RunResult

KEY = "tml-key-of-a-test"
MODEL = "accounts/fireworks/models/qwen3-8b"
ROWS = Path(starter.__file__).parent / "rows"


class Pool:
    """Our server below the pool's path, with checkpoints called as Fireworks calls them: account/run-…/name."""

    url = ""

    def __init__(self, app: Any) -> None:
        self._app = Starlette(routes=[Mount(POOL, app=app)], lifespan=lambda _: app.router.lifespan_context(app))
        self._ours: dict[bytes, bytes] = {}

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked, answer = await self._whole(receive), {}

        async def told() -> Any:
            return {"type": "http.request", "body": asked}

        async def keep(message: Any) -> None:
            answer.setdefault("start", message)
            answer["body"] = answer.get("body", b"") + message.get("body", b"")

        await self._app(self._sized(scope, asked), told, keep)
        body = re.sub(rb"tinker://([0-9a-f]{32}):train:\d+/(?:sampler_)?weights/([a-z0-9-]+)", self._named, answer["body"])
        await send(self._sized(answer["start"], body))
        await send({"type": "http.response.body", "body": body})

    async def _whole(self, receive: Any) -> bytes:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        for theirs, ours in self._ours.items():
            body = body.replace(theirs, ours)
        return body

    def forget(self) -> None:
        """Nothing that was saved so far is found any more."""
        self._ours.clear()

    def _named(self, found: re.Match[bytes]) -> bytes:
        theirs = b"acme/run-%b/%b" % found.groups()
        self._ours[theirs] = found[0]
        return theirs

    def _sized(self, message: Any, body: bytes) -> Any:
        others = [(name, value) for name, value in message["headers"] if name.lower() != b"content-length"]
        return {**message, "headers": [*others, (b"content-length", str(len(body)).encode())]}


def config(root: str, kind: str, path: Path | None = None, **params: Any) -> RunConfig:
    return RunConfig.from_values(
        {
            "data": {"path": str(path or "unused.jsonl")},
            "model": {"name": MODEL},
            "algorithm": {"kind": kind, "params": {"lora_rank": 4, "learning_rate": 1e-3, **params}},
            "backend": {"kind": "fireworks", "params": {"base_url": root, "tokenizer": "starter", "step_seconds": 120}},
        }
    )


def train(run: RunConfig, folder: Path, *callbacks: Callback, rows: Any = None, resume: bool = False) -> RunResult:
    return recipes.train(
        run, run_id="1", output_dir=folder, rows=rows, secrets={"backend_api_key": KEY}, callbacks=callbacks, resume=resume
    )
