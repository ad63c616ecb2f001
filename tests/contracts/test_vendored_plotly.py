"""The vendored chart library is the file its checksum names, and of the same major version as the Python package."""

from __future__ import annotations

import hashlib
import re
from importlib.metadata import files
from pathlib import Path

import pytest

pytestmark = pytest.mark.once

VENDOR = Path(__file__).resolve().parents[2] / "static" / "vendor"


def major_version(header: str) -> int:
    match = re.search(r"plotly\.js.* v(\d+)\.\d+\.\d+", header)
    assert match, "the bundle does not say its version in its first lines"
    return int(match.group(1))


def test_the_vendored_bundle_is_the_file_its_checksum_names():
    digest, name = (VENDOR / "plotly-basic.sha256").read_text().split()
    assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest


def test_its_licence_lies_beside_it():
    assert "MIT License" in (VENDOR / "plotly-basic.LICENSE").read_text()


def test_its_major_version_is_that_of_the_python_package():
    packaged = next(file for file in files("plotly") or [] if file.name == "plotly.min.js")
    with Path(str(packaged.locate())).open(encoding="utf-8") as bundle:
        theirs = major_version(bundle.read(200))
    with (VENDOR / "plotly-basic.min.js").open(encoding="utf-8") as bundle:
        assert major_version(bundle.read(200)) == theirs
