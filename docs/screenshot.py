"""Renews the pictures here: `.venv/bin/python -m docs.screenshot` (needs tests/requirements.txt and Chromium)."""

from __future__ import annotations

import tempfile
from pathlib import Path

from playwright.sync_api import sync_playwright

from tests.browser.conftest import CHROMIUM, FLAGS, sign_in
from tests.stack import Stack

RUN, CYCLE = Path(__file__).with_name("run.png"), Path(__file__).with_name("cycle.png")
CONFIG = {
    "name": "Sums, second try",
    "data": {"dataset": "starter-sums@1"},
    "algorithm": {
        "kind": "sft",
        "params": {"max_steps": 240, "batch_size": 8, "learning_rate": 2e-4, "lr_schedule": "cosine", "save_every": 60},
    },
}


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        stack = Stack(Path(folder) / "home")
        try:
            stack.start()
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
            page = browser.new_page(base_url=stack.url, viewport={"width": 1360, "height": 860})
            sign_in(page, stack)
            with stack.api() as api:
                page.get_by_role("button", name="Run the first cycle").click()
                cycle = page.url.rstrip("/").rpartition("/")[2]
                stack.wait_for(lambda: api.get(f"/cycles/{cycle}").json()["status"] == "completed", seconds=600)
                page.goto(f"/cycles/{cycle}/")
                page.wait_for_timeout(1000)
                page.screenshot(path=CYCLE)
                run = api.post("/runs", json=CONFIG).raise_for_status().json()["id"]
                page.goto(f"/runs/{run}/?smooth=0.8")
                stack.wait_for(lambda: api.get(f"/runs/{run}").json()["step"] >= 150, seconds=300)
            page.wait_for_timeout(1000)
            page.screenshot(path=RUN)
            browser.close()
        finally:
            stack.stop()


if __name__ == "__main__":
    main()
