"""An OpenAI-compatible server on loopback that behaves as badly as it is told to."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Answer(NamedTuple):
    """status 0: never answer."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = {}


Behaviour = Callable[[dict[str, Any], int], Answer]
"""What to answer, given the request's body and how many requests came before it."""


def completion(texts: list[str], **message: Any) -> Answer:
    choices = [
        {"index": i, "finish_reason": "stop", "message": {"role": "assistant", "content": text} | message}
        for i, text in enumerate(texts)
    ]
    usage = {"prompt_tokens": 7, "completion_tokens": 5 * len(texts), "total_tokens": 7 + 5 * len(texts)}
    return Answer(body={"id": "1", "object": "chat.completion", "created": 0, "model": "m", "choices": choices, "usage": usage})


def refusal(status: int, message: str, **headers: str) -> Answer:
    return Answer(status, {"error": {"message": message, "type": "x", "code": None}}, headers)


def echo(request: dict[str, Any], number: int) -> Answer:
    """The last message, n times, with the seed of each."""
    seed = request.get("seed")
    said = request["messages"][-1]["content"]
    return completion([f"{said} {None if seed is None else seed + i}" for i in range(request.get("n", 1))])


class _QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that hangs up is part of what is tested."""


class ChatServer:
    def __init__(self, behaviour: Behaviour) -> None:
        self.behaviour = behaviour
        self.requests: list[dict[str, Any]] = []
        self.keys: list[str | None] = []
        self.closing = threading.Event()
        self.most_at_once = self._at_once = 0
        self._lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with server._lock:
                    number = len(server.requests)
                    server.requests.append(request)
                    server.keys.append(self.headers.get("Authorization"))
                    server._at_once += 1
                    server.most_at_once = max(server.most_at_once, server._at_once)
                try:
                    answer = server.behaviour(request, number)
                finally:
                    with server._lock:
                        server._at_once -= 1
                if answer.status == 0:
                    server.closing.wait(30)
                    self.close_connection = True
                    return
                body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
                self.send_response(answer.status)
                for name, value in {
                    "Content-Type": "application/json",
                    "Content-Length": str(len(body)),
                    **answer.headers,
                }.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._http = _QuietServer(("127.0.0.1", 0), Handler)
        self.base_url = f"http://127.0.0.1:{self._http.server_port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def close(self) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@contextmanager
def chat_server(behaviour: Behaviour = echo) -> Iterator[ChatServer]:
    server = ChatServer(behaviour)
    try:
        yield server
    finally:
        server.close()
