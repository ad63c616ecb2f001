"""Real processes: a supervisor in a subprocess, children that are small shell scripts."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evsys_web.supervisor import Child

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
PATIENT = "echo $$ >> {folder}/patient.pids; exec sleep 300"
DEAF = "trap '' TERM; echo $$ >> {folder}/deaf.pids; sleep 300 & echo $! >> {folder}/grandchild.pids; wait; wait"
SHORT_LIVED = "echo $$ >> {folder}/short.pids; exit 3"
SCRIPT = """
import sys
from pathlib import Path
from evsys_web.supervisor import Child, Supervisor

def say(sentence):
    sys.stdout.write(sentence + "\\n")
    sys.stdout.flush()

children = [Child(f"child {number}", ["sh", "-c", text], {}, Path("/")) for number, text in enumerate(sys.argv[2:])]
Supervisor(children, say=say, grace_seconds=float(sys.argv[1])).run()
"""


@pytest.fixture
def supervise(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(*scripts: str, grace: float = 5.0) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", SCRIPT, str(grace), *(script.format(folder=tmp_path) for script in scripts)]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate(timeout=60)


def pids(folder: Path, name: str, *, at_least: int = 1) -> list[int]:
    """Process ids that a script wrote down, once there are enough of them."""
    file = folder / f"{name}.pids"
    wait_until(lambda: file.exists() and len(file.read_text().split()) >= at_least)
    return [int(line) for line in file.read_text().split()]


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text() if sys.platform == "linux" else ""
        os.kill(pid, 0)
    except (ProcessLookupError, FileNotFoundError):
        return False
    return ") Z " not in stat  # a zombie of a killed parent waits for init, and does nothing


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_stop_signal_ends_every_child(supervise, tmp_path, number) -> None:
    supervisor = supervise(PATIENT, PATIENT)
    children = pids(tmp_path, "patient", at_least=2)
    supervisor.send_signal(number)
    assert supervisor.wait(60) == 0
    assert not any(alive(pid) for pid in children)


def test_a_deaf_child_and_its_own_children_are_killed_after_the_grace(supervise, tmp_path) -> None:
    supervisor = supervise(DEAF, grace=0.5)
    family = pids(tmp_path, "deaf") + pids(tmp_path, "grandchild")
    supervisor.send_signal(signal.SIGTERM)
    assert supervisor.wait(60) == 0
    wait_until(lambda: not any(alive(pid) for pid in family))


def test_a_second_ctrl_c_does_not_wait_for_the_grace(supervise, tmp_path) -> None:
    supervisor = supervise(DEAF, grace=60)
    family = pids(tmp_path, "deaf") + pids(tmp_path, "grandchild")
    supervisor.send_signal(signal.SIGINT)
    time.sleep(0.5)
    assert supervisor.poll() is None
    supervisor.send_signal(signal.SIGINT)
    assert supervisor.wait(60) == 0
    wait_until(lambda: not any(alive(pid) for pid in family))


def test_a_killed_supervisor_takes_its_children_along(supervise, tmp_path) -> None:
    supervisor = supervise(PATIENT)
    (child,) = pids(tmp_path, "patient")
    supervisor.kill()
    wait_until(lambda: not alive(child))


def test_a_child_that_ends_is_started_again_and_said_so(supervise, tmp_path) -> None:
    supervisor = supervise(SHORT_LIVED)
    assert len(set(pids(tmp_path, "short", at_least=2))) >= 2
    assert supervisor.stdout is not None
    assert supervisor.stdout.readline().strip() == "The child 0 ended (exit status 3); starting it again in 1 s."


def test_each_failure_in_a_row_waits_longer_up_to_half_a_minute() -> None:
    child = Child("web process", ["true"], {}, Path("/"))
    assert [child.plan_restart(now=0.0) for _ in range(7)] == [1, 2, 4, 8, 16, 30, 30]


def test_a_child_that_lived_well_is_restarted_soon() -> None:
    child = Child("web process", ["true"], {}, Path("/"), delay=16.0, started_at=100.0)
    assert child.plan_restart(now=100.0 + 3600) == 1
