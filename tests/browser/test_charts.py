"""Charts as a person uses them: live points, thinning and NaN that are said, a view that survives a refresh, files to keep."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.conftest import PHONE, Visitor, sign_in
from tests.stack import Stack

NUM_POINTS = 4000
LOSS = '[data-metric="train/mean_nll"]'
DRAWN = f"""() => {{
  const plot = document.querySelector('{LOSS} [data-plot]');
  const line = (plot?.data ?? []).findLast((trace) => trace.yaxis !== 'y2');
  return line ? {{x: [...line.x], colour: line.line.color, range: plot._fullLayout.xaxis.range}} : null;
}}"""


def point(step: int) -> dict[str, Any]:
    loss = "NaN" if step == 7 else 0.3 + 3 * math.exp(-step / 500) + 0.1 * math.sin(step)
    return {"step": step, "values": {"train/mean_nll": loss, "optim/lr": 1e-4, "tokens/total": 100.0 * step}}


@pytest.fixture
def run(stack: Stack) -> int:
    """A run that is trained elsewhere and has reported NUM_POINTS steps."""
    with stack.api() as api:
        made = api.post("/runs/external", json={"name": "elsewhere", "num_steps": 5000}).raise_for_status().json()["id"]
        api.post(f"/runs/{made}/log-batch", json=[point(step) for step in range(1, NUM_POINTS + 1)]).raise_for_status()
    return int(made)


def drawn(page: Page, condition: Callable[[dict[str, Any]], bool] = bool) -> dict[str, Any]:
    """What the loss chart shows, once it fits the condition."""
    for _ in range(600):
        if (found := page.evaluate(DRAWN)) and condition(found):
            return found  # type: ignore[no-any-return]
        page.wait_for_timeout(100)
    raise AssertionError(f"the chart never got there: {str(found)[:300]}")


def drag_over(page: Page) -> None:
    box = page.locator(f"{LOSS} [data-plot]").bounding_box()
    assert box is not None
    left, middle = box["x"] + 0.4 * box["width"], box["y"] + 0.4 * box["height"]
    page.mouse.move(left, middle)
    page.mouse.down()
    page.mouse.move(left + 0.2 * box["width"], middle + 2, steps=4)
    page.mouse.up()


def test_points_arrive_while_the_page_is_open_and_thinning_and_nan_are_said(page: Page, stack: Stack, run: int) -> None:
    page.goto(f"/runs/{run}/")
    drawn(page)
    expect(page.locator(f"{LOSS} [data-note]")).to_contain_text("1,500 of 4,000 points")
    expect(page.locator(f"{LOSS} [data-note]")).to_contain_text("1 point is NaN or infinite")
    with stack.api() as api:
        api.post(f"/runs/{run}/log-batch", json=[point(step) for step in range(4001, 4006)]).raise_for_status()
    found = drawn(page, lambda found: found["x"][-1] == 4005)
    assert found["x"] == sorted(set(found["x"]))
    expect(page.locator('[data-live="step"]')).to_have_text("4,005")


def test_a_page_of_several_runs_that_have_reported_nothing_yet_fills_by_itself(page: Page, stack: Stack) -> None:
    with stack.api() as api:
        made = [api.post("/runs/external", json={"name": f"later {number}"}).raise_for_status().json()["id"] for number in (1, 2)]
        page.goto(f"/runs/compare?run={made[0]}&run={made[1]}")
        expect(page.get_by_text("No points yet")).to_be_visible()
        api.post(f"/runs/{made[1]}/log-batch", json=[point(1), point(2)]).raise_for_status()
        assert drawn(page)["x"] == [1, 2]
        expect(page.get_by_text("No points yet")).to_be_hidden()
        later = {"step": 3, "values": {"train/mean_nll": 1.0, "eval/late": 0.5}}
        api.post(f"/runs/{made[0]}/log-batch", json=[later]).raise_for_status()
        expect(page.locator('[data-metric="eval/late"]')).to_be_visible()
        num_curves = f"(wanted) => document.querySelector('{LOSS} [data-plot]')?.data?.length === wanted"
        page.wait_for_function(num_curves, arg=2)
        swatch = page.get_by_role("button", name="Curves of later 2")
        swatch.click()
        page.wait_for_function(num_curves, arg=1)
        expect(page).to_have_url(re.compile("hidden=1"))
        page.reload()
        expect(swatch).to_have_attribute("aria-pressed", "false")
        swatch.click()
        page.wait_for_function(num_curves, arg=2)


def test_a_zoom_brings_every_point_of_the_range_and_survives_a_refresh(page: Page, run: int) -> None:
    page.goto(f"/runs/{run}/")
    whole = drawn(page)
    drag_over(page)
    near = drawn(page, lambda found: len(found["x"]) < 1400)
    low, high = near["range"]
    assert whole["x"][0] < low < high < whole["x"][-1]
    assert near["x"] == list(range(math.ceil(low), math.floor(high) + 1))
    page.reload()
    again = drawn(page)
    assert again["x"] == near["x"] and again["range"] == pytest.approx(near["range"])
    page.get_by_role("button", name="Reset zoom").click()
    drawn(page, lambda found: len(found["x"]) == 1500)
    assert "zoom" not in page.url


def test_smoothing_scale_axis_and_folded_groups_stand_in_the_address(page: Page, run: int) -> None:
    page.goto(f"/runs/{run}/")
    drawn(page)
    page.get_by_label("Smoothing").fill("0.9")
    page.get_by_label("Log y").check()
    page.get_by_text("Tokens", exact=True).and_(page.locator("label")).click()
    drawn(page, lambda found: found["x"][-1] == 100 * NUM_POINTS)
    page.locator('[data-group="optim"] summary').click()
    expect(page).to_have_url(re.compile("closed=optim"))
    page.reload()
    drawn(page, lambda found: found["x"][-1] == 100 * NUM_POINTS)
    expect(page.get_by_label("Log y")).to_be_checked()
    expect(page.get_by_label("Smoothing")).to_have_value("0.9")
    assert page.locator('[data-group="optim"]').get_attribute("open") is None


def test_another_theme_repaints_the_curve(page: Page, run: int) -> None:
    page.goto(f"/runs/{run}/")
    before = drawn(page)["colour"]
    page.emulate_media(color_scheme="dark")
    drawn(page, lambda found: found["colour"] != before)


def test_a_chart_can_be_kept_as_png_and_as_csv(page: Page, run: int) -> None:
    page.goto(f"/runs/{run}/")
    drawn(page)
    page.locator(LOSS).hover()
    with page.expect_download() as png:
        page.locator(f"{LOSS} [data-png]").click()
    assert png.value.path().read_bytes().startswith(b"\x89PNG") and png.value.path().stat().st_size > 10_000
    with page.expect_download() as csv:
        page.locator(f"{LOSS} [data-csv]").click()
    assert len(csv.value.path().read_text().splitlines()) == 1501


def test_the_pointer_reads_all_charts_at_once(page: Page, run: int) -> None:
    page.goto(f"/runs/{run}/")
    drawn(page)
    page.locator(f"{LOSS} [data-plot]").hover()
    for metric in ("train/mean_nll", "optim/lr"):
        expect(page.locator(f'[data-metric="{metric}"] [data-last]')).to_contain_text("step")


def test_on_a_phone_a_finger_scrolls_past_the_charts(visit: Callable[..., Visitor], stack: Stack, run: int) -> None:
    page = visit(viewport=PHONE, has_touch=True, is_mobile=True).open()
    sign_in(page, stack)
    page.goto(f"/runs/{run}/")
    drawn(page)
    assert page.evaluate(f"() => document.querySelector('{LOSS} [data-plot]')._fullLayout.dragmode") is False
