from __future__ import annotations

from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from pytest_django.fixtures import Settings


@pytest.fixture
def benchmarks(settings: Settings, tmp_path: Path) -> Path:
    """A folder with one benchmark that works and one that does not; both write down how they were called."""
    settings.ROOT = tmp_path
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    (folder / "__init__.py").touch()
    note = "import sys, pathlib; pathlib.Path('called').open('a').write(' '.join([__spec__.name, *sys.argv[1:]]) + '\\n')\n"
    (folder / "sampling.py").write_text(note)
    (folder / "training.py").write_text(note + "sys.exit(1)\n")
    return tmp_path / "called"


def test_a_named_benchmark_runs_alone_and_hears_quick(benchmarks: Path) -> None:
    call_command("bench", "sampling", "--quick")
    assert benchmarks.read_text() == "benchmarks.sampling --quick\n"


def test_without_a_name_all_run_and_a_failure_is_said_at_the_end(benchmarks: Path) -> None:
    with pytest.raises(CommandError, match=r"Failed: training\."):
        call_command("bench")
    assert benchmarks.read_text().split() == ["benchmarks.sampling", "benchmarks.training"]


def test_an_unknown_name_lists_what_there_is(benchmarks: Path) -> None:
    with pytest.raises(CommandError, match=r"no benchmark speed\. Choose from: sampling, training\."):
        call_command("bench", "speed")
    assert not benchmarks.exists()
