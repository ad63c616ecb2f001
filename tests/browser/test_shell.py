"""What every page has: the keyboard, the jump palette, the theme, the question before a destructive act, the phone's menu."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.conftest import PHONE, Visitor, sign_in
from tests.browser.test_every_page import settle
from tests.stack import Stack


def theme(page: Page) -> object:
    return page.evaluate("() => document.documentElement.dataset.theme")


def background(page: Page) -> object:
    return page.evaluate("() => getComputedStyle(document.body).backgroundColor")


def selected(page: Page) -> Locator:
    return page.locator("#palette-results [aria-selected=true]")


@pytest.mark.parametrize(("keys", "heading"), [("gd", "Datasets"), ("gr", "Runs")])
def test_two_keys_lead_to_a_page(page: Page, keys: str, heading: str) -> None:
    for key in keys:
        page.keyboard.press(key)
    expect(page.get_by_role("heading", level=1)).to_have_text(heading)


def test_keys_typed_into_a_field_are_text(page: Page) -> None:
    page.goto("/accounts/tokens/")
    page.get_by_label("Name").click()
    page.keyboard.type("gd?n/")
    expect(page.get_by_label("Name")).to_have_value("gd?n/")
    expect(page).to_have_url("/accounts/tokens/")


def test_the_question_mark_lists_the_keys_of_this_page(page: Page) -> None:
    page.keyboard.press("?")
    help_dialog = page.get_by_role("dialog", name="Keyboard shortcuts")
    expect(help_dialog).to_contain_text("Go to runs")
    page.keyboard.press("Escape")
    expect(help_dialog).to_be_hidden()


def test_ctrl_k_jumps_by_typing_and_enter(page: Page) -> None:
    page.keyboard.press("Control+k")
    expect(selected(page)).to_have_count(1)
    page.keyboard.type("token")
    expect(selected(page)).to_have_text("API tokens")
    page.keyboard.press("Enter")
    expect(page).to_have_url("/accounts/tokens/")


def test_one_press_of_escape_closes_the_palette_whatever_was_typed(page: Page) -> None:
    page.keyboard.press("Control+k")
    expect(selected(page)).to_have_count(1)
    page.keyboard.type("token")
    page.keyboard.press("Escape")
    expect(page.locator("#palette")).to_be_hidden()


def test_a_list_that_comes_anew_keeps_the_keyboards_place(page: Page) -> None:
    page.clock.install()
    page.goto("/operations/")
    region = page.locator("div[aria-labelledby=queues-title]")
    region.evaluate("element => element.dataset.former = ''")
    region.focus()
    page.clock.fast_forward(6000)
    expect(page.locator("[data-former]")).to_have_count(0)
    expect(region).to_be_focused()


def test_the_arrows_walk_the_results_and_tell_screen_readers_where(page: Page) -> None:
    page.keyboard.press("/")
    expect(selected(page)).to_have_count(1)
    first = selected(page).get_attribute("id")
    page.keyboard.press("ArrowDown")
    second = selected(page).get_attribute("id")
    assert first != second
    expect(page.locator("#palette input")).to_have_attribute("aria-activedescendant", second or "")
    page.keyboard.press("ArrowUp")
    assert selected(page).get_attribute("id") == first


@pytest.mark.parametrize("system", ["light", "dark"])
def test_the_theme_follows_the_system_until_one_is_chosen_and_survives_a_reload(
    visit: Callable[..., Visitor], stack: Stack, system: str
) -> None:
    page = visit(color_scheme=system).open()
    sign_in(page, stack)
    assert theme(page) == system
    by_system = background(page)
    button = page.get_by_role("button", name="Theme")
    while theme(page) == system:
        button.click()
    chosen = theme(page)
    page.reload()
    assert theme(page) == chosen
    assert background(page) != by_system


def test_a_destructive_act_asks_first(page: Page) -> None:
    page.goto("/accounts/tokens/")
    page.get_by_label("Name").fill("to be revoked")
    page.get_by_role("button", name="Create token").click()
    revoke = page.get_by_role("button", name="Revoke to be revoked")
    question = page.get_by_role("dialog", name="Revoke “to be revoked”?")
    revoke.click()
    question.get_by_role("button", name="Keep as it is").click()
    expect(question).to_be_hidden()
    expect(revoke).to_be_visible()
    revoke.click()
    question.get_by_role("button", name="Revoke token").click()
    expect(page.get_by_role("status")).to_contain_text("The token is revoked")


def test_on_a_phone_the_links_wait_behind_the_menu(visit: Callable[..., Visitor], stack: Stack) -> None:
    page = visit(viewport=PHONE).open()
    sign_in(page, stack)
    link = page.get_by_role("link", name="Datasets", exact=True)
    expect(link).to_be_hidden()
    page.get_by_role("button", name="Menu").click()
    link.click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Datasets")


@pytest.mark.timeout(600)
def test_the_api_can_be_tried_from_its_documentation(page: Page) -> None:
    page.goto("/accounts/tokens/")
    page.get_by_label("Name").fill("docs")
    page.get_by_role("button", name="Create token").click()
    secret = page.locator("#secret").text_content() or ""
    page.set_default_timeout(120_000)
    page.goto("/api/docs")
    page.get_by_role("button", name="Authorize").first.click()
    page.locator(".auth-container input").fill(secret)
    page.locator(".auth-btn-wrapper").get_by_role("button", name="Apply").click()
    page.locator(".auth-btn-wrapper").get_by_role("button", name="Close").click()
    page.locator("#operations-tag-runs").click()
    listing = page.locator(".opblock-get").filter(has=page.locator("[data-path='/api/v1/runs']"))
    listing.locator(".opblock-summary-control").click()
    listing.get_by_role("button", name="Try it out").click()
    listing.get_by_role("button", name="Execute").click()
    expect(listing.locator(".live-responses-table .response-col_status").last).to_contain_text("200", timeout=120_000)


def test_a_session_that_ended_leads_to_the_door_and_not_into_the_page(page: Page) -> None:
    page.goto("/runs/")
    page.context.clear_cookies()
    page.keyboard.press("Control+k")
    expect(page.get_by_role("heading", level=1)).to_have_text("Sign in")
    expect(page).to_have_url("/accounts/login/?next=/runs/")


def test_a_server_that_is_away_is_said(visit: Callable[..., Visitor], stack: Stack) -> None:
    visitor = visit()
    page = visitor.open()
    sign_in(page, stack)
    expect(page).to_have_url("/")
    settle(page)
    page.route("**/search*", lambda route: route.abort())
    page.keyboard.press("Control+k")
    expect(page.locator("#trouble")).to_contain_text("cannot be reached")
    visitor.complaints.clear()  # htmx and Chromium report the aborted request on the console, as they should
