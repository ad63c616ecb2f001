"""Every command of compose.yaml and of the Dockerfile, run by hand as compose would, on the tests' database and broker."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.contracts.test_containers import OURS
from tests.stack import ROOT, Stack

IMAGE = json.loads(re.findall(r"^CMD (\[.*\])$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)[0])
COUNT = (
    "from evsys_web.home.models import Worker; print(sorted(queue for worker in Worker.objects.all() for queue in worker.queues))"
)
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    """Not started: its environment is what compose would give."""
    stack = Stack(tmp_path / "home", LOG_FORMAT="json")
    yield stack
    stack.stop()


@pytest.fixture
def start(stack: Stack, tmp_path: Path) -> Iterator[Start]:
    started: list[subprocess.Popen[str]] = []

    def start(name: str) -> subprocess.Popen[str]:
        command = here(OURS[name].get("command", IMAGE), stack.port)
        with (tmp_path / f"{name}.log").open("w") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=stack.environment, stdout=log, stderr=log, text=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(60)


def here(command: list[str], port: int) -> list[str]:
    """As in the container, but for the Python and the port; and reachable from this machine alone."""
    replaced = {"python": sys.executable, "8000": str(port), "0.0.0.0": "127.0.0.1"}
    return [replaced.get(word, word).replace("127.0.0.1:8000", f"127.0.0.1:{port}") for word in command]


def test_the_services_come_up_answer_and_go_down(stack: Stack, start: Start, tmp_path: Path) -> None:
    prepare = start("prepare")
    assert prepare.wait(240) == 0
    said = (tmp_path / "prepare.log").read_text()
    assert re.search(r"Password\s+\S{12,}", said), said
    running = [start(name) for name in OURS if name != "prepare"]
    check = here(OURS["web"]["healthcheck"]["test"][1:], stack.port)
    stack.wait_for(lambda: subprocess.run(check, env=stack.environment, capture_output=True).returncode == 0)
    queues = ["default", "evals", "messages", "training"]
    stack.wait_for(lambda: str(queues) in stack.manage("shell", "-c", COUNT))
    for process in running:
        process.terminate()
    ends = [process.wait(120) for process in running]
    assert set(ends) <= {0, -signal.SIGTERM}, "uvicorn goes down in order, and then by the signal that it got"
    assert start("prepare").wait(240) == 0
    assert "Password" not in (tmp_path / "prepare.log").read_text(), "the second time everything is there"
