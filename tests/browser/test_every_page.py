"""Every main page at desk and phone width, light and dark: nothing sticks out sideways, nothing is wrong on the console."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import DESKTOP, PHONE, Visitor, sign_in
from tests.stack import Stack

CONFIG = {
    "name": "a run with a name that is long enough to be in the way on a small screen",
    "data": {"dataset": "starter-sums@1"},
    "algorithm": {"kind": "mock_sft", "params": {"max_steps": 20}},
    "backend": {"kind": "mock"},
}
PAGES = [
    "/",
    "/datasets/",
    "/datasets/upload",
    "/datasets/versions/{version}",
    "/datasets/versions/{version}/preview",
    "/runs/",
    "/runs/new",
    "/runs/{run}/",
    "/runs/{run}/#checkpoints",
    "/runs/{run}/#config",
    "/runs/{run}/#logs",
    "/runs/compare?run={run}",
    "/runs/checkpoints/",
    "/runs/checkpoints/{checkpoint}/",
    "/runs/checkpoints/{checkpoint}/delete",
    "/runs/checkpoints/{checkpoint}/chat",
    "/evals/",
    "/evals/new",
    "/evals/import",
    "/evals/compare",
    "/curation/",
    "/curation/new",
    "/evals/benchmarks/1/",
    "/cycles/",
    "/cycles/new",
    "/operations/",
    "/operations/",
    "/accounts/",
    "/accounts/tokens/",
    "/admin/",
    "/api/docs",
    "/runs/999999/",
]
STICKS_OUT = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  const wide = [...document.querySelectorAll("body *")].filter((one) => one.getBoundingClientRect().right > width + 1);
  return [document.documentElement.scrollWidth + " of " + width, ...wide.slice(0, 5).map((one) => one.outerHTML.slice(0, 120))];
}"""


@pytest.fixture(scope="package")
def addresses(stack: Stack) -> list[str]:
    """Of all main pages, with a finished run and the starter rows to show."""
    with stack.api() as api:
        run = api.post("/runs", json=CONFIG).raise_for_status().json()["id"]
        stack.wait_for(lambda: api.get(f"/runs/{run}").json()["status"] == "completed")
        checkpoint = api.get("/checkpoints", params={"run": run}).json()["items"][0]["id"]
        version = api.get("/datasets", params={"name": "starter-sums"}).json()["items"][0]["newest_version_id"]
    return [page.format(run=run, checkpoint=checkpoint, version=version) for page in PAGES]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("screen", [DESKTOP, PHONE], ids=["desk", "phone"])
def test_no_page_sticks_out_or_complains(
    visit: Callable[..., Visitor], stack: Stack, addresses: list[str], screen: dict[str, int], scheme: str
) -> None:
    visitor = visit(viewport=screen, color_scheme=scheme)
    page = visitor.open()
    sign_in(page, stack)
    for address in addresses:
        page.goto(address)
        settle(page)
        assert page.evaluate(STICKS_OUT) == [], f"{address} is wider than the screen"
    visitor.complaints = [complaint for complaint in visitor.complaints if "/runs/999999/" not in complaint]


def test_dark_is_darker_than_light(visit: Callable[..., Visitor], stack: Stack) -> None:
    brightness = {}
    for scheme in ("light", "dark"):
        page = visit(color_scheme=scheme).open()
        page.goto("/accounts/login/")
        colour = page.evaluate("() => getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
        brightness[scheme] = sum(colour[:3])
    assert brightness["dark"] < 200 < 600 < brightness["light"]


def settle(page: Page) -> None:
    """Until what the page asks for after it was loaded has come, and the charts are drawn."""
    page.wait_for_load_state("load")
    page.wait_for_timeout(400)
    expect(page.locator(".htmx-request")).to_have_count(0)
