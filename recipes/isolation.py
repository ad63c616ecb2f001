"""Runs a function in a process of its own that dies when a call takes too long: code that cannot be interrupted otherwise
(symbolic algebra, regular expressions) is bounded in time and memory, from any thread and without signals in this process.

`python -m recipes.isolation module:function` is that process: JSON lines of arguments in, JSON lines of results out.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from importlib import import_module
from pathlib import Path
from typing import IO, Any

_ROOT = Path(__file__).resolve().parents[1]
_START_SECONDS = 120
_MEMORY_BYTES = 4 << 30
_KEPT_VARIABLES = ("PATH", "LANG", "LC_ALL", "HOME", "LD_LIBRARY_PATH", "SYSTEMROOT", "PYTHONPATH")


class IsolationTimeout(Exception):
    """The call took longer than it may, or more memory; its process is gone and the next call starts another."""


class Isolated:
    """Calls `target` ("module:function"), whose arguments and result are JSON. One call at a time; safe from any thread.

    variables: beginnings of the names of environment variables that the process gets besides the few that Python needs."""

    def __init__(self, target: str, *, timeout_seconds: float, variables: tuple[str, ...] = ()) -> None:
        self.target = target
        self.timeout_seconds = timeout_seconds
        self._variables = variables
        self._lock = threading.Lock()
        self._process: subprocess.Popen[str] | None = None

    def __call__(self, *arguments: Any) -> Any:
        """What the function returns. Raises IsolationTimeout, or ValueError with the text of what the function raised."""
        line = json.dumps({"seconds": self.timeout_seconds, "arguments": arguments}, allow_nan=False)
        with self._lock:
            answer = self._ask(line)
        if answer is None:
            raise IsolationTimeout(f"took longer than {self.timeout_seconds:g} seconds, or too much memory")
        found = json.loads(answer)
        if "error" in found:
            raise ValueError(found["error"])
        return found["result"]

    def _ask(self, line: str) -> str | None:
        process = self._process if self._process is not None and self._process.poll() is None else self._start()
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(line + "\n")
            process.stdin.flush()
            answer = process.stdout.readline()
        except (BrokenPipeError, ConnectionResetError):
            answer = ""
        if not answer.endswith("\n"):
            self._end()
            return None
        return answer

    def _start(self) -> subprocess.Popen[str]:
        self._end()
        environment = {
            name: text for name, text in os.environ.items() if name in _KEPT_VARIABLES or name.startswith(self._variables)
        }
        self._process = subprocess.Popen(
            [sys.executable, "-m", "recipes.isolation", self.target],
            cwd=_ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            encoding="utf-8",
        )
        return self._process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    _close(stream)

    def close(self) -> None:
        with self._lock:
            self._end()


def _close(stream: IO[str]) -> None:
    try:
        stream.close()
    except BrokenPipeError:
        return  # what was not written is not wanted any more


def serve(target: str, requests: IO[str], answers: IO[str]) -> None:
    """Answer each line until there are no more. The alarm has no handler on purpose: it ends the process, inside C code too."""
    signal.alarm(_START_SECONDS)
    module, _, name = target.partition(":")
    function = getattr(import_module(module), name)
    signal.alarm(0)
    for line in requests:
        request = json.loads(line)
        signal.setitimer(signal.ITIMER_REAL, request["seconds"])
        try:
            answer = {"result": function(*request["arguments"])}
        except MemoryError:
            raise SystemExit(1) from None
        except Exception as error:  # noqa: BLE001 - the other side of a process edge: told there, in words
            answer = {"error": f"{type(error).__name__}: {error}"}
        signal.setitimer(signal.ITIMER_REAL, 0)
        answers.write(json.dumps(answer, allow_nan=False) + "\n")
        answers.flush()


def _limit_memory() -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))


if __name__ == "__main__":
    _limit_memory()
    own_output = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a library that prints must not answer in our place
    with own_output:
        serve(sys.argv[1], sys.stdin, own_output)
