"""Chatting with a checkpoint beside its base in a real browser: by keyboard, streamed, stopped, and never as HTML."""

from __future__ import annotations

import pytest
from playwright.sync_api import Page, expect

from tests.browser.test_every_page import CONFIG
from tests.stack import Stack


@pytest.fixture(scope="module")
def chat_address(stack: Stack) -> str:
    with stack.api() as api:
        run = api.post("/runs", json={**CONFIG, "name": "talks <b>a lot</b>"}).raise_for_status().json()["id"]
        stack.wait_for(lambda: api.get(f"/runs/{run}").json()["status"] == "completed")
        checkpoint = api.get("/checkpoints", params={"run": run}).json()["items"][0]["id"]
    return f"/runs/checkpoints/{checkpoint}/chat"


def test_both_sides_answer_by_keyboard_alone(page: Page, chat_address: str) -> None:
    page.goto(chat_address)
    expect(page.locator("#chat-state")).to_have_text("", timeout=60_000)
    expect(page.get_by_label("Your message")).to_be_focused()
    page.keyboard.type("1 <i>and</i> 1?")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("Say it.")
    page.keyboard.press("Enter")
    turn = page.locator(".chat-pair")
    expect(turn.locator("[data-user]")).to_have_text("1 <i>and</i> 1?\nSay it.")
    for side in ("tuned", "base"):
        expect(turn.locator(f'[data-side="{side}"] [data-facts]')).to_contain_text("tokens", timeout=30_000)
    seeds = {text.rpartition("seed ")[2].split(" ")[0] for text in turn.locator("[data-facts]").all_inner_texts()}
    assert len(seeds) == 1, "the same seed for both"
    assert turn.locator("[data-text] *").count() == 0 and turn.locator("[data-user] *").count() == 0, "text, never elements"
    expect(page.get_by_label("Your message")).to_be_focused()
    page.get_by_role("button", name="New conversation").click()
    expect(turn).to_have_count(0)


def test_what_is_refused_is_said_and_nothing_typed_is_lost(page: Page, chat_address: str) -> None:
    page.goto(chat_address)
    page.get_by_text("Settings", exact=True).click()
    page.get_by_label("Seed", exact=False).first.fill("5")
    page.get_by_label("Your message").fill("Hello")
    refusal = 'event: error\ndata: {"side": null, "message": "No, <b>because</b>."}\n\nevent: done\ndata: {}\n\n'
    page.route("**/chat/replies", lambda route: route.fulfill(body=refusal, content_type="text/event-stream"))
    page.keyboard.press("Enter")
    expect(page.locator('[data-side="base"] [data-facts]')).to_have_text("No, <b>because</b>.")
    expect(page.get_by_label("Your message")).to_have_value("Hello")
