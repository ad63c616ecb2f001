"""`.ci/run` has two stages: everything on SQLite and the file broker, then on PostgreSQL and Redis whatever uses a database.
What is left out of the second touches none, so that a second run would prove nothing."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.contracts.test_imports import breaches, imported, modules

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
TESTS = ROOT / "tests"
DATABASE = {"db", "transactional_db", "django_db_setup", "stack"}
"""The fixtures by which a test comes to a database: pytest-django refuses every query of a test that has none of them."""
LEFT_OUT = ("tests/recipes/", "tests/test_manage.py")


def second_stage() -> list[str]:
    """Its folders, as they stand in .ci/run."""
    found = re.search(r'^run_tests grown .* manage\.py test (.*) -m "not once"$', (ROOT / ".ci/run").read_text(), re.MULTILINE)
    assert found is not None
    return found[1].split()


def test_the_second_stage_runs_every_test_but_those_that_use_no_database() -> None:
    everything = {path.relative_to(ROOT).as_posix() for path in TESTS.rglob("test_*.py")}
    missing = [path for path in everything if not path.startswith(tuple(f"{folder}/" for folder in second_stage()))]
    assert missing and all(path.startswith(LEFT_OUT) for path in missing), sorted(missing)


def test_tests_of_recipes_know_neither_django_nor_the_dashboard() -> None:
    """Nor does what they import of other tests."""
    files = set(modules("tests/recipes")) | {TESTS / "test_manage.py"}
    while more := {path for file in files for path in imported_tests(file)} - files:
        files |= more
    assert breaches(sorted(files), "django", "evsys_web", "celery", "psycopg", "redis") == []
    assert not [path for path in files if "django_db" in path.read_text()]


def imported_tests(file: Path) -> Iterator[Path]:
    """Files of tests that it imports from."""
    for name in imported(file):
        if name.startswith("tests."):
            place = ROOT / name.replace(".", "/")
            yield from (path for path in (place.with_suffix(".py"), place.parent.with_suffix(".py")) if path.exists())


def test_what_runs_once_asks_for_no_database(request: pytest.FixtureRequest) -> None:
    """Of all that runs in this process; in .ci/run that is everything."""
    once = [item for item in request.session.items if is_left_out(item)]
    assert request.node in once
    assert [item.nodeid for item in once if DATABASE & set(fixtures_of(item)) or item.get_closest_marker("django_db")] == []


def is_left_out(item: pytest.Item) -> bool:
    return item.nodeid.startswith(LEFT_OUT) or item.get_closest_marker("once") is not None


def fixtures_of(item: pytest.Item) -> list[str]:
    return item.fixturenames if isinstance(item, pytest.Function) else []
