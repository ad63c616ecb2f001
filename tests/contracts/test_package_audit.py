"""CI's question about known weaknesses of packages: findings fail, and what could not be asked does not pass for asked."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
WEAKNESS = {
    "id": "PYSEC-2026-1",
    "summary": "Reads what it should not",
    "modified": "2026-11-25T00:00:00Z",
    "affected": [
        {
            "package": {"name": "django", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9.9"}]}],
        }
    ],
}


@contextmanager
def osv(weak: dict[str, Any], *, num_answers: int = 10**6) -> Iterator[str]:
    """As much of OSV as is asked. weak: {version of any package: weakness}; after num_answers it fails."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append(query["package"]["name"])
            found = weak.get(query["version"])
            body = json.dumps({"vulns": [found]} if found else {}).encode()
            self.send_response(200 if len(asked) <= num_answers else 500)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: Any) -> None:
            """Silent."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/v1/query"
        server.shutdown()


KNOWN = {"2.0": WEAKNESS}
"""By which the audit sees that somebody is there who knows anything."""


@pytest.mark.parametrize(
    ("weak", "num_answers", "code", "said"),
    [
        (KNOWN, 10**6, 0, "2 packages were asked about; 0 known weaknesses."),
        (KNOWN | {"5.0": WEAKNESS}, 10**6, 1, "django 5.0: PYSEC-2026-1, mended in 9.9: Reads what it should not"),
        (KNOWN, 1, 0, "stopped answering: known weaknesses of packages were NOT CHECKED."),
        ({}, 10**6, 0, "is not reachable here: known weaknesses of packages were NOT CHECKED."),
    ],
    ids=["sound", "weak", "gone meanwhile", "somebody else"],
)
def test_findings_fail_and_silence_is_no_pass(
    weak: dict[str, Any], num_answers: int, code: int, said: str, tmp_path: Path
) -> None:
    pins = tmp_path / "requirements.txt"
    pins.write_text("django==5.0  # a reason\nninja==1.0\n")
    with osv(weak, num_answers=num_answers) as url:
        command = [sys.executable, ".ci/audit", url, str(pins)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)
    assert (done.returncode, said in done.stdout) == (code, True), done.stdout + done.stderr


def test_nobody_there_is_said_at_once() -> None:
    done = subprocess.run(
        [sys.executable, ".ci/audit", "http://127.0.0.1:1/v1/query"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0 and "NOT CHECKED" in done.stdout
