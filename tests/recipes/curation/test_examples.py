"""Every example in a docstring or in the README is run."""

from __future__ import annotations

import doctest
from importlib import import_module
from pathlib import Path

import pytest

import recipes.curation

ROOT = Path(recipes.curation.__file__).parents[1]
MODULES = [f"recipes.curation.{path.stem}" for path in sorted((ROOT / "curation").glob("[!_]*.py"))] + ["recipes.errors"]
WITH_EXAMPLES = {"grammar", "filters", "conversations", "holdout", "curating", "errors"}


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings_hold(name: str) -> None:
    found = doctest.testmod(import_module(name))
    assert found.failed == 0 and (found.attempted > 0) is (name.rpartition(".")[2] in WITH_EXAMPLES)


def test_the_example_in_the_readme_holds() -> None:
    found = doctest.testfile(str(ROOT / "README.md"), module_relative=False)
    assert found.failed == 0 and found.attempted > 5
