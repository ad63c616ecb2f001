"""Import attempts, type a filter and watch, save it, publish, go from a row to its attempt and back."""

from __future__ import annotations

import json
import re

import pytest
from playwright.sync_api import Page, expect

from tests.stack import Stack

VERDICTS = {"never": [0, 0, 0], "seldom": [0, 1, 0], "often": [1, 1, 0], "always": [1, 1, 1]}


def lines() -> str:
    return "\n".join(
        json.dumps(
            {
                "task_id": task,
                "attempt": number,
                "is_correct": bool(verdict),
                "reward": float(verdict),
                "messages": [{"role": "user", "content": f"What is {task}?"}, {"role": "assistant", "content": f"{number}"}],
            }
        )
        for task, verdicts in VERDICTS.items()
        for number, verdict in enumerate(verdicts)
    )


@pytest.fixture(scope="module")
def eval_run(stack: Stack) -> int:
    with stack.api() as api:
        answer = api.post(
            "/evals/import",
            params={"name": "to curate", "filename": "attempts.jsonl"},
            content=lines(),
            headers={"Content-Type": "application/jsonl"},
        )
        found: int = answer.raise_for_status().json()["id"]
        return found


def test_a_filter_answers_while_it_is_typed(page: Page, eval_run: int) -> None:
    page.goto(f"/evals/{eval_run}/")
    page.get_by_role("link", name="Curate").click()
    result = page.locator("#result")
    expect(result).to_contain_text("3 of 4")
    typed = page.get_by_role("textbox", name="Keep a task when")
    typed.fill("0 < avg < 1")
    expect(result).to_contain_text("2 of 4")
    expect(result).to_contain_text("since solved")
    expect(page).to_have_url(re.compile(r"filter=0\+%3C\+avg\+%3C\+1"))
    expect(page.locator("#samples")).to_contain_text("avg < 1 fails: avg is 1")

    typed.fill("0 < avgg")
    expect(page.locator("#filter-mistake pre")).to_have_text("0 < avgg\n    ^^^^")
    expect(result).to_contain_text("2 of 4")

    page.get_by_role("button", name="Hard only").click()
    expect(typed).to_have_value("0 < avg <= 0.25")
    expect(result).to_contain_text("0 of 4")
    expect(page.locator("#filter-mistake")).to_be_empty()
    page.reload()
    expect(typed).to_have_value("0 < avg <= 0.25")
    expect(result).to_contain_text("No task passes this filter")


def test_a_filter_is_saved_and_taken_up_again(page: Page, eval_run: int) -> None:
    page.goto(f"/curation/new?eval={eval_run}&filter=0+%3C+avg+%3C+1&select=best")
    page.get_by_text("Save…").click()
    page.get_by_label("Save these settings as").fill("best of the band")
    page.get_by_role("button", name="Save filter").click()
    expect(page.locator(".flashes")).to_contain_text("Saved as best of the band")
    page.goto(f"/curation/new?eval={eval_run}")
    expect(page.locator("#result")).to_contain_text("3 of 4")
    page.get_by_text("Saved", exact=True).click()
    page.get_by_role("button", name="best of the band").click()
    expect(page.locator("#result")).to_contain_text("2 of 12 attempts")
    expect(page.locator("#id_select")).to_have_value("best")


def test_what_is_published_leads_back_to_its_attempts(page: Page, eval_run: int) -> None:
    page.goto(f"/curation/new?eval={eval_run}&filter=0+%3C+avg+%3C+1")
    expect(page.locator("#result")).to_contain_text("2 of 4")
    page.get_by_role("textbox", name="Dataset").fill("band of three")
    page.get_by_role("button", name="Publish dataset").click()
    expect(page.locator(".flashes")).to_contain_text("3 rows published as band of three@1")
    page.get_by_role("link", name="band of three@1").first.click()
    expect(page.get_by_role("heading", name="Where its rows come from")).to_be_visible()
    page.get_by_role("link", name="to curate · seldom · attempt 2").click()
    expect(page).to_have_url(re.compile(r"/tasks/2#attempt-2$"))
    lineage = page.get_by_role("region", name="What learned from these attempts")
    lineage.get_by_role("link", name="band of three@1, row 1").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("band of three")


def test_pairs_are_seen_before_they_are_published_and_train_dpo(page: Page, eval_run: int) -> None:
    page.goto(f"/curation/new?eval={eval_run}&filter=0+%3C+avg+%3C+1")
    expect(page.locator("#result")).to_contain_text("3 of 12 attempts")
    page.get_by_label("Rows").select_option("pairs")
    expect(page.locator("#result")).to_contain_text("4 from 12 attempts")
    expect(page.locator("#pairs")).to_contain_text("Chosen: attempt 2 · score 1")
    page.get_by_role("textbox", name="Dataset").fill("pairs of three")
    page.get_by_role("button", name="Publish dataset").click()
    expect(page.locator(".flashes")).to_contain_text("4 rows published as pairs of three@1")
    page.get_by_role("link", name="Train on this").click()
    expect(page.locator("#id_algorithm")).to_have_value("dpo")


def test_a_phone_shows_the_workbench(page: Page, eval_run: int) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"/curation/new?eval={eval_run}&filter=0+%3C+avg+%3C+1")
    expect(page.locator("#samples")).to_contain_text("In the cut")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
