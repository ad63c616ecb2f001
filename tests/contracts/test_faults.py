"""docs/faults.md is made of the markers on the tests that play the faults: `UPDATE_SNAPSHOTS=1` writes it anew."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "docs" / "faults.md"
HEAD = """# What happens when something breaks

Made from the markers on the tests that play each fault. They run with every change, on SQLite and again on PostgreSQL +
Redis; those with servers of their own run once. A worker that was killed is noticed one lease (`RUN_LEASE_SECONDS`, 30 s)
after its last sign, or after the start of whoever looks. There is no beat that could be killed: every worker looks over what
is lost and what waits. Stages of a run, an eval, a publish and a cycle die in forked children that kill themselves at a place
in the code (`tests/faults/dying.py`), with a lease of 0.3 s; whole processes and servers die in the tests that say so.

| fault | outcome | played by |
|---|---|---|
"""


class Fault(NamedTuple):
    """kills: which process or server dies. during: in the middle of what."""

    what: str
    outcome: str
    place: str
    kills: frozenset[str]
    during: frozenset[str]


def faults() -> Iterator[Fault]:
    """Of every test function with `@pytest.mark.fault(what, outcome, kills={…}, during={…})`; the sets may be left away."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            for mark in node.decorator_list:
                if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.fault":
                    what, outcome = (str(ast.literal_eval(argument)) for argument in mark.args)
                    said = {keyword.arg: frozenset(ast.literal_eval(keyword.value)) for keyword in mark.keywords}
                    nothing: frozenset[str] = frozenset()
                    place = path.relative_to(ROOT).as_posix()
                    yield Fault(what, outcome, place, said.get("kills", nothing), said.get("during", nothing))


def test_the_table_says_what_the_tests_play() -> None:
    rows = [f"| {fault.what} | {fault.outcome} | [`{fault.place}`](../{fault.place}) |" for fault in faults()]
    text = HEAD + "\n".join(rows) + "\n"
    if os.environ.get("UPDATE_SNAPSHOTS"):
        TABLE.write_text(text)
    assert TABLE.read_text() == text, "run UPDATE_SNAPSHOTS=1 pytest tests/contracts/test_faults.py"


@pytest.mark.parametrize("during", ["run", "eval", "publish", "cycle"])
@pytest.mark.parametrize("kills", ["worker", "web process", "broker", "database"])
def test_everything_is_killed_during_every_kind_of_work(kills: str, during: str) -> None:
    """Rows are published by the process that was asked to: a web process, or the worker of a cycle."""
    assert [fault for fault in faults() if kills in fault.kills and during in fault.during]


def test_what_dies_and_in_the_middle_of_what_stands_in_the_sentence_too() -> None:
    for fault in faults():
        told = fault.what.replace("publishing", "publish")
        assert not [word for word in fault.kills | fault.during if not re.search(rf"\b{word}\b", told)], fault.what


def test_every_kind_of_fault_is_played() -> None:
    told = " ".join(fault.what for fault in faults())
    for word in (
        "worker",
        "web process",
        "messenger",
        "supervisor",
        "broker",
        "PostgreSQL",
        "cycle",
        "eval",
        "disk",
        "away for a minute",
        "clock",
        "Two workers get the same",
        "hosted backend does not answer",
        "hosted backend answers 500",
        "hosted backend answers late",
    ):
        assert word in told, f"nobody plays a fault of: {word}"
