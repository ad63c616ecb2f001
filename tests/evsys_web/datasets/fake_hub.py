"""A server on loopback that speaks as much of the Hugging Face hub's protocol as its own client needs to read and write datasets.
Written from the client's side: it was never compared with the live hub."""

from __future__ import annotations

import base64
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlsplit

import yaml

COMMIT = "c0ffee" + "0" * 34


@dataclass
class FakeHub:
    """Datasets by name: {"files": {path: bytes}, "private": bool}. `keys`: bearer tokens that may do everything."""

    datasets: dict[str, dict[str, Any]] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    seen_keys: list[str | None] = field(default_factory=list)
    failing_with: int = 0
    address: str = ""

    def __enter__(self) -> FakeHub:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                hub.answer(self)

            do_POST = do_HEAD = do_GET

            def log_message(self, *args: Any) -> None:
                """Silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *why: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, call: BaseHTTPRequestHandler) -> None:
        body = call.rfile.read(int(call.headers.get("Content-Length") or 0))
        key = (call.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        path = unquote(urlsplit(call.path).path)
        if path.startswith(("/api/", "/datasets/")):  # others look for their own server at a port that was theirs a moment ago
            self.seen_keys.append(key)
        if self.failing_with:
            return self.send(call, self.failing_with, {"error": f"failed for {key}"})
        if path == "/api/repos/create":
            return self.create(call, key, json.loads(body))
        if path == "/api/validate-yaml":
            return self.send(call, 200, {"errors": [], "warnings": []})
        if path.startswith("/api/datasets/"):
            return self.about(call, key, path.removeprefix("/api/datasets/"), body)
        return self.file(call, key, path.removeprefix("/datasets/"))

    def found(self, call: BaseHTTPRequestHandler, key: str | None, name: str) -> dict[str, Any] | None:
        dataset = self.datasets.get(name)
        if dataset is None or (dataset["private"] and key not in self.keys):
            self.send(call, 404 if key in self.keys else 401, {"error": "Repository not found"}, code="RepoNotFound")
            return None
        return dataset

    def create(self, call: BaseHTTPRequestHandler, key: str | None, asked: dict[str, Any]) -> None:
        if key not in self.keys:
            return self.send(call, 401, {"error": "Invalid credentials"})
        name = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
        if name in self.datasets:
            return self.send(
                call, 409, {"error": "You already created this dataset repo", "url": f"{self.address}/datasets/{name}"}
            )
        is_private = asked.get("private", False) or asked.get("visibility") == "private"
        self.datasets[name] = {"files": {}, "private": is_private}
        return self.send(call, 200, {"url": f"{self.address}/datasets/{name}"})

    def about(self, call: BaseHTTPRequestHandler, key: str | None, rest: str, body: bytes) -> None:
        name = "/".join(rest.split("/")[:2])
        dataset = self.found(call, key, name)
        if dataset is None:
            return None
        action = rest.removeprefix(name).strip("/").split("/")
        if action[0] in ("preupload", "commit") and key not in self.keys:
            return self.send(call, 403, {"error": "Forbidden"})
        if action[0] == "preupload":
            files = [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in json.loads(body)["files"]]
            return self.send(call, 200, {"files": files})
        if action[0] == "commit":
            for line in body.splitlines():
                entry = json.loads(line)
                if entry["key"] == "file":
                    dataset["files"][entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            return self.send(call, 200, {"commitUrl": f"{self.address}/datasets/{name}/commit/{COMMIT}", "commitOid": COMMIT})
        if action[0] == "revision" and action[1] not in ("main", COMMIT):
            return self.send(call, 404, {"error": "Revision not found"}, code="RevisionNotFound")
        siblings = [{"rfilename": path, "size": len(content)} for path, content in dataset["files"].items()]
        head = dataset["files"].get("README.md", b"").decode().split("---\n")
        card = yaml.safe_load(head[1]) if len(head) > 2 else None
        return self.send(
            call,
            200,
            {"id": name, "sha": COMMIT, "private": dataset["private"], "siblings": siblings, "cardData": card, "tags": []},
        )

    def file(self, call: BaseHTTPRequestHandler, key: str | None, rest: str) -> None:
        name, _, path = rest.partition("/resolve/")
        dataset = self.found(call, key, name)
        if dataset is None:
            return
        content = dataset["files"].get(path.partition("/")[2])
        if content is None:
            return self.send(call, 404, {"error": "Entry not found"}, code="EntryNotFound")
        call.send_response(200)
        for header, value in (("ETag", '"e"'), ("X-Repo-Commit", COMMIT), ("Content-Length", str(len(content)))):
            call.send_header(header, value)
        call.end_headers()
        if call.command != "HEAD":
            call.wfile.write(content)
        return None

    def send(self, call: BaseHTTPRequestHandler, status: int, values: dict[str, Any], *, code: str = "") -> None:
        content = json.dumps(values).encode()
        call.send_response(status)
        call.send_header("Content-Type", "application/json")
        call.send_header("Content-Length", str(len(content)))
        if code:
            call.send_header("X-Error-Code", code)
        call.end_headers()
        if call.command != "HEAD":
            call.wfile.write(content)
