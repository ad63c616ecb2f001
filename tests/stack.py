"""The real thing for tests: `manage.py up` on a throw-away home, with its web process and its Celery worker."""

from __future__ import annotations

import itertools
import os
import re
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from threading import Thread
from typing import TypeVar
from urllib.parse import urlsplit, urlunsplit

import httpx
import psutil
import psycopg

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 240.0
BROKER_NUMBERS = 16  # databases of Redis that each process of the tests has for itself: start it with --databases 64
MAKE_TOKEN = """
from evsys_web.accounts.models import ApiToken, User
print(ApiToken.objects.issue(User.objects.get(username="admin"), name="test")[1])
"""
T = TypeVar("T")


class Stack:
    """Started by `start`; `password` is the administrator's, read from what `up` printed."""

    _broker_numbers = itertools.cycle(range(1, BROKER_NUMBERS))

    def __init__(self, home: Path, **environment: str) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.output: list[str] = []
        self.password = ""
        kept = {name: value for name, value in os.environ.items() if name != "DJANGO_SETTINGS_MODULE"}
        self.environment = {**kept, "EVSYS_HOME": str(home), "PORT": str(self.port), "OMP_NUM_THREADS": "1", **environment}
        self._own_database()
        self._own_broker()
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Also again, after it was killed."""
        self.output = []
        command = [sys.executable, "manage.py", "up"]
        self._process = process = subprocess.Popen(
            command, cwd=ROOT, env=self.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        Thread(target=self._read, args=(process,), daemon=True).start()
        self.wait_for(lambda: "is ready at" in self.text or process.poll() is not None, seconds=START_SECONDS)
        if "is ready at" not in self.text:
            raise AssertionError(f"`manage.py up` did not become ready:\n{self.text}")
        if found := re.search(r"Password\s+(\S+)", self.text):
            self.password = found.group(1)

    def stop(self) -> None:
        """Ctrl-C, as a person would."""
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(60)
            except subprocess.TimeoutExpired:
                self._process.kill()
        self._drop_database()

    @property
    def text(self) -> str:
        return "".join(self.output)

    def api(self) -> httpx.Client:
        """The REST API, as the administrator."""
        token = self.manage("shell", "-c", MAKE_TOKEN).split()[-1]
        return httpx.Client(base_url=f"{self.url}/api/v1", headers={"Authorization": f"Bearer {token}"}, timeout=120)

    def worker(self) -> psutil.Process:
        """The Celery worker's main process; it exists a moment after it was restarted."""
        assert self._process is not None
        parent = psutil.Process(self._process.pid)
        return self.wait_for(lambda: next((child for child in parent.children() if is_worker(child)), None))

    def kill_worker(self) -> None:
        """kill -9 of the worker and its pool, as the kernel does when memory runs out."""
        worker = self.worker()
        for process in [worker, *worker.children(recursive=True)]:
            process.kill()
        psutil.wait_procs([worker], timeout=60)

    def kill_supervisor(self) -> list[psutil.Process]:
        """kill -9 of `manage.py up` alone; returns every process that it had started, directly or not."""
        assert self._process is not None
        family = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        self._process.wait(60)
        return family

    def manage(self, *arguments: str) -> str:
        command = [sys.executable, "manage.py", *arguments]
        done = subprocess.run(command, cwd=ROOT, env=self.environment, capture_output=True, text=True, timeout=240, check=True)
        return done.stdout

    def wait_for(self, condition: Callable[[], T | None], *, seconds: float = 180.0) -> T:
        """What `condition` returns as soon as it is true."""
        deadline = time.monotonic() + seconds
        while not (answer := condition()):
            if time.monotonic() > deadline:
                raise AssertionError(f"waited {seconds:.0f} s in vain; the last lines of `manage.py up`:\n{self.text[-4000:]}")
            time.sleep(0.05)
        return answer

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        self.output.extend(iter(process.stdout.readline, ""))

    def _own_database(self) -> None:
        """On PostgreSQL the tests' own database is another process' business: make one beside it."""
        self._server_url = self.environment.pop("DATABASE_URL", "")
        if not self._server_url.startswith("postgres"):
            return
        self._name = f"stack_{uuid.uuid4().hex}"
        with closing(psycopg.connect(self._server_url, autocommit=True)) as connection:
            connection.execute(f'CREATE DATABASE "{self._name}"')
        self.environment["DATABASE_URL"] = urlunsplit(urlsplit(self._server_url)._replace(path=f"/{self._name}"))

    def _own_broker(self) -> None:
        """On Redis each stack takes a numbered database for itself, so that none reads another's messages."""
        if url := self.environment.get("EVSYS_TEST_BROKER_URL"):
            number = first_broker_number() + next(Stack._broker_numbers)
            self.environment["CELERY_BROKER_URL"] = urlunsplit(urlsplit(url)._replace(path=f"/{number}"))

    def _drop_database(self) -> None:
        if "DATABASE_URL" in self.environment:
            with closing(psycopg.connect(self._server_url, autocommit=True)) as connection:
                connection.execute(f'DROP DATABASE IF EXISTS "{self._name}" WITH (FORCE)')


def first_broker_number() -> int:
    """Of the tests' own broker; those of its stacks follow."""
    return BROKER_NUMBERS * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))


def is_worker(process: psutil.Process) -> bool:
    """The one that trains and evaluates."""
    try:
        return "evsys@%h" in process.cmdline()
    except psutil.Error:
        return False


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
