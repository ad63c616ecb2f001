from __future__ import annotations

from playwright.sync_api import Page, expect

from tests.browser.conftest import sign_in


def test_the_printed_password_opens_the_door(page: Page) -> None:
    expect(page.get_by_role("navigation").first).to_be_visible()
    expect(page.get_by_role("heading", level=1)).to_be_visible()


def test_a_wrong_password_is_refused_in_words(visit, stack) -> None:
    page = visit().open()
    sign_in(page, stack, password="not the password")
    expect(page.get_by_role("button", name="Sign in")).to_be_visible()
    expect(page.locator("body")).to_contain_text("correct username and password")


def test_a_stranger_is_led_to_the_door_and_then_on(visit, stack) -> None:
    page = visit().open()
    page.goto("/runs/")
    expect(page).to_have_url("/accounts/login/?next=/runs/")
