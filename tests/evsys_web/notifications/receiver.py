"""A receiver of webhooks on loopback that answers what it is told to, and keeps what it was sent."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple


class Received(NamedTuple):
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def message(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.body)
        return found


class Receiver:
    """Answers the statuses in turn, the last of them for ever; 0 hangs, 302 leads to itself."""

    def __init__(self, statuses: Sequence[int]) -> None:
        self.received: list[Received] = []
        self.closing = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                receiver.received.append(Received(self.path, dict(self.headers), body))
                status = statuses[min(len(receiver.received), len(statuses)) - 1]
                if status == 0:
                    receiver.closing.wait(30)
                    return
                self.send_response(status)
                self.send_header("Location", receiver.url + "elsewhere")
                self.end_headers()

            do_GET = do_POST

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05})
        self._thread.start()

    def wait_for(self, count: int, *, seconds: float = 30) -> list[Received]:
        deadline = time.monotonic() + seconds
        while len(self.received) < count:
            assert time.monotonic() < deadline, f"{len(self.received)} of {count} messages after {seconds} s"
            time.sleep(0.02)
        return self.received

    def close(self) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


@contextmanager
def receiver(*statuses: int) -> Iterator[Receiver]:
    made = Receiver(statuses or (200,))
    try:
        yield made
    finally:
        made.close()
