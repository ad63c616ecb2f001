"""A Hugging Face hub on loopback that the real SDK talks to: repositories, commits, large files. It can be told to refuse.

`with hub_server(monkeypatch) as hub:` points the SDK of this process at it, as an operator does by HF_ENDPOINT."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import huggingface_hub
import pytest

SMALL = 100
"""Files of more bytes go the way of large ones."""
SHA = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Repository:
    private: bool
    files: dict[str, bytes] = field(default_factory=dict)


class FakeHub:
    """repositories: by `type/owner/name`. refusals: path prefix → status. tokens: those that were sent."""

    def __init__(self) -> None:
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[str, bytes] = {}
        self.refusals: dict[str, int] = {}
        self.tokens: set[str | None] = set()
        self.messages: list[str] = []
        self.url = ""

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, Any]:
        for prefix, status in self.refusals.items():
            if path.startswith(prefix):
                return status, {"error": f"refused <b>{status}</b>"}
        parts = path.partition("?")[0].strip("/").split("/")
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.endswith("/info/lfs/objects/batch"):
            return 200, self._batch(json.loads(body))
        if parts[0] == "blobs" and method == "PUT":
            self.blobs[parts[1]] = body
            return 200, {}
        if parts[0] == "api" and len(parts) >= 4:
            return self._of_repository(parts[1].removesuffix("s"), "/".join(parts[2:4]), parts[4:], body)
        return 404, {"error": f"no {method} {path}"}

    def _create(self, values: dict[str, Any]) -> tuple[int, Any]:
        name = f"{values.get('organization', 'alice')}/{values['name']}"
        key = f"{values.get('type') or 'model'}/{name}"
        if key in self.repositories:
            return 409, {"error": "You already created this repo", "url": f"{self.url}/{name}"}
        private = bool(values.get("private")) or values.get("visibility") == "private"
        self.repositories[key] = Repository(private=private)
        return 200, {"url": f"{self.url}/{name}", "name": name}

    def _of_repository(self, kind: str, name: str, rest: list[str], body: bytes) -> tuple[int, Any]:
        repository = self.repositories.get(f"{kind}/{name}")
        if repository is None:
            return 404, {"error": "Repository not found"}
        if rest[:1] == ["preupload"]:
            asked = json.loads(body)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "lfs" if f["size"] > SMALL else "regular", "shouldIgnore": False, "oid": None}
                for f in asked
            ]
            return 200, {"files": modes}
        if rest[:1] == ["commit"]:
            self._commit(repository, body)
            return 200, {"success": True, "commitOid": SHA, "commitUrl": f"{self.url}/{name}/commit/{SHA}"}
        names = [{"rfilename": path} for path in sorted(repository.files)]
        return 200, {"id": name, "modelId": name, "sha": SHA, "private": repository.private, "siblings": names, "tags": []}

    def _commit(self, repository: Repository, body: bytes) -> None:
        for line in body.decode().splitlines():
            entry = json.loads(line)
            value = entry["value"]
            if entry["key"] == "header":
                self.messages.append(value["summary"])
            elif entry["key"] == "file":
                repository.files[value["path"]] = base64.b64decode(value["content"])
            elif entry["key"] == "lfsFile":
                repository.files[value["path"]] = self.blobs[value["oid"]]

    def _batch(self, values: dict[str, Any]) -> dict[str, Any]:
        def upload(oid: str) -> dict[str, Any]:
            return {"upload": {"href": f"{self.url}/blobs/{oid}", "header": {}}}

        objects = [{**each, "authenticated": True, "actions": upload(each["oid"])} for each in values["objects"]]
        return {"transfer": "basic", "objects": objects}

    def is_honest(self) -> bool:
        """What came as a large file is what its name says."""
        return all(hashlib.sha256(data).hexdigest() == oid for oid, data in self.blobs.items())


@contextmanager
def hub_server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    hub = FakeHub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def serve(self) -> None:
            hub.tokens.add(self.headers.get("Authorization"))
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or self._chunks()
            status, values = hub.answer(self.command, self.path, body)
            data = json.dumps(values).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data if self.command != "HEAD" else b"")

        def _chunks(self) -> bytes:
            found = b""
            while self.headers.get("Transfer-Encoding") == "chunked" and (size := int(self.rfile.readline(), 16)):
                found += self.rfile.read(size)
                self.rfile.readline()
            return found

        do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = serve

        def log_message(self, *args: Any) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", hub.url)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)  # the fake speaks the older protocol only
    huggingface_hub.close_session()
    try:
        yield hub
    finally:
        huggingface_hub.close_session()
        server.shutdown()
        server.server_close()
        thread.join()
