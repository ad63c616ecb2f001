"""What the documents name is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from manage import SELF_INSTALLING

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted(path for path in [*ROOT.glob("*.md"), *ROOT.glob("*/README.md")] if ".venv" not in path.parts)
MADE_LATER = {".venv", "var/"}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_link_leads_somewhere(document: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", document.read_text())
    assert [link for link in links if "://" not in link and not (document.parent / link).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_named_file_exists(document: Path) -> None:
    """`folder/file.py` in backticks, seen from the document's folder, the root, one of the two trees, or an app."""
    names = re.findall(r"`([\w./-]+(?:\.(?:py|txt|md|toml|html|js|yaml)|/))`", document.read_text())
    places = [document.parent, ROOT, ROOT / "recipes", ROOT / "evsys_web", ROOT / "evsys_web" / "runs"]
    written_by_a_run = {"config.yaml", "metrics.jsonl", "checkpoints.jsonl"}
    missing = [name for name in names if not any((place / name.lstrip("/")).exists() for place in places)]
    assert set(missing) - MADE_LATER - written_by_a_run == set()


def test_the_two_commands_stand_in_the_readme() -> None:
    text = (ROOT / "README.md").read_text()
    for command in ("up", "test"):
        assert f"python3 manage.py {command}" in text
        assert command in SELF_INSTALLING
