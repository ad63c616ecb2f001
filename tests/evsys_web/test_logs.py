"""Which work a line is about, and how it looks."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest
from django.conf import settings

from evsys_web import logs
from evsys_web.logs import Subject
from tests.evsys_web.test_settings import Loader
from tests.evsys_web.test_settings import load as load

pytestmark = pytest.mark.once


@pytest.fixture
def at_work() -> Subject:
    return Subject("trainingrun", 7)


def test_a_line_of_any_thread_is_about_the_only_work_of_the_process(at_work: Subject) -> None:
    seen: list[Subject | None] = []
    logs.begin(at_work)
    try:
        thread = Thread(target=lambda: seen.append(logs.subject()))
        thread.start()
        thread.join()
    finally:
        logs.end(at_work)
    assert seen == [at_work]
    assert logs.subject() is None


def test_with_two_works_only_a_thread_that_says_so_knows_whose_it_is(at_work: Subject) -> None:
    other = Subject("evalrun", 3)
    logs.begin(at_work)
    logs.begin(other)
    try:
        assert logs.subject() is None
        with logs.of(other):
            assert logs.subject() == other
    finally:
        logs.end(at_work)
        logs.end(other)


def lines_of(script: str, home: Path, **variables: str) -> list[str]:
    """What a process of its own prints to its error stream."""
    environment = {"EVSYS_HOME": str(home), "DJANGO_SETTINGS_MODULE": "evsys_web.settings", "PATH": "", **variables}
    done = subprocess.run(
        [sys.executable, "-c", f"import django; django.setup()\nimport logging\nfrom evsys_web import logs\n{script}"],
        cwd=settings.ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=True,
    )
    return done.stderr.splitlines()


SCRIPT = """
with logs.of(logs.Subject("trainingrun", 7)):
    try:
        1 / 0
    except ZeroDivisionError:
        logging.getLogger("evsys_web.x").exception("It broke:\\n%s", "twice")
logging.getLogger("uvicorn.error").warning("alone")
"""


def test_json_is_one_object_per_line_with_the_run_and_the_traceback(tmp_path: Path) -> None:
    broken, alone = map(json.loads, lines_of(SCRIPT, tmp_path, LOG_FORMAT="json"))
    assert (broken["level"], broken["logger"], broken["message"]) == ("ERROR", "evsys_web.x", "It broke:\ntwice")
    assert (broken["work"], broken["work_id"]) == ("trainingrun", 7)
    assert "ZeroDivisionError" in broken["exc_info"] and broken["at"] and broken["process"]
    assert alone["logger"] == "uvicorn.error" and alone["work"] is None


def test_a_line_for_people_names_the_run(tmp_path: Path) -> None:
    lines = lines_of(SCRIPT, tmp_path)
    assert "ERROR evsys_web.x [trainingrun 7]: It broke:" in lines[0]
    assert lines[-1].endswith("WARNING uvicorn.error: alone")


def test_another_format_is_refused(load: Loader) -> None:
    with pytest.raises(Exception, match="write line or json"):
        load(LOG_FORMAT="xml")


def test_traces_are_sent_to_the_collector_that_is_named(tmp_path: Path) -> None:
    """A span per request, by the names of views, without anything that a user sent."""
    script = """
import http.server, threading, gzip
bodies = []
class Collector(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        data = self.rfile.read(int(self.headers["Content-Length"]))
        bodies.append(gzip.decompress(data) if data[:2] == b"\\x1f\\x8b" else data)
        self.send_response(200); self.end_headers()
    def log_message(self, *args): pass
server = http.server.HTTPServer(("127.0.0.1", PORT), Collector)
threading.Thread(target=server.serve_forever, daemon=True).start()
from django.test import Client
Client().get("/accounts/login/?secret=hunter2", HTTP_HOST="localhost", HTTP_AUTHORIZATION="Bearer evs_hunter3")
Client().get("/health/live", HTTP_HOST="localhost")
from opentelemetry import trace
trace.get_tracer_provider().shutdown()
text = b"".join(bodies)
import sys
sys.stderr.write(f"{b'accounts/login' in text} {b'health' in text} {b'hunter3' in text}")
"""
    from tests.stack import free_port

    port = free_port()
    endpoint = f"http://127.0.0.1:{port}"
    lines = lines_of(script.replace("PORT", str(port)), tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint)
    assert lines[-1] == "True False False"


def test_without_a_collector_nothing_of_it_is_imported(tmp_path: Path) -> None:
    script = "import sys; sys.stderr.write(str('opentelemetry.sdk' in sys.modules))"
    assert lines_of(script, tmp_path)[-1] == "False"
