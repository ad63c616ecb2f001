"""Keys tried on the real clients, against servers on loopback that answer well, badly, elsewhere, too much, or never."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

import pytest

from recipes.isolation import Isolated
from recipes.probes import Finding, KeyKind, Outcome, probe

KEY = "tml-the-key-of-this-test-4711"
ALONE = {"private": False, "loopback": True}
"""As a server that only its own machine reaches allows it."""
GOOD: dict[KeyKind, Any] = {
    KeyKind.OPENAI: {"object": "list", "data": [{"id": "qwen", "object": "model", "created": 0, "owned_by": "me"}]},
    KeyKind.TINKER: {"supported_models": [{"model_name": "Qwen/Qwen3-8B"}]},
    KeyKind.FIREWORKS: {"accounts": [{"name": "accounts/acme"}]},
    KeyKind.HUB: {"name": "alice", "auth": {"accessToken": {"role": "write"}}},
}
SAID = {
    KeyKind.OPENAI: "Works: 1 model, such as qwen.",
    KeyKind.TINKER: "Works: 1 model, such as Qwen/Qwen3-8B.",
    KeyKind.FIREWORKS: "Works: account acme.",
    KeyKind.HUB: "Works: user alice, may write.",
}
ENDLESS = b"[" * 2**20


class Told(NamedTuple):
    """What the server answers to whoever has the key. num_parts: of 1 MiB each, instead of a body. status 0: never."""

    status: int = 200
    body: Any = None
    location: str = ""
    num_parts: int = 0


@contextmanager
def server(told: Told, *, asks_for_key: bool = True) -> Iterator[str]:
    over = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            key = self.headers.get("x-api-key") or self.headers.get("authorization", "").removeprefix("Bearer ")
            if self.path.endswith("/healthz"):
                return self.answer(Told(200, {"status": "ok"}))
            if asks_for_key and key != KEY:
                return self.answer(Told(401, {"error": f"no such key: {key}"}))
            return self.answer(told)

        do_POST = do_GET

        def answer(self, told: Told) -> None:
            if told.status == 0:
                over.wait(60)
                return
            written = told.body if isinstance(told.body, bytes) else json.dumps(told.body).encode()
            self.send_response(told.status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(told.num_parts * len(ENDLESS) or len(written)))
            if told.location:
                self.send_header("Location", told.location)
            self.end_headers()
            try:
                for part in [ENDLESS] * told.num_parts or [written]:
                    self.wfile.write(part)
            except OSError:
                return  # whoever asked has heard enough

        def log_message(self, *args: Any) -> None:
            """Silent."""

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True
        block_on_close = False

    with Quiet(("127.0.0.1", 0), Handler) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{serving.server_address[1]}"
        over.set()
        serving.shutdown()


@pytest.fixture(scope="module")
def tried() -> Iterator[Callable[..., Finding]]:
    """Tries keys in one process for all tests, since reading the clients' packages takes seconds; nobody is in a hurry."""
    asking = Isolated("recipes.probes:answer", timeout_seconds=90)
    for kind in GOOD:
        asking(kind, "", None, None, 0)  # before the process may grow no further

    def ask(kind: KeyKind, url: str, *, key: str = KEY, allowed: dict[str, bool] = ALONE, seconds: float = 30) -> Finding:
        outcome, sentence = asking(kind, key, url, allowed, seconds)
        assert key not in sentence
        return Finding(Outcome(outcome), sentence)

    yield ask
    asking.close()


Tried = Callable[..., Finding]


@pytest.mark.parametrize("kind", GOOD)
def test_a_key_works_or_is_refused(tried: Tried, kind: KeyKind) -> None:
    with server(Told(body=GOOD[kind])) as url:
        assert tried(kind, url) == (Outcome.WORKS, SAID[kind])
        assert tried(kind, url, key="tml-quite-another-key") == (Outcome.FAILS, "The server refused the key (401).")


def test_a_server_that_tells_anybody_says_nothing_of_the_key(tried: Tried) -> None:
    with server(Told(body=GOOD[KeyKind.OPENAI]), asks_for_key=False) as url:
        found = tried(KeyKind.OPENAI, url)
    assert found.outcome is Outcome.UNCLEAR and "to anybody" in found.sentence


INSIDE = "http://169.254.169.254"


