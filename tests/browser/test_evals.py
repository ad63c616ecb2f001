"""Evaluate the starter on the starter tasks, watch it finish, read attempts, compare two evals."""

from __future__ import annotations

import re

from playwright.sync_api import Page, Route, expect

from tests.browser.test_every_page import settle

ENDED_MS = 120_000
FINDING = re.compile(r"^(B is right (more|less) often than A, by|No difference can be seen: B − A is)")


def evaluate(page: Page, name: str, *, temperature: str) -> str:
    """Starts one from the form as a person would, waits until it is completed, and gives its address."""
    page.goto("/evals/")
    page.get_by_role("link", name="New eval").first.click()
    starter = page.locator("#id_benchmark option", has_text="Starter sums").first
    expect(starter).to_be_attached()
    page.goto(f"/evals/new?benchmark={starter.get_attribute('value')}")  # not the newest, which may be one of another test
    page.locator("#id_name").fill(name)
    page.locator("#id_attempts-attempts").fill("4")
    page.locator("#advanced-attempts > summary").click()
    page.locator("#id_attempts-max_tasks").fill("12")
    page.locator("#id_sampling-temperature").fill(temperature)
    page.locator("#id_sampling-max_tokens").fill("40")
    expect(page.locator("#size")).to_contain_text("48")
    page.get_by_role("button", name="Start eval").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(name)
    expect(page.get_by_role("heading", level=1)).to_contain_text("Completed", timeout=ENDED_MS)
    return page.url


def test_an_eval_runs_to_its_end_and_its_attempts_can_be_read(page: Page) -> None:
    evaluate(page, "first look", temperature="1")
    expect(page.locator('[data-live="num_made"]')).to_have_text("48")
    expect(page.locator("#figures")).to_contain_text("pass@4")
    rows = page.locator(".eval-tasks tbody tr")
    expect(rows).to_have_count(12)
    expect(page.locator(".eval-tasks")).not_to_contain_text("pending")

    page.locator(".eval-tasks tbody a").first.click()
    expect(page.locator(".eval-attempt")).to_have_count(4)
    expect(page).to_have_url(re.compile(r"/tasks/1$"))
    page.keyboard.press("j")
    expect(page).to_have_url(re.compile(r"/tasks/2$"))
    expect(page.locator(".eval-attempt")).to_have_count(4)
    page.keyboard.press("k")
    expect(page).to_have_url(re.compile(r"/tasks/1$"))
    page.keyboard.press("u")
    expect(rows).to_have_count(12)

    page.get_by_role("link", name=re.compile(r"^Errors")).click()
    expect(page.locator('.eval-tasks [aria-sort="descending"]')).to_contain_text("Errors")
    expect(page).to_have_url(re.compile(r"sort=-errors"))
    page.get_by_role("tab", name="pass@k").click()
    expect(page.locator(".eval-plot .main-svg").first).to_be_visible()


def test_two_evals_are_compared(page: Page) -> None:
    evaluate(page, "warm", temperature="1")
    evaluate(page, "cold", temperature="0")
    page.goto("/evals/")
    page.get_by_label("Compare warm").check()
    page.get_by_label("Compare cold").check()
    page.get_by_role("button", name="Compare 2 evals").click()
    expect(page.locator(".eval-finding p").first).to_have_text(FINDING)
    expect(page.locator(".eval-finding")).to_contain_text("12 tasks in common")
    expect(page.locator(".eval-plot .main-svg").first).to_be_visible()
    expect(page.get_by_role("heading", name="Newly solved")).to_be_visible()


def test_an_end_that_fell_between_the_page_and_its_stream_is_shown(page: Page) -> None:
    def answer_when_all_is_over(route: Route) -> None:
        header = re.sub(r"live.*", "header", route.request.url)
        for _ in range(120):
            if "Completed" in page.request.get(header).text():
                break
            page.wait_for_timeout(250)
        route.fulfill(status=204)  # what the server says to a viewer who has seen everything

    page.route(re.compile(r"/evals/\d+/live"), answer_when_all_is_over)
    evaluate(page, "quick", temperature="1")
    expect(page.locator(".eval-tasks")).not_to_contain_text("pending")


def test_what_changes_while_the_header_is_on_its_way_is_asked_for_again(page: Page) -> None:
    evaluate(page, "late", temperature="1")
    page.reload()
    settle(page)
    asked: list[str] = []

    def answer_late(route: Route) -> None:
        asked.append(route.request.url)
        answer = route.fetch()
        page.wait_for_timeout(500)
        route.fulfill(response=answer)

    page.route(re.compile(r"/evals/\d+/header"), answer_late)
    page.evaluate("for (const _ of [1, 2]) document.body.dispatchEvent(new CustomEvent('run-status'))")
    for _ in range(300):
        if len(asked) == 2:
            break
        page.wait_for_timeout(100)
    settle(page)
    assert len(asked) == 2
    expect(page.get_by_role("heading", level=1)).to_contain_text("Completed")


def test_what_is_chosen_brings_its_own_fields_and_keeps_what_was_typed(page: Page) -> None:
    page.goto("/evals/new")
    page.locator("#id_sampling-max_tokens").fill("99")
    page.locator("#id_source").select_option(label="An OpenAI-compatible endpoint")
    expect(page.locator("#id_endpoint-base_url")).to_be_visible()
    settle(page)
    page.locator("#id_benchmark").select_option(label="A new one, from a dataset")
    expect(page.locator("#id_dataset_version")).not_to_have_value("")
    settle(page)
    page.locator("#id_verifier").select_option(label="regex match")
    expect(page.locator("#id_verifier-pattern")).to_be_visible()
    expect(page.locator("#id_sampling-max_tokens")).to_have_value("99")


def test_tasks_are_evaluated_and_not_trained_on(page: Page) -> None:
    page.goto("/datasets/")
    page.get_by_role("link", name="starter-tasks").click()
    expect(page.get_by_role("link", name="Train on this")).to_have_count(0)
    page.get_by_role("link", name="Evaluate on this").click()
    expect(page.locator("#id_benchmark")).to_contain_text("Starter sums")
