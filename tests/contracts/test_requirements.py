"""The pins: exact, complete in the large file, and the part without PyTorch never more than a part."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
PIN = re.compile(r"^(?P<name>[a-z0-9-]+)(\[[a-z0-9,]+\])?==(?P<version>[0-9][0-9a-z.]*)$")
ON_THIS_MACHINE_ONLY = {"torch", "trl", "peft", "accelerate", "datasets"}
FROM_TORCH = {"sympy", "mpmath", "networkx", "triton", "setuptools"}


def pins(file: str) -> dict[str, str]:
    """name -> whole requirement, comments cut off. Fails on a line that is no exact pin."""
    lines = [line.partition("#")[0].strip() for line in (ROOT / file).read_text().splitlines()]
    found = [(PIN.match(line), line) for line in lines if line]
    assert [line for match, line in found if match is None] == []
    names = [match["name"] for match, _ in found if match]
    assert len(names) == len(set(names)), "a package is pinned twice"
    return {match["name"]: line for match, line in found if match}


@pytest.mark.parametrize(
    "file",
    ["requirements.txt", "requirements-hosted.txt", "requirements-tracing.txt", "requirements-s3.txt", "tests/requirements.txt"],
)
def test_every_line_is_an_exact_pin(file: str) -> None:
    assert pins(file)


def test_hosted_is_the_whole_less_what_trains_on_this_machine() -> None:
    whole, hosted = pins("requirements.txt"), pins("requirements-hosted.txt")
    assert hosted.items() <= whole.items()
    assert whole.keys() - hosted.keys() >= ON_THIS_MACHINE_ONLY


def test_the_tests_pin_nothing_that_is_pinned_already() -> None:
    assert not pins("requirements.txt").keys() & pins("tests/requirements.txt").keys()


@pytest.mark.parametrize("extra", ["requirements-tracing.txt", "requirements-s3.txt"])
def test_the_tests_use_what_an_extra_installs(extra: str) -> None:
    assert pins(extra).items() <= pins("tests/requirements.txt").items()


def test_torchs_own_needs_stay_unpinned_so_that_any_build_of_it_fits() -> None:
    names = pins("requirements.txt").keys()
    assert not names & FROM_TORCH
    assert not [name for name in names if name.startswith("nvidia-")]


@pytest.mark.parametrize(
    "name",
    ["django", "django-ninja", "celery", "django-htmx", "plotly", "tinker", "fireworks-ai", "trl", "pytest-django"],
)
def test_what_the_product_stands_on_is_named(name: str) -> None:
    assert name in pins("requirements.txt")


def test_everything_that_the_code_imports_is_pinned() -> None:
    """Not by luck of another package's needs: imported here means named here."""
    distributions = packages_distributions()
    own = {"recipes", "evsys_web", "tests", "benchmarks", "manage"}
    missing = {}
    for tree, files in {
        "recipes": ["requirements.txt", "requirements-s3.txt"],
        "evsys_web": ["requirements-hosted.txt"],
        "benchmarks": ["requirements.txt"],
        "tests": ["requirements.txt", "tests/requirements.txt"],
    }.items():
        pinned = {name for file in files for name in pins(file)}
        for path in (ROOT / tree).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                names = [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []
                names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                for package in {name.partition(".")[0] for name in names} - own - set(sys.stdlib_module_names):
                    providers = {re.sub(r"[-_.]+", "-", name).lower() for name in distributions.get(package, [package])}
                    if not providers & pinned:
                        missing[f"{path.relative_to(ROOT)}: {package}"] = sorted(providers)
    assert missing == {}
