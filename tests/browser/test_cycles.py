"""A cycle on the starter model, from an empty list to an answer, by hand: the real engine, a real worker, a real browser."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Page, expect

from tests.browser.conftest import Visitor, sign_in
from tests.stack import Stack

PATIENCE_MS = 240_000


def fill(page: Page, **values: str) -> None:
    for name, value in values.items():
        page.locator(f"#id_{name.replace('__', '-')}").fill(value)


def test_a_cycle_is_started_stopped_resumed_and_answers(visit: Callable[..., Visitor], stack: Stack) -> None:
    page = visit().open()
    sign_in(page, stack)
    page.goto("/cycles/new")
    page.get_by_role("button", name="Use the starter benchmarks").click()
    expect(page.locator("#id_judge")).to_have_value("1")
    page.get_by_text("Only some of the tasks").click()
    fill(page, learn__max_tasks="24", judge__max_tasks="16", round__rounds="1", round__attempts="4", name="by hand")
    fill(page, training__max_steps="6")
    expect(page.locator("#size")).to_contain_text("at most 224")
    page.get_by_role("button", name="Start cycle").click()
    expect(page.get_by_role("heading", name="by hand")).to_be_visible()
    page.get_by_role("button", name="Stop").or_(page.get_by_role("button", name="Cancel")).click()
    expect(page.get_by_role("button", name="Resume")).to_be_visible(timeout=PATIENCE_MS)
    page.get_by_role("button", name="Resume").click()
    expect(page.locator("#main")).to_contain_text("All rounds done", timeout=PATIENCE_MS)  # by itself, without a reload
    expect(page.locator("#main")).to_contain_text("k = 4 on 16 held-out tasks")
    page.get_by_role("link", name="Clone").click()
    expect(page.locator("#id_name")).to_have_value("by hand 2")
    expect(page.locator("#id_training-max_steps")).to_have_value("6")
