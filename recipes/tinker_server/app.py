"""The endpoints that the official SDK (0.38) calls, over `Operations`. Every one but the health check asks for the key.

A request that can be refused at once gets a 4xx with {"detail"}; the SDK raises it at once. What fails later is a result of the
promise. Nothing here answers a 5xx on purpose: the SDK would try again for minutes.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import mimetypes
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from recipes.tinker_server import codec
from recipes.tinker_server.checkpoints import Address, Kind
from recipes.tinker_server.codec import PROTOBUF, Payload, RequestRefused
from recipes.tinker_server.operations import Number, Operations
from recipes.tinker_server.promises import Failure

log = logging.getLogger(__name__)

SWEEP_SECONDS = 15.0
URL_SECONDS = 3600
MAX_BODY = 256 * 1024 * 1024
SILENT_BODY_SECONDS = 120.0
"""How long the next piece of a body may take."""
MAX_PAGE = 100

Handler = Callable[[Request], Awaitable[Response]]


class ResultResponse(JSONResponse):
    """A result, which holds NaN and infinities where training went wrong. JSON has no word for them: they are written as texts,
    "nan" and "inf", which the SDK reads as numbers."""

    def render(self, content: Any) -> bytes:
        try:
            return super().render(content)
        except ValueError:
            return super().render(codec.spelled(content))


def make_app(operations: Operations, *, key: str) -> Starlette:
    """The ASGI application. key: what a client's X-API-Key must be."""
    server = _Endpoints(operations, key)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        sweeping = asyncio.create_task(_keep_sweeping(operations))
        yield
        sweeping.cancel()
        operations.models.close()

    handlers = {404: _no_such_endpoint, 405: _no_such_endpoint}
    return Starlette(routes=server.routes(), lifespan=lifespan, exception_handlers=handlers)


