"""How manage.py furnishes itself, with a Python in .venv that only writes down what it was asked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import manage

PIP = """#!/bin/sh
echo "$@" >> {calls}
case "$*" in *"-c import pip"*) exit {has_pip};; esac
echo "Collecting something==1"
echo "Installing collected packages: one, two, three"
echo "the last word of pip"
exit {exit_status}
"""


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout with requirement files and a .venv."""
    for file in ("requirements.txt", "requirements-hosted.txt", "tests/requirements.txt"):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("something==1\n")
    (tmp_path / ".venv" / "bin").mkdir(parents=True)
    monkeypatch.setattr(manage, "ROOT", tmp_path)
    monkeypatch.setattr(manage, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(manage, "RECORD", tmp_path / ".venv" / "installed.json")
    return tmp_path


def fake_python(checkout: Path, *, exit_status: int = 0, has_pip: int = 0) -> Path:
    python = checkout / ".venv" / "bin" / "python"
    python.write_text(PIP.format(calls=checkout / "calls", exit_status=exit_status, has_pip=has_pip))
    python.chmod(0o755)
    return python


def installs(checkout: Path) -> list[str]:
    """The requirement files of each call of pip."""
    calls = (checkout / "calls").read_text().splitlines() if (checkout / "calls").exists() else []
    return [" ".join(word.removeprefix(f"{checkout}/") for word in call.split() if word.endswith(".txt")) for call in calls]


@pytest.mark.parametrize(
    ("command", "hosted", "files"),
    [
        ("up", False, ["requirements.txt"]),
        ("up", True, ["requirements-hosted.txt"]),
        ("bench", False, ["requirements.txt"]),
        ("test", False, ["requirements.txt", "tests/requirements.txt"]),
        ("test", True, ["requirements.txt", "tests/requirements.txt"]),
    ],
)
def test_each_command_has_its_files(command: str, hosted: bool, files: list[str]) -> None:
    assert manage.requirement_files(command, hosted=hosted) == files


def test_what_is_installed_is_not_installed_again(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    python = fake_python(checkout)
    manage.install(python, ["requirements.txt"])
    assert "unpacking 3 packages" in capsys.readouterr().out
    manage.install(python, ["requirements.txt"])
    assert installs(checkout) == ["requirements.txt"]
    assert capsys.readouterr().out == ""


def test_only_the_file_that_changed_is_installed(checkout: Path) -> None:
    python = fake_python(checkout)
    manage.install(python, ["requirements.txt"])
    manage.install(python, ["requirements.txt", "tests/requirements.txt"])
    (checkout / "requirements.txt").write_text("something==2\n")
    manage.install(python, ["requirements.txt", "tests/requirements.txt"])
    assert installs(checkout) == ["requirements.txt", "tests/requirements.txt", "requirements.txt"]


def test_a_failing_pip_shows_its_last_lines_and_is_tried_again(checkout: Path) -> None:
    with pytest.raises(SystemExit, match="the last word of pip(?s:.)*start again"):
        manage.install(fake_python(checkout, exit_status=1), ["requirements.txt"])
    manage.install(fake_python(checkout), ["requirements.txt"])
    assert installs(checkout) == ["requirements.txt", "requirements.txt"]


def test_a_half_made_environment_is_not_taken_for_a_whole_one(checkout: Path) -> None:
    assert not manage.works(checkout / ".venv" / "bin" / "python")
    assert not manage.works(fake_python(checkout, has_pip=1))
    assert manage.works(fake_python(checkout))


def test_a_python_without_ensurepip_is_told_what_to_install(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manage.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SystemExit, match="apt install python3-venv"):
        manage.make_venv()


def test_an_old_python_is_told_which_one_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "version_info", (3, 10, 4))
    monkeypatch.setattr(sys, "argv", ["manage.py", "up"])
    with pytest.raises(SystemExit, match=r"needs Python 3\.11 or newer.* is 3\.10\.4"):
        manage.main()


def test_a_wrong_setting_is_a_sentence_and_not_a_traceback() -> None:
    command = [sys.executable, "manage.py", "check"]
    environment = {**os.environ, "PORT": "eighty", "DJANGO_SETTINGS_MODULE": "evsys_web.settings"}
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 1
    assert done.stderr.strip() == "Settings: PORT is 'eighty'; write a number from 1 to 65535."
