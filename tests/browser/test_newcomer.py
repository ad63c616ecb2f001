"""The main job, as a person does it on the first day: upload chats, look at them, train on them, watch, stop, go on, download."""

from __future__ import annotations

import io
import json
import re
import zipfile
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from safetensors.numpy import load

STEPS = 300
POINTS_OF_THE_LOSS = """() => {
  const plot = document.querySelector('[data-plot][aria-label^="train/mean_nll"]');
  const traces = (plot && plot.data) || [];
  return traces.length ? traces.at(-1).x.map((x, index) => [x, traces.at(-1).y[index]]) : [];
}"""


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    """A JSONL of sums, one of them with markup in it."""
    questions = [(a, b) for a in range(1, 9) for b in range(1, 9)]
    rows = [chat(f"What is {a} + {b}?", f"{a} + {b} = {a + b}") for a, b in questions]
    rows[0] = chat("What is <script>alert(1)</script> + <b>1</b>?", "1 + 1 = 2")
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def chat(question: str, reply: str) -> dict[str, object]:
    return {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]}


def points(page: Page) -> list[list[float]]:
    """What the loss chart draws: [step, value] each."""
    found: list[list[float]] = page.evaluate(POINTS_OF_THE_LOSS)
    return found


def wait_for_points(page: Page, *, at_least: int) -> list[list[float]]:
    for _ in range(600):
        if len(found := points(page)) >= at_least:
            return found
        page.wait_for_timeout(100)
    raise AssertionError(f"the curve stayed at {len(points(page))} points")


def upload(page: Page, file: Path, name: str) -> None:
    page.get_by_role("navigation").get_by_role("link", name="Datasets").first.click()
    page.get_by_role("link", name=re.compile("Upload")).first.click()
    page.get_by_label("File", exact=True).set_input_files(file)
    page.get_by_label(re.compile("^Dataset")).fill(name)
    page.get_by_role("button", name="Check and import").click()


def start_run(page: Page, name: str, *, max_steps: int) -> None:
    page.get_by_role("link", name="Train on this").click()
    expect(page.get_by_role("combobox", name="Model", exact=True)).to_have_value("starter")
    page.get_by_label(re.compile("^Name")).fill(name)
    page.get_by_label(re.compile("^Max steps")).fill(str(max_steps))
    page.get_by_role("button", name="Start run").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(name)


def test_from_a_file_of_chats_to_a_checkpoint(page: Page, chats: Path) -> None:
    upload(page, chats, "first-sums")
    first_row = page.get_by_role("article", name="Row 1", exact=True)
    expect(first_row).to_contain_text("<script>alert(1)</script>")  # shown as text
    expect(first_row).to_contain_text("1 + 1 = 2")
    expect(first_row).to_contain_text(re.compile(r"\d+ tokens, \d+ trained"))

    page.get_by_role("link", name="Token preview").click()
    expect(page.locator(".token-trained").nth(1)).to_be_visible()

    start_run(page, "first run", max_steps=STEPS)
    early = wait_for_points(page, at_least=3)
    later = wait_for_points(page, at_least=len(early) + 5)
    assert [step for step, _ in later] == list(range(1, len(later) + 1))

    page.reload()
    again = wait_for_points(page, at_least=len(later))
    assert again[: len(later)] == later

    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Cancelled", timeout=30_000)
    stopped_at = len(points(page))
    assert stopped_at < STEPS

    page.get_by_role("button", name=re.compile("Resume")).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Completed", timeout=120_000)
    page.reload()
    whole = wait_for_points(page, at_least=STEPS)
    assert [step for step, _ in whole] == list(range(1, STEPS + 1))
    assert sum(y for _, y in whole[-20:]) < sum(y for _, y in whole[:20])  # it learned

    page.get_by_role("tab", name="Checkpoints").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="Download").first.click()
    with zipfile.ZipFile(io.BytesIO(Path(download.value.path()).read_bytes())) as archive:
        weights = [name for name in archive.namelist() if name.endswith(".safetensors")]
        assert weights, archive.namelist()
        assert load(archive.read(weights[0]))
        assert any(name.endswith("adapter_config.json") for name in archive.namelist())
