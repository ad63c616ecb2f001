"""Our Tinker-compatible server as Fireworks' serverless pool, beside the Fireworks of the tests, and small runs on both."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.routing import Mount

import recipes
from recipes import starter
from recipes.backends.fireworks.steps import POOL
from recipes.config import RunConfig
from recipes.protocols import Callback
from recipes.types import RunResult
from tests.fireworks_server import ACCOUNT, KEY, MODEL, FireworksServer, Request
from tests.recipes.backends.fireworks.completions import PATH, Completions

__all__ = ["KEY", "MODEL"]

TINKER_KEY = "tml-key-of-a-test"
"""What our own server wants; the pool takes Fireworks' key."""
ROWS = Path(starter.__file__).parent / "rows"


class Pool:
    """Our server below the pool's path, with sessions and checkpoints called as Fireworks calls them: ts-…, account/run-…/name.
    Everything else is `control`, which lists what sessions have saved."""

    url = ""

    def __init__(self, app: Any) -> None:
        self._app = Starlette(routes=[Mount(POOL, app=app)], lifespan=lambda _: app.router.lifespan_context(app))
        self._ours: dict[bytes, bytes] = {}
        self._session = ""
        self._adapters: dict[str, str] = {}
        self.renew()

    def renew(self) -> None:
        """Beside a Fireworks where nothing has happened: whoever asks one server for all begins so."""
        self.control = FireworksServer()
        self.completions = Completions()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        asked = await self._whole(receive)
        if not scope["path"].startswith(POOL):
            status, answer = await asyncio.to_thread(self.control.answer, self._request(scope, asked))
            start = {"type": "http.response.start", "status": status or 502, "headers": [(b"content-type", b"application/json")]}
            return await self._send(send, start, json.dumps(answer).encode())
        if scope["path"] == f"{POOL}{PATH}":
            if self.completions.is_mute:
                self.control.requests.append(self._request(scope, asked))
                await receive()  # returns when whoever asked has gone
                return self.completions.broken_off.set()
            return await self._complete(scope, json.loads(asked), send)
        if scope["path"].endswith("/load_adapter"):
            start, body = await self._load_adapter(scope, json.loads(asked))
        else:
            start, body = await self._inside(scope, self._translated(asked))
        if b'"load_weights"' in body and (model_id := self._adapters.get(json.loads(asked).get("request_id"))):
            body = json.dumps({"type": "load_adapter", "model_id": model_id}).encode()
        if scope["path"].endswith("/create_session"):
            body = re.sub(rb'"session_id":\s*"([^"]+)"', self._session_named, body)
        body = re.sub(rb"tinker://([0-9a-f]{32}):train:\d+/(sampler_)?weights/([a-z0-9-]+)", self._named, body)
        await self._send(send, start, body)

    async def _load_adapter(self, scope: Any, body: dict[str, Any]) -> tuple[Any, bytes]:
        """The same as our server knows it: weights of the state that was saved beside the snapshot. What it takes on is told as
        an adapter's when the result is fetched; what it refuses is nobody's."""
        snapshot = self.control.sessions.origins.get(body["adapter_path"], "")
        run = next((name.rpartition(b"/")[0] for name in self._ours if name.endswith(f"/{snapshot}".encode())), b"")
        state = f"{run.decode()}/{snapshot.rpartition('-')[0]}"
        where = f"{POOL}/api/v1/load_weights"
        values = {"path": state, "optimizer": False, "model_id": body["model_id"], "seq_id": body["seq_id"]}
        inside = {**scope, "path": where, "raw_path": where.encode()}
        start, answer = await self._inside(inside, self._translated(json.dumps(values).encode()))
        if start["status"] == 200:
            self._adapters[json.loads(answer)["request_id"]] = body["model_id"]
        return start, answer

    async def _complete(self, scope: Any, body: dict[str, Any], send: Any) -> None:
        request = self._request(scope, json.dumps(body).encode())
        self.control.requests.append(request)
        found = next((answer for fault in self.control.faults if (answer := fault(request)) is not None), None)
        named = re.fullmatch(rf"accounts/{ACCOUNT}/trainingSessions/([^/]+)(?:/checkpoints/(.+))?", body["model"])
        session, snapshot = named.groups("") if named else ("", "")
        ours = [self._ours.get(name.encode(), b"").decode() for name in (session, snapshot)]
        if found is None and (not ours[0] or (snapshot and not ours[1])):
            found = 404, {"error": {"message": f"no such weights: {body['model']}"}}
        kind, said = (b"text/event-stream", b"") if found is None else (b"application/json", json.dumps(found[1]).encode())

        async def ask(path: str, values: dict[str, Any]) -> Any:
            where = f"{POOL}/api/v1/{path}"
            inside = {**scope, "method": "POST", "path": where, "raw_path": where.encode()}
            inside["headers"] = [(b"x-api-key", KEY.encode()), (b"content-type", b"application/json")]
            _, answer = await self._inside(inside, json.dumps(values).encode())
            return json.loads(answer)

        if found is None:
            self.completions.ask = ask
            said = await self.completions.say(ours[0], ours[1], body)
        status = 200 if found is None else found[0] or 502
        await self._send(send, {"type": "http.response.start", "status": status, "headers": [(b"content-type", kind)]}, said)

    async def _inside(self, scope: Any, asked: bytes) -> tuple[Any, bytes]:
        """What our server answers to the same request with its own key."""
        answer: dict[str, Any] = {"body": b""}

        async def told() -> Any:
            return {"type": "http.request", "body": asked}

        async def keep(message: Any) -> None:
            answer.setdefault("start", message)
            answer["body"] += message.get("body", b"")

        headers = [(name, TINKER_KEY.encode() if value == KEY.encode() else value) for name, value in scope["headers"]]
        await self._app(self._sized({**scope, "headers": headers}, asked), told, keep)
        return answer["start"], answer["body"]

    async def _whole(self, receive: Any) -> bytes:
        body, more = b"", True
        while more:
            message = await receive()
            body, more = body + message.get("body", b""), message.get("more_body", False)
        return body

    def _translated(self, body: bytes) -> bytes:
        for theirs, ours in self._ours.items():
            body = body.replace(theirs, ours)
        return body

    def _request(self, scope: Any, body: bytes) -> Request:
        headers = {name.decode().lower(): value.decode() for name, value in scope["headers"]}
        query = dict(parse_qsl(scope["query_string"].decode()))
        return Request(scope["method"], scope["path"], query, headers, body)

    def forget(self) -> None:
        """Nothing that was saved so far is found any more."""
        self._ours.clear()

    def _session_named(self, found: re.Match[bytes]) -> bytes:
        theirs = b"ts-" + found[1].replace(b"-", b"")
        self._ours[theirs], self._session = found[1], theirs.decode()
        return b'"session_id":"%b"' % theirs

    def _named(self, found: re.Match[bytes]) -> bytes:
        run, is_sampler, name = found.groups()
        theirs = b"%b/run-%b/%b" % (ACCOUNT.encode(), run, name)
        if is_sampler and theirs not in self._ours:
            self.control.sessions.save(self._session, name.decode())
        self._ours[theirs] = found[0]
        return theirs

    async def _send(self, send: Any, start: Any, body: bytes) -> None:
        await send(self._sized(start, body))
        await send({"type": "http.response.body", "body": body})

    def _sized(self, message: Any, body: bytes) -> Any:
        others = [(name, value) for name, value in message["headers"] if name.lower() != b"content-length"]
        return {**message, "headers": [*others, (b"content-length", str(len(body)).encode())]}


def config(root: str, kind: str, path: Path | None = None, *, backend: dict[str, Any] | None = None, **params: Any) -> RunConfig:
    chosen = {"base_url": root, "tokenizer": "starter", "step_seconds": 120, **(backend or {})}
    return RunConfig.from_values(
        {
            "data": {"path": str(path or "unused.jsonl")},
            "model": {"name": MODEL},
            "algorithm": {"kind": kind, "params": {"lora_rank": 4, "learning_rate": 1e-3, **params}},
            "backend": {"kind": "fireworks", "params": chosen},
        }
    )


def train(run: RunConfig, folder: Path, *callbacks: Callback, rows: Any = None, resume: bool = False) -> RunResult:
    return recipes.train(
        run, run_id="1", output_dir=folder, rows=rows, secrets={"backend_api_key": KEY}, callbacks=callbacks, resume=resume
    )
