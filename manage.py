#!/usr/bin/env python3
"""Django's door, which also furnishes the house: `up` and its like make .venv and install what it lacks, then start inside it."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections import deque
from pathlib import Path

ROOT = Path(__file__).resolve().parent
VENV = ROOT / ".venv"
RECORD = VENV / "installed.json"  # requirement file -> hash of what was installed from it
# A file's tests stay together, for they share servers; of more processes each would still load PyTorch. `-n0` takes one process.
PARALLEL = ("-n", "auto", "--maxprocesses", "4", "--dist", "loadfile", "--no-loadscope-reorder")
SELF_INSTALLING = ("up", "test", "demo", "bench")


def main() -> None:
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    if sys.version_info < (3, 11):  # noqa: UP036 - said here, in a sentence, because nothing else can
        version = ".".join(map(str, sys.version_info[:3]))
        sys.exit(f"EvSys Web needs Python 3.11 or newer; {sys.executable} is {version}. Try: python3.11 manage.py {command}")
    if command in SELF_INSTALLING and sys.prefix == sys.base_prefix:
        continue_in_venv(requirement_files(command, hosted="--hosted" in sys.argv))
    if command == "test":
        os.chdir(ROOT)
        os.execv(sys.executable, [sys.executable, "-m", "pytest", *PARALLEL, *sys.argv[2:]])
    run_django()


def requirement_files(command: str, *, hosted: bool) -> list[str]:
    """What a command needs. `--hosted` leaves PyTorch and all that trains on this machine out."""
    files = ["requirements-hosted.txt" if hosted and command != "test" else "requirements.txt"]
    return [*files, "tests/requirements.txt"] if command == "test" else files


def continue_in_venv(files: list[str]) -> None:
    """Replace this process by the same command inside .venv, complete. Two starts at once wait for each other."""
    with_lock = os.open(ROOT, os.O_RDONLY)
    try:
        import fcntl

        fcntl.flock(with_lock, fcntl.LOCK_EX)
    except ImportError:
        sys.exit("EvSys Web runs on Linux and macOS; on Windows use WSL.")
    try:
        python = VENV / "bin" / "python"
        if not works(python):
            make_venv()
        install(python, files)
    finally:
        os.close(with_lock)
    os.execv(python, [str(python), str(ROOT / "manage.py"), *sys.argv[1:]])


def works(python: Path) -> bool:
    """A Python with pip; one that was interrupted half-way, or whose Python is gone, is made again."""
    if not python.exists():
        return False
    return subprocess.run([python, "-c", "import pip"], capture_output=True, check=False).returncode == 0


def make_venv() -> None:
    if importlib.util.find_spec("ensurepip") is None:
        sys.exit(
            "This Python cannot make a virtual environment (it has no ensurepip). On Debian or Ubuntu: "
            "sudo apt install python3-venv, then start again."
        )
    say("Making the virtual environment .venv …")
    made = subprocess.run([sys.executable, "-m", "venv", "--clear", VENV], capture_output=True, text=True, check=False)
    if made.returncode:
        sys.exit(f"The virtual environment {VENV} could not be made:\n{made.stdout}{made.stderr}")


def install(python: Path, files: list[str]) -> None:
    """pip install the files that changed since they were last installed. pip keeps to its own settings (index, proxy, cache)."""
    record: dict[str, str] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    hashes = {name: hashlib.sha256((ROOT / name).read_bytes()).hexdigest() for name in files}
    changed = [name for name in files if record.get(name) != hashes[name]]
    if not changed:
        return
    size = "about 1.7 GB on disk, some minutes the first time" if "requirements.txt" in changed else "a minute or two"
    say(f"Installing the packages of {' and '.join(changed)} into .venv ({size}) …")
    began = time.monotonic()
    command = [str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    for name in changed:
        command += ["-r", str(ROOT / name)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        last_lines = follow(pip)
    if pip.returncode:
        sys.exit(
            "\n".join([*last_lines, "pip could not install the packages; its last lines are above. Mend it and start again."])
        )
    RECORD.write_text(json.dumps(record | hashes, indent=1))
    say(f"Installed in {time.monotonic() - began:.0f} s.")


def follow(pip: subprocess.Popen[str]) -> deque[str]:
    """Show how far pip is, in few lines; return its last ones in case it fails."""
    last_lines: deque[str] = deque(maxlen=25)
    collected = 0
    assert pip.stdout is not None
    for line in pip.stdout:
        last_lines.append(line.rstrip())
        collected += line.startswith("Collecting ")
        if line.startswith("Collecting ") and collected % 20 == 0:
            say(f"  {collected} packages found, now {line.split()[1]}")
        elif line.startswith("Installing collected packages"):
            say(f"  unpacking {line.count(',') + 1} packages (the longest part)")
    return last_lines


def say(sentence: str) -> None:
    sys.stdout.write(sentence + "\n")
    sys.stdout.flush()


def run_django() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "evsys_web.settings")
    try:
        from django.core.exceptions import ImproperlyConfigured
        from django.core.management import execute_from_command_line
    except ModuleNotFoundError:
        where = "this environment" if sys.prefix != sys.base_prefix else "this Python; use .venv/bin/python, or"
        sys.exit(f"Django is not installed in {where}: pip install -r requirements.txt")
    try:
        command = sys.argv[1] if len(sys.argv) > 1 else "help"
        # A command is a module, which cannot have a dash in its name; options have one in front.
        module = command if command.startswith("-") else command.replace("-", "_")
        execute_from_command_line([sys.argv[0], module, *sys.argv[2:]])
    except ImproperlyConfigured as error:
        sys.exit(f"Settings: {error}")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
