"""PostgreSQL and Redis of a test's own, on loopback, to be killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stack import free_port


def are_installed() -> bool:
    return bool(initdb()) and shutil.which("redis-server") is not None


def initdb() -> str | None:
    """Debian keeps it out of the path."""
    found = sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb")))
    return found[-1] if found else shutil.which("initdb")


class Postgres:
    """A cluster in a folder of its own. Not root's: PostgreSQL refuses to be."""

    def __init__(self) -> None:
        # Not below pytest's own folder, which it closes to all other users at each start.
        self.folder, self.port = Path(tempfile.mkdtemp(prefix="evsys-postgresql-")), free_port()
        self.data = self.folder / "data"
        self.bin = Path(initdb() or "initdb").parent
        self.as_owner = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
        if self.as_owner:
            shutil.chown(self.folder, "postgres")
        self._run("initdb", "-D", self.data, "-U", "evsys", "--auth=trust", "--no-sync")
        self.url = f"postgresql://evsys@127.0.0.1:{self.port}/postgres"
        self.start()

    def start(self) -> None:
        options = f"-c listen_addresses=127.0.0.1 -p {self.port} -k {self.data}"
        self._run("pg_ctl", "-D", self.data, "-w", "-l", self.data / "log", "-o", options, "start")

    def kill(self) -> None:
        """kill -9 of the server and its children, as the kernel does; it recovers at the next start."""
        leader = int((self.data / "postmaster.pid").read_text().split()[0])
        children = subprocess.run(["pgrep", "-P", str(leader)], capture_output=True, text=True).stdout.split()
        for pid in [leader, *map(int, children)]:
            os.kill(pid, signal.SIGKILL)
        (self.data / "postmaster.pid").unlink()

    def stop(self) -> None:
        if (self.data / "postmaster.pid").exists():
            self._run("pg_ctl", "-D", self.data, "-m", "immediate", "stop")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *arguments: object) -> None:
        command = [*self.as_owner, str(self.bin / program), *map(str, arguments)]
        environment = os.environ | {"LC_ALL": "C.UTF-8"}
        subprocess.run(command, check=True, timeout=60, cwd="/", env=environment, stdout=subprocess.DEVNULL)


class Redis:
    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        command = ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port), "--databases", "64", "--save", ""]
        self.process = subprocess.Popen([*command, "--dir", str(self.folder)], stdout=subprocess.DEVNULL)

    def kill(self) -> None:
        """Everything that it held is gone."""
        self.process.kill()
        self.process.wait(60)


@pytest.fixture
def database() -> Iterator[Postgres]:
    database = Postgres()
    yield database
    database.stop()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Redis]:
    broker = Redis(tmp_path)
    yield broker
    broker.kill()
