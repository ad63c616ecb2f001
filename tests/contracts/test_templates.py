"""What the content policy and the house forbid in templates, found before a browser finds it."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from django.contrib.staticfiles import finders
from django.template.loader import get_template

pytestmark = pytest.mark.once

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = sorted(path.relative_to(ROOT / "templates").as_posix() for path in (ROOT / "templates").rglob("*.html"))
each_template = pytest.mark.parametrize("name", TEMPLATES)
STATUSES = ("draft", "queued", "starting", "running", "stopping", "completed", "failed", "crashed", "cancelled")


def source(name: str) -> str:
    text = (ROOT / "templates" / name).read_text()
    text = re.sub(r"{% comment %}.*?{% endcomment %}", "", text, flags=re.DOTALL)
    return re.sub(r"{#.*?#}", "", text)


@each_template
def test_it_compiles(name: str) -> None:
    get_template(name)


@each_template
def test_nothing_in_it_breaks_the_content_policy(name: str) -> None:
    text = source(name)
    assert not re.search(r"\sstyle\s*=", text), "a style attribute"
    assert not re.search(r"<style\b", text), "a <style> element"
    assert not re.search(r"\son[a-z]+\s*=\s*[\"']", text), "an event handler attribute"
    assert not re.search(r"hx-(on|vals=[\"']js:|headers=[\"']js:)", text), "script for htmx to evaluate"
    for attributes, body in re.findall(r"<script\b([^>]*)>(.*?)</script>", text, flags=re.DOTALL):
        assert "src=" in attributes and not body.strip(), "an inline script"


@each_template
def test_it_trusts_no_text_and_no_foreign_host(name: str) -> None:
    text = source(name)
    assert not re.search(r"\|\s*safe\b|autoescape off|safeseq", text)
    assert not re.search(r"(src|href|action)=[\"'](https?:)?//", text)


@each_template
def test_it_stays_readable(name: str) -> None:
    assert len((ROOT / "templates" / name).read_text().splitlines()) <= 150


@each_template
def test_a_card_calls_a_cell_as_the_column_is_called(name: str) -> None:
    """On a phone a list's head is not shown: each cell says its heading, the same word."""
    for table in re.findall(r'<table class="table table-cards.*?</table>', source(name), flags=re.DOTALL):
        head, _, body = table.partition("</thead>")
        if "{% for column in" in head:
            continue
        body = re.sub(r'{% include "(\w+/_\w+\.html)".*?%}', lambda included: source(included[1]), body)
        headings = {re.sub(r"<[^>]+>", "", cell).strip() for cell in re.findall(r"<th\b[^>]*>(.*?)</th>", head, flags=re.DOTALL)}
        labels = re.findall(r'data-label="([^"{]*)"', body)
        assert labels and set(labels) <= headings, set(labels) - headings


@each_template
def test_every_static_file_it_names_is_there(name: str) -> None:
    for path in re.findall(r"{% static ['\"]([^'\"{]+)['\"] %}", source(name)):
        assert finders.find(path), path


def icons() -> set[str]:
    tree = ElementTree.fromstring((ROOT / "static" / "img" / "icons.svg").read_text())
    return {symbol.attrib["id"] for symbol in tree}


def test_every_icon_that_a_template_names_is_drawn() -> None:
    named = {icon for name in TEMPLATES for icon in re.findall(r"components/icon\.html\" with name=\"([\w-]+)\"", source(name))}
    named |= {icon for name in TEMPLATES for icon in re.findall(r"\bicon=\"([\w-]+)\"", source(name))}
    assert named - icons() == set()
    assert len(named) > 10


@pytest.mark.parametrize("status", STATUSES)
def test_every_status_has_an_icon(status: str) -> None:
    assert f"status-{status}" in icons()


def test_the_page_for_a_broken_server_needs_nothing_but_itself() -> None:
    page = get_template("500.html").render()
    assert "in the server’s log" in page
    assert "Sign out" not in page
