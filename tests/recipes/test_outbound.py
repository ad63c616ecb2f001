"""Servers that a user named: led elsewhere by their name or a redirect, sending without end or slower than anybody waits."""

from __future__ import annotations

import gzip
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest

from recipes.errors import BackendError, ErrorKind
from recipes.outbound import guarded_transport
from tests.recipes.chat_server import Answer, chat_server, completion
from tests.recipes.test_chat import ask, failure

FIRST = "127.0.0.1".__eq__
"""Stands for the public addresses: the others of this machine are the network that nobody may look into."""


@pytest.fixture
def name_leads_to(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """Makes somewhere.example lead to these addresses, one lookup after the other; returns the lookups."""
    asked: list[str] = []

    def lead(*addresses: str) -> list[str]:
        real, answers = socket.getaddrinfo, iter(addresses)

        def look_up(host: Any, *arguments: Any, **options: Any) -> Any:
            if host != "somewhere.example":
                return real(host, *arguments, **options)
            asked.append(host)
            return real(next(answers), *arguments, **options)

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        return asked

    return lead


def test_the_address_that_was_judged_is_the_one_that_is_connected_to(name_leads_to: Callable[..., list[str]]) -> None:
    """A name that leads somewhere else at the second lookup gains nothing: there is none."""
    asked = name_leads_to("127.0.0.1", "127.0.0.2")
    with chat_server() as server:
        address = server.base_url.replace("127.0.0.1", "somewhere.example")
        assert ask(address, allows_address=FIRST)[0].text == "hello None"
        assert len(asked) == len(server.requests) == 1
        assert "leads to 127.0.0.2" in str(failure(address, allows_address=FIRST))
        assert len(server.requests) == 1


def test_one_forbidden_address_among_several_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    with chat_server() as server:
        port = int(server.base_url.rpartition(":")[2].removesuffix("/v1"))
        both = [(socket.AF_INET, 1, 6, "", (address, port)) for address in ("127.0.0.1", "10.0.0.1")]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: both)
        assert "leads to 10.0.0.1" in str(failure(f"http://somewhere.example:{port}/v1", allows_address=FIRST))
        assert server.requests == []


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_into_the_network_is_not_followed(status: int) -> None:
    with chat_server() as inside:
        target = inside.base_url.replace("127.0.0.1", "127.0.0.2") + "/chat/completions"
        error = failure(lambda request, number: Answer(status, {}, {"Location": target}), allows_address=FIRST)
        assert error.permanent and "leads to 127.0.0.2" in str(error)
        assert inside.requests == []


def test_an_answer_without_an_end_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guarded_transport, "__kwdefaults__", {"max_bytes": 2**20})
    with chat_server() as server:
        assert ask(server, allows_address=FIRST)[0].text == "hello None"
    error = failure(lambda request, number: completion(["x" * 2**21]), allows_address=FIRST)
    assert error.permanent and error.kind is ErrorKind.BAD_ANSWER and "more than 1 MiB" in str(error)


def test_a_packed_answer_is_not_unpacked() -> None:
    """A megabyte of it may be a gigabyte."""
    packed = gzip.compress(json.dumps(completion(["x" * 2**20]).body).encode())
    error = failure(lambda request, number: Answer(200, packed, {"Content-Encoding": "gzip"}), allows_address=FIRST)
    assert error.permanent and "packed" in str(error)


def test_an_answer_that_trickles_in_is_given_up_after_the_whole_time() -> None:
    """Each byte comes soon enough: the sum is what counts."""
    with trickling() as address, pytest.raises(BackendError, match="within 1 seconds") as caught:
        ask(address, allows_address=FIRST, timeout_seconds=1.0, max_retries=0)
    assert caught.value.kind is ErrorKind.TIMEOUT


@contextmanager
def trickling() -> Iterator[str]:
    """The address of a server that sends a byte each tenth of a second."""
    listening, ended = socket.create_server(("127.0.0.1", 0)), threading.Event()

    def answer() -> None:
        with listening.accept()[0] as connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n")
            while not ended.wait(0.1):
                connection.sendall(b" ")

    thread = threading.Thread(target=answer)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        ended.set()
        thread.join(10)
        listening.close()