async def _no_such_endpoint(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 404
    asked = f"{request.method} {request.url.path[:200]}"
    return JSONResponse({"detail": f"This server does not offer {asked}; it speaks what the tinker SDK 0.38 speaks."}, status)


async def _keep_sweeping(operations: Operations) -> None:
    while True:
        await asyncio.sleep(SWEEP_SECONDS)
        operations.sweep()


class _Endpoints:
    def __init__(self, operations: Operations, key: str) -> None:
        self.do = operations
        self._key = key

    def routes(self) -> list[Route]:
        posts: dict[str, Callable[[dict[str, Any], bytes], Any]] = {
            "client/config": lambda values, body: {},
            "client/dynamic_config": lambda values, body: {},
            "telemetry": lambda values, body: {"status": "accepted"},
            "create_session": self._create_session,
            "session_heartbeat": self._heartbeat,
            "create_model": lambda values, body: self.do.create_model(values),
            "load_weights": self.do.load_weights,
            "get_info": lambda values, body: self.do.info(values),
            "optim_step": self.do.optim_step,
            "save_weights": lambda values, body: self.do.save(values, body, Kind.TRAINING),
            "save_weights_for_sampler": lambda values, body: self.do.save(values, body, Kind.SAMPLER),
            "save_weights_external": lambda values, body: self.do.save(values, body, Kind.EXTERNAL),
            "create_sampling_session": lambda values, body: self.do.create_sampler(values),
            "asample": self.do.sample,
            "weights_info": lambda values, body: self.do.weights_info(codec.field(values, "tinker_path", str)),
            "cancel_future": self._cancel,
        }
        kept = {f"/api/v1/{path}": self._json(work) for path, work in posts.items()}
        routes = [Route(path, self._guarded(work), methods=["POST"]) for path, work in kept.items()]
        for path, method, work in (
            ("forward_backward", "POST", self.gradient),
            ("forward", "POST", self.gradient),
            ("retrieve_future", "POST", self.retrieve),
            ("sessions/{session_id}/finish", "POST", self.finish),
            ("get_server_capabilities", "GET", self.capabilities),
            ("samplers/{sampler_id}", "GET", self.sampler),
            ("sessions", "GET", self.sessions),
            ("sessions/{session_id}", "GET", self.session),
            ("training_runs", "GET", self.training_runs),
            ("training_runs/{run_id}", "GET", self.training_run),
            ("training_runs/{run_id}/checkpoints", "GET", self.run_checkpoints),
            ("checkpoints", "GET", self.checkpoints),
            ("training_runs/{run_id}/checkpoints/{kind}/{name}", "DELETE", self.delete),
            ("training_runs/{run_id}/checkpoints/{kind}/{name}/ttl", "PUT", self.lifetime),
            ("training_runs/{run_id}/checkpoints/{kind}/{name}/external_weights_urls", "GET", self.download_urls),
        ):
            routes.append(Route(f"/api/v1/{path}", self._guarded(work), methods=[method]))
        routes.append(Route("/api/v1/healthz", self.health, methods=["GET"]))
        # A signed address is its own key, so that any downloader can fetch it.
        routes.append(Route("/files/{run_id}/{kind}/{name}/{file}", self._told(self.download), methods=["GET"]))
        return routes

    # ------------------------------------------------------------------ around every endpoint

    def _guarded(self, work: Handler) -> Handler:
        async def handle(request: Request) -> Response:
            given = request.headers.get("x-api-key") or request.headers.get("authorization", "").removeprefix("Bearer ")
            if not hmac.compare_digest(given.encode(), self._key.encode()):
                return JSONResponse({"detail": "The key is missing or wrong; it was printed when the server started."}, 401)
            return await work(request)

        return self._told(handle)

    def _told(self, work: Handler) -> Handler:
        async def handle(request: Request) -> Response:
            try:
                return await work(request)
            except RequestRefused as refusal:
                return JSONResponse({"detail": str(refusal)}, refusal.status)
            except ClientDisconnect:
                return Response(status_code=400)  # nobody hears it
            except Exception as error:  # the edge of a request: a 5xx would be asked for again for minutes
                log.exception("a request could not be answered")
                return JSONResponse({"detail": f"The server failed at this request: {type(error).__name__}."}, 400)

        return handle

    def _json(self, work: Callable[[dict[str, Any], bytes], Any]) -> Handler:
        async def handle(request: Request) -> Response:
            body = await _body(request)
            values = codec.read_json(body)
            number = Number(values.get("model_id"), values.get("seq_id"))
            return JSONResponse(self.do.numbered(number, body, lambda: work(values, body)))

        return handle

    # ------------------------------------------------------------------ sessions

    def _create_session(self, values: dict[str, Any], _: bytes) -> dict[str, Any]:
        session = self.do.sessions.begin(codec.field(values, "display_name", str, None))
        return {"type": "create_session", "session_id": session.session_id}

    def _heartbeat(self, values: dict[str, Any], _: bytes) -> dict[str, Any]:
        self.do.sessions.get(values.get("session_id"))
        return {"type": "session_heartbeat"}

    def _cancel(self, values: dict[str, Any], _: bytes) -> dict[str, Any]:
        self.do.promises.cancel(codec.field(values, "request_id", str))
        return {"type": "cancel_future"}

    async def finish(self, request: Request) -> Response:
        run_ids = self.do.end_session(request.path_params["session_id"])
        await asyncio.to_thread(self.do.drop_snapshots, run_ids)
        return JSONResponse({})

    async def sessions(self, request: Request) -> Response:
        return JSONResponse({"sessions": [session.session_id for session in self.do.sessions.all()]})

    async def session(self, request: Request) -> Response:
        session = self.do.sessions.get(request.path_params["session_id"])
        return JSONResponse({"training_run_ids": list(session.runs), "sampler_ids": list(session.samplers)})

    # ------------------------------------------------------------------ promises

    async def gradient(self, request: Request) -> Response:
        body = await _body(request)
        if request.headers.get("content-type", "").startswith(PROTOBUF):
            message = codec.read_protobuf(body)
            number = Number(message.model_id, message.seq_id or None, is_gradient=not message.forward_only)
            return JSONResponse(
                self.do.numbered(number, body, lambda: self.do.gradient(codec.gradient_from_protobuf(message), body))
            )
        values, only = codec.read_json(body), request.url.path.endswith("/forward")
        number = Number(values.get("model_id"), values.get("seq_id"), is_gradient=not only)
        return JSONResponse(
            self.do.numbered(number, body, lambda: self.do.gradient(codec.gradient_from_json(values, forward_only=only), body))
        )

    async def retrieve(self, request: Request) -> Response:
        request_id = codec.field(codec.read_json(await _body(request)), "request_id", str)
        outcome = await self.do.promises.fetch(request_id)
        if outcome is None:
            return JSONResponse({"type": "try_again", "request_id": request_id, "queue_state": "active"})
        if isinstance(outcome, Failure):
            return JSONResponse({"error": outcome.sentence, "category": outcome.category})
        if not isinstance(outcome, Payload):
            return ResultResponse(outcome)
        if PROTOBUF in request.headers.get("accept", ""):
            return Response(await asyncio.to_thread(outcome.as_protobuf), media_type=PROTOBUF)
        return ResultResponse(await asyncio.to_thread(outcome.as_json))

    # ------------------------------------------------------------------ what there is

    async def health(self, request: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def capabilities(self, request: Request) -> Response:
        return JSONResponse(self.do.capabilities())

    async def sampler(self, request: Request) -> Response:
        return JSONResponse(self.do.sampler_info(request.path_params["sampler_id"]))

    async def training_runs(self, request: Request) -> Response:
        run_ids = self.do.store.run_ids()
        shown, cursor = _page(request, run_ids)
        return JSONResponse({"training_runs": [self.do.run_info(run_id) for run_id in shown], "cursor": cursor})

    async def training_run(self, request: Request) -> Response:
        return JSONResponse(self.do.run_info(request.path_params["run_id"]))

    async def run_checkpoints(self, request: Request) -> Response:
        run_id = request.path_params["run_id"]
        self.do.store.facts_of(run_id)
        return JSONResponse({"checkpoints": [self.do.checkpoint_info(saved) for saved in self.do.store.listed(run_id)]})

    async def checkpoints(self, request: Request) -> Response:
        shown, cursor = _page(request, self.do.store.listed())
        return JSONResponse({"checkpoints": [self.do.checkpoint_info(saved) for saved in shown], "cursor": cursor})

    async def delete(self, request: Request) -> Response:
        self.do.store.delete(_address(request))
        return Response(status_code=204)

    async def lifetime(self, request: Request) -> Response:
        values = codec.read_json(await _body(request))
        self.do.store.set_lifetime(_address(request), codec.field(values, "ttl_seconds", int, None))
        return Response(status_code=204)

    # ------------------------------------------------------------------ downloads

    async def download_urls(self, request: Request) -> Response:
        address = _address(request)
        self.do.store.find(address)
        until = int(time.time()) + URL_SECONDS
        files = sorted(path.name for path in self.do.store.weights(address).iterdir() if path.is_file())
        base = f"{str(request.base_url).rstrip('/')}/files/{address.run_id}/{address.kind}/{address.name}"
        urls = {file: f"{base}/{file}?until={until}&signature={self._signature(address, file, until)}" for file in files}
        return JSONResponse({"urls": urls, "expires": (datetime.now(UTC) + timedelta(seconds=URL_SECONDS)).isoformat()})

    async def download(self, request: Request) -> Response:
        address, file = _address(request), request.path_params["file"]
        until, given = request.query_params.get("until", ""), request.query_params.get("signature", "")
        is_time = until.isdecimal() and len(until) < 12
        if not is_time or not hmac.compare_digest(given.encode(), self._signature(address, file, int(until)).encode()):
            raise RequestRefused("The address is not signed by this server.", status=403)
        if int(until) < time.time():
            raise RequestRefused("The address has expired; ask for a new one.", status=403)
        self.do.store.find(address)
        found = {path.name: path for path in self.do.store.weights(address).iterdir() if path.is_file()}
        if file not in found:
            raise RequestRefused(f"There is no file {file} in this checkpoint.", status=404)
        kind = mimetypes.guess_type(file)[0] or "application/octet-stream"
        return FileResponse(found[file], media_type=kind, filename=file)

    def _signature(self, address: Address, file: str, until: int) -> str:
        return hmac.new(self._key.encode(), f"{address.uri}\n{file}\n{until}".encode(), "sha256").hexdigest()


async def _body(request: Request) -> bytes:
    if encoding := request.headers.get("content-encoding"):
        raise RequestRefused(f"Bodies are not compressed here, not with {encoding[:40]}.", status=415)
    found = bytearray()
    try:
        async with asyncio.timeout(SILENT_BODY_SECONDS) as patience:
            async for chunk in request.stream():
                found += chunk
                if len(found) > MAX_BODY:
                    raise RequestRefused(f"The body is larger than {MAX_BODY >> 20} MiB; send fewer rows at once.", status=413)
                patience.reschedule(asyncio.get_running_loop().time() + SILENT_BODY_SECONDS)
    except TimeoutError:
        raise RequestRefused("The body stopped coming before its end; send the request again.", status=408) from None
    return bytes(found)


def _address(request: Request) -> Address:
    path = request.path_params
    return Address.from_parts(path["run_id"], path["kind"], path["name"])


def _page(request: Request, rows: list[Any]) -> tuple[list[Any], dict[str, int]]:
    """The rows of one page, by ?limit= and ?offset=, and the cursor that the SDK reads."""
    asked = {name: request.query_params.get(name, str(default)) for name, default in (("limit", 20), ("offset", 0))}
    for name, text in asked.items():
        if not text.isdecimal() or len(text) > 12:
            raise RequestRefused(f"{name} is a whole number, not {text[:40]!r}.")
    limit, offset = min(int(asked["limit"]), MAX_PAGE), int(asked["offset"])
    return rows[offset : offset + limit], {"limit": limit, "offset": offset, "total_count": len(rows)}
