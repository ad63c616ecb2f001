"""Hostile text in every field that is shown anywhere, through every page that shows it, on a phone's screen in a real Chromium:
no script runs, the content policy has nothing to refuse, and no page grows wider than the screen."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from tests.browser.conftest import PHONE, Visitor, sign_in
from tests.browser.test_every_page import settle
from tests.hostile import LINK, LONG, MARKUP, RAN, TEXTS
from tests.stack import Stack

EVERYTHING = " ".join(TEXTS.values())
PAGES = [
    *("/", "/search?q=W", "/datasets/", "/runs/", "/runs/new", "/evals/", "/evals/new", "/evals/benchmarks/", "/curation/"),
    *("/cycles/", "/cycles/new", "/accounts/", "/accounts/tokens/", "/accounts/credentials/", "/notifications/"),
    *("/admin/", "/admin/runs/trainingrun/", "/admin/evals/evalrun/", "/admin/evals/benchmark/", "/admin/datasets/dataset/"),
    *("/admin/curation/filter/", "/admin/accounts/project/", "/admin/accounts/apitoken/", "/admin/accounts/backendcredential/"),
]
MAKE_PEOPLE = """
import json
from evsys_web.accounts.models import ApiToken, Project, User
texts = json.loads(bytes.fromhex("TEXTS"))
user = User.objects.get(username="admin")
user.first_name, user.last_name = texts["markup"], texts["long"]
user.save()
for text in texts.values():
    Project.objects.create_for(user, name=text[:100])  # PostgreSQL takes no more
    ApiToken.objects.issue(user, name=text[:100])
"""


def make(api: httpx.Client, path: str, **sent: Any) -> dict[str, Any]:
    answer = api.post(path, **sent)
    assert answer.status_code in {200, 201}, f"{path}: {answer.text[:300]}"
    made: dict[str, Any] = answer.json()
    return made


@pytest.fixture(scope="module")
def hostile_pages(stack: Stack) -> list[str]:
    people = MAKE_PEOPLE.replace("TEXTS", json.dumps(TEXTS).encode().hex())
    stack.manage("shell", "-c", people)
    found = list(PAGES)
    with stack.api() as api:
        chat = [{"role": "user", "content": EVERYTHING}, {"role": "assistant", "content": MARKUP * 20, "reasoning": LINK}]
        rows = [{"messages": chat, "metadata": {text: text}} for text in TEXTS.values()]
        tasks = [{"task_id": text, "messages": chat[:1], "answer": text, "metadata": {text: text}} for text in TEXTS.values()]
        for name, content in (("hostile-chats", rows), ("hostile-tasks", tasks)):
            dataset = make(api, "/datasets", json={"name": name, "description": EVERYTHING})
            version = make(api, f"/datasets/{dataset['id']}/versions", json=content)
            number = version.get("id") or version["version"]["id"]
            found += [f"/datasets/versions/{number}", f"/datasets/versions/{number}/preview", f"/datasets/versions/{number}?q=W"]
        for text in TEXTS.values():
            if text.isprintable():  # the names of keys are
                make(api, "/credentials", json={"name": text, "secret": "s" * 20})
            make(api, "/filters", json={"name": text, "settings": {"filter": "solved"}})
            judged = {"name": text, "dataset": "hostile-tasks@1", "verifier": {"kind": "contains"}}
            found.append(f"/evals/benchmarks/{make(api, '/benchmarks', json=judged)['id']}/")
        runs = [run_of(api, text) for text in TEXTS.values()]
        evals = [eval_of(api, text) for text in TEXTS.values()]
    for run in runs:
        found += [f"/runs/{run}/", f"/runs/{run}/#logs", f"/admin/runs/trainingrun/{run}/change/"]
    for number in evals:
        found += [f"/evals/{number}/", f"/evals/{number}/tasks/1", f"/curation/new?eval={number}"]
    return [*found, f"/runs/compare?run={runs[0]}&run={runs[1]}", f"/evals/compare?a={evals[0]}&b={evals[1]}"]


def run_of(api: httpx.Client, text: str) -> int:
    """Reported from elsewhere: its name, the names of its metrics and what it died of are its own."""
    run = int(make(api, "/runs/external", json={"name": text})["id"])
    points = [{"step": step, "values": {"train/loss": 1.0 / step, f"x/{LONG}": 1.0}} for step in (1, 2, 3)]
    assert api.post(f"/runs/{run}/log-batch", json=points).is_success
    assert api.post(f"/runs/{run}/finish", json={"status": "failed", "error": f"{text} {EVERYTHING}"}).is_success
    return run


def eval_of(api: httpx.Client, text: str) -> int:
    """Attempts that were made elsewhere: what was asked, said, called and thrown."""
    call = {"type": "function", "function": {"name": text[:60], "arguments": {text: text}}}
    said = [
        {"role": "user", "content": text},
        {"role": "assistant", "content": EVERYTHING, "reasoning": text, "tool_calls": [call]},
        {"role": "tool", "content": MARKUP * 5},
    ]
    attempts = [
        {"task_id": f"{text} {task}", "attempt": number, "messages": said, "is_correct": number == task, "reward": 1.0}
        for task in (0, 1)
        for number in (0, 1)
    ]
    file = "\n".join(json.dumps(attempt) for attempt in attempts)
    sent = {"files": {"file": ("hostile.jsonl", file.encode())}, "params": {"name": text, "model": text}}
    return int(make(api, "/evals/import", **sent)["id"])


def test_hostile_text_runs_nowhere(visit: Callable[..., Visitor], stack: Stack, hostile_pages: list[str]) -> None:
    visitor = visit(viewport=PHONE, color_scheme="dark")
    page = visitor.open()
    page.on("dialog", lambda dialog: visitor.complaints.append(f"{page.url}: a dialog"))
    sign_in(page, stack)
    for address in hostile_pages:
        answer = page.goto(address)
        assert answer is None or answer.status == 200, (
            f"{address} answered {answer and answer.status}"
        )  # None: "#logs" of the same
        settle(page)
        assert page.evaluate(f"() => {RAN}") is None, f"{address} ran hostile text"
        if not address.startswith("/search"):  # a fragment, bare here
            assert page.evaluate("() => document.documentElement.scrollWidth") <= PHONE["width"], f"{address} sticks out"
        assert page.locator("a[href^='javascript' i], [onerror], [onload], [onmouseover]").count() == 0, address
    visitor.complaints = [complaint for complaint in visitor.complaints if "/favicon.ico" not in complaint]  # of a bare fragment