@pytest.mark.parametrize("kind", [KeyKind.OPENAI, KeyKind.HUB, KeyKind.TINKER])
def test_no_redirect_leads_inside(kind: KeyKind, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a process of its own: Tinker's client goes on trying."""
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with server(Told(302, {}, location=f"{INSIDE}/latest/meta-data")) as url:
        found = probe(kind, key=KEY, address=url, allowed=ALONE, seconds=30)
    said = "The server leads to 169.254.169.254, an address that may not be asked from here."
    assert found == (Outcome.FAILS, said)


def test_fireworks_is_followed_nowhere(tried: Tried) -> None:
    with server(Told(302, {}, location=f"{INSIDE}/latest/meta-data")) as url:
        assert "elsewhere (302)" in tried(KeyKind.FIREWORKS, url).sentence


def test_an_address_inside_is_not_asked_and_ones_own_machine_only_while_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with server(Told(body=GOOD[KeyKind.OPENAI])) as url:
        for address, allowed in ((f"{INSIDE}/v1", ALONE), (url, {"private": False, "loopback": False})):
            found = probe(KeyKind.HUB, key=KEY, address=address, allowed=allowed, seconds=30)
            assert found.outcome is Outcome.FAILS and "may not be asked from here" in found.sentence


@pytest.mark.parametrize("told", [Told(body=b"<html>"), Told(body=[1]), Told(body={"data": 3})])
@pytest.mark.parametrize("kind", [KeyKind.OPENAI, KeyKind.FIREWORKS])
def test_what_makes_no_sense_gets_a_sentence(tried: Tried, kind: KeyKind, told: Told) -> None:
    with server(told) as url:
        found = tried(kind, url)
    assert found.outcome is Outcome.FAILS and found.sentence.endswith((".", "?")), found


def test_no_answer_fills_the_memory() -> None:
    with server(Told(num_parts=100)) as url:
        found = probe(KeyKind.OPENAI, key=KEY, address=url, allowed=ALONE, seconds=60)
    assert found == (Outcome.FAILS, "The server sends more than any list of models takes. Is this the right address?")


@pytest.mark.parametrize("kind", [KeyKind.OPENAI, KeyKind.TINKER])
def test_a_server_that_never_answers_is_left(kind: KeyKind) -> None:
    """In a process of its own, as ever: Tinker's client asks on for minutes, and holds up whoever comes after it."""
    with server(Told(0)) as url:
        assert probe(kind, key=KEY, address=url, allowed=ALONE, seconds=1) == (Outcome.FAILS, "No answer within 1 s.")


@pytest.mark.parametrize(
    ("told", "outcome", "said"),
    [
        (Told(403, {}), Outcome.FAILS, "(403)"),
        (Told(404, {}), Outcome.UNCLEAR, "was not tried"),
        (Told(503, {}), Outcome.UNCLEAR, "(503)"),
        (Told(418, {"error": {"message": f"you sent {KEY}"}}), Outcome.FAILS, "(418)"),
        (Told(body={"data": [{"id": f"{KEY}\u202e\x00<b>" + "x" * 900}]}), Outcome.WORKS, "[the key]<b>"),
    ],
)
def test_what_a_server_says_is_told_in_our_words_and_without_the_key(
    tried: Tried, told: Told, outcome: Outcome, said: str
) -> None:
    with server(told) as url:
        found = tried(KeyKind.OPENAI, url)
    assert found.outcome is outcome and said in found.sentence and len(found.sentence) < 200
    assert found.sentence.isprintable()


def test_nobody_there_is_said(tried: Tried) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and nobody listens
        found = tried(KeyKind.OPENAI, f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert found == (Outcome.FAILS, "The server cannot be reached. Is it running, and is the address right?")


def test_a_test_has_a_process_of_its_own_that_a_hanging_server_does_not_keep(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    with server(Told(body=GOOD[KeyKind.HUB])) as url:
        assert probe(KeyKind.HUB, key=KEY, address=url, allowed=ALONE) == (Outcome.WORKS, SAID[KeyKind.HUB])
    with server(Told(0)) as url:  # the hub's client would wait for as long as it takes
        assert probe(KeyKind.HUB, key=KEY, address=url, allowed=ALONE, seconds=1) == (Outcome.FAILS, "No answer within 1 s.")
