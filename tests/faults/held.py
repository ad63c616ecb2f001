"""A backend that trains until it is held: an installed package, so that processes of their own find it."""

from __future__ import annotations

from pathlib import Path

import pytest

HELD_BACKEND = """
from pathlib import Path

from recipes.backends.mock import MockBackend


class HeldBackend(MockBackend):
    name = "held_mock"

    def _accumulate(self, *arguments):
        while self._num_updates >= 3 and not Path(__file__).with_name("go").exists() and not self._closing.wait(0.05):
            pass
        return super()._accumulate(*arguments)
"""
"""The mock one, but that nothing is computed after three steps until there is a file `go` beside it."""


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH, with that backend as a package."""
    site = tmp_path / "site"
    (site / "held-1.dist-info").mkdir(parents=True)
    (site / "held.py").write_text(HELD_BACKEND)
    (site / "held-1.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: held\nVersion: 1\n")
    (site / "held-1.dist-info" / "entry_points.txt").write_text("[recipes.backends]\nheld_mock = held:HeldBackend\n")
    return site
