"""A Tinker-compatible server of ours on loopback, and a server that behaves as badly as it is told to."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import uvicorn

from recipes.backends.local.config import LocalConfig
from recipes.tinker_server import make_server

KEY = "tml-test-key"


@contextmanager
def tinker_server(root: Path, *, models: tuple[str, ...] = ("starter",)) -> Iterator[str]:
    """Its address, while it runs in a thread of this process."""
    app = make_server(list(models), root=root, key=KEY, config=LocalConfig(num_threads=1))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 90
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(10)


Behaviour = Callable[[str, dict[str, Any], int], tuple[int, Any] | None]
"""What to answer (status, JSON; status 0: never) given the endpoint, the body, and how many requests to it came before. None:
as usual."""


class FakeTinker:
    """Speaks just enough of the protocol for a session with a model."""

    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.requests: list[str] = []
        self.keys: set[str | None] = set()
        self.closing = threading.Event()

    def count(self, endpoint: str) -> int:
        return self.requests.count(endpoint)

    def usual(self, endpoint: str) -> Any:
        return {
            "healthz": {"status": "ok"},
            "create_session": {"type": "create_session", "session_id": "s"},
            "create_model": {"request_id": "model", "model_id": "s:train:0"},
            "get_info": {"type": "get_info", "model_id": "s:train:0", "model_data": {"model_name": "starter"}},
            "retrieve_future": {"type": "create_model", "model_id": "s:train:0"},
        }.get(endpoint, {"request_id": endpoint, "model_id": "s:train:0"} if "client" not in endpoint else {})


@contextmanager
def fake_tinker(behaviour: Behaviour) -> Iterator[tuple[str, FakeTinker]]:
    fake = FakeTinker(behaviour)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.do_POST()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length") or 0))
            endpoint = self.path.removeprefix("/api/v1/")
            before = fake.count(endpoint)
            fake.requests.append(endpoint)
            fake.keys.add(self.headers.get("x-api-key"))
            is_json = "json" in (self.headers.get("content-type") or "")
            status, answer = fake.behaviour(endpoint, json.loads(body or b"{}") if is_json else {}, before) or (
                200,
                fake.usual(endpoint),
            )
            if status == 0:
                fake.closing.wait(30)
                self.close_connection = True
                return
            written = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(written)))
            self.end_headers()
            self.wfile.write(written)

        def log_message(self, *args: Any) -> None:
            """Silent."""

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that hangs up is part of what is tested."""

    server = Quiet(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", fake
    finally:
        fake.closing.set()
        server.shutdown()
        server.server_close()
