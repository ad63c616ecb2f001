"""A server that is dead, wrong, refusing or slow is an error within the stated time, and never an endless retry."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import pytest

from recipes.backends.tinker import TinkerBackend, connection
from recipes.backends.tinker.config import TinkerConfig
from recipes.config import BaseAlgorithmConfig, ModelConfig
from recipes.errors import BackendError, CheckpointError, ConfigError, ErrorKind
from tests.recipes.backends.conftest import ADAM, datums
from tests.recipes.tinker_stack import Behaviour, fake_tinker

PATIENCE = {"connect_seconds": 2.0, "timeout_seconds": 2.0}


def opened(url: str | None, use: Callable[[TinkerBackend], Awaitable[Any]] | None = None, **options: Any) -> Any:
    """Open a backend on the server, use it, close it. Gives what `use` gave."""

    async def play() -> Any:
        backend = await TinkerBackend.open(
            TinkerConfig(base_url=url, **PATIENCE),
            model=ModelConfig(name="starter"),
            algorithm=BaseAlgorithmConfig(lora_rank=options.pop("lora_rank", 4)),
            output_dir=Path("unused"),
            **options,
        )
        try:
            return await use(backend) if use is not None else None
        finally:
            await backend.close()

    return asyncio.run(play())


def failure_of(
    behaviour: Behaviour, use: Callable[[TinkerBackend], Awaitable[Any]] | None = None, **options: Any
) -> BackendError:
    began = time.monotonic()
    with fake_tinker(behaviour) as (url, _), pytest.raises(BackendError) as caught:
        opened(url, use, **options)
    assert time.monotonic() - began < 90  # PATIENCE, and room for a busy machine
    return caught.value


async def gradient(backend: TinkerBackend) -> None:
    await backend.forward_backward_async(datums(backend, 1), loss_fn="cross_entropy")


async def step(backend: TinkerBackend) -> None:
    await backend.optim_step_async(ADAM)


def when(endpoint: str, status: int, answer: Any = None, *, request_id: str | None = None) -> Behaviour:
    def behave(called: str, body: dict[str, Any], before: int) -> tuple[int, Any] | None:
        if called != endpoint or (request_id is not None and body.get("request_id") != request_id):
            return None
        return status, answer if answer is not None else {"detail": "no."}

    return behave


def test_nobody_listens_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(BackendError, match="cannot be reached") as caught:
        opened(url)
    assert caught.value.kind is ErrorKind.CONNECTION and not caught.value.permanent


@pytest.mark.fault("A hosted backend does not answer", "Failed within the stated time, with a sentence.")
def test_it_listens_and_says_nothing() -> None:
    assert failure_of(when("healthz", 0)).kind is ErrorKind.TIMEOUT
    assert failure_of(when("create_model", 0)).kind is ErrorKind.TIMEOUT


def test_a_refused_key_says_where_keys_are_kept() -> None:
    error = failure_of(when("create_session", 401))
    assert error.permanent and error.kind is ErrorKind.AUTH and "Credentials" in str(error)


@pytest.mark.fault("A hosted backend answers 500 for ever", "Tried again, then failed with a sentence.")
@pytest.mark.parametrize("status", [500, 503, 429])
def test_a_server_that_always_fails_is_given_up(status: int) -> None:
    assert not failure_of(when("retrieve_future", status, request_id="optim_step"), step).permanent


def test_what_the_server_refuses_is_told_in_its_words() -> None:
    said = {"error": "The batch is too long for this model", "category": "user"}
    error = failure_of(when("retrieve_future", 200, said, request_id="forward_backward"), gradient)
    assert error.permanent and "too long for this model" in str(error)
    said = {"error": "A worker was lost", "category": "server"}
    error = failure_of(when("retrieve_future", 200, said, request_id="optim_step"), step)
    assert not error.permanent and "worker was lost" in str(error)


def test_an_answer_that_is_none_is_an_error_of_the_server() -> None:
    error = failure_of(when("retrieve_future", 200, b"<html>", request_id="optim_step"), step)
    assert isinstance(error, BackendError)


@pytest.mark.fault("A hosted backend answers late", "The run waits, and says that it does.")
def test_a_long_wait_is_told_to_whoever_reads_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "NOTE_SECONDS", 0.4)
    told: list[str] = []

    def queued(called: str, body: dict[str, Any], before: int) -> tuple[int, Any] | None:
        if called == "retrieve_future" and body.get("request_id") == "optim_step":
            time.sleep(0.3)
            is_waiting = before < 5
            return 200, {"type": "try_again", "queue_state": "paused_capacity"} if is_waiting else {"type": "optim_step"}
        return None

    with fake_tinker(queued) as (url, _):
        opened(url, step, report=lambda level, sentence: told.append(sentence))
    assert any("has not answered" in sentence and "optimizer step" in sentence for sentence in told)


def test_a_gradient_that_is_refused_here_is_not_sent_and_neither_is_its_step() -> None:
    async def use(backend: TinkerBackend) -> None:
        wrong = backend.forward_backward_async([], loss_fn="cross_entropy")
        update = backend.optim_step_async(ADAM)
        with pytest.raises(ValueError, match="no datum"):
            await wrong
        with pytest.raises(BackendError, match="not taken"):
            await update

    with fake_tinker(lambda *_: None) as (url, fake):
        opened(url, use)
        assert fake.count("forward_backward") == fake.count("optim_step") == 0


def test_both_requests_are_on_their_way_before_either_is_awaited() -> None:
    seen: list[str] = []

    def behave(called: str, body: dict[str, Any], before: int) -> tuple[int, Any] | None:
        if called in ("forward_backward", "optim_step"):
            seen.append(called)
        if called == "retrieve_future" and body.get("request_id") in ("forward_backward", "optim_step"):
            return 200, {"error": "enough", "category": "user"}
        return None

    async def use(backend: TinkerBackend) -> None:
        first = backend.forward_backward_async(datums(backend, 1), loss_fn="cross_entropy")
        second = backend.optim_step_async(ADAM)
        for _ in range(100):
            if len(seen) == 2:
                break
            await asyncio.sleep(0.02)
        assert seen == ["forward_backward", "optim_step"]
        await asyncio.gather(first, second, return_exceptions=True)

    with fake_tinker(behave) as (url, _):
        opened(url, use)


def test_the_operators_key_goes_to_the_hosted_service_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TINKER_API_KEY", "tml-the-operators")
    with fake_tinker(lambda *_: None) as (url, fake):
        opened(url)
        assert fake.keys <= {None, "tml-none"}
        opened(url, secrets={"backend_api_key": "tml-stored"})
        assert "tml-stored" in fake.keys and "tml-the-operators" not in fake.keys
    monkeypatch.delenv("TINKER_API_KEY")
    with pytest.raises(ConfigError, match="needs a key"):
        opened(None)


def test_what_tinker_cannot_do_is_refused_before_anything_is_opened() -> None:
    with pytest.raises(ConfigError, match="lora_rank"):
        opened("http://127.0.0.1:9", lora_rank=0)

    async def use(backend: TinkerBackend) -> None:
        with pytest.raises(CheckpointError, match="tinker://"):
            await backend.load_full_state("/somewhere/else")

    with fake_tinker(lambda *_: None) as (url, _):
        opened(url, use)


@pytest.mark.parametrize("url", ["ftp://host", "http://", "http://user:word@host", "http://host?x=1", "not an address"])
def test_an_address_that_is_none_is_refused_in_the_form(url: str) -> None:
    with pytest.raises(ValueError, match="address"):
        TinkerConfig(base_url=url)


def test_the_loop_goes_on_while_the_sdk_opens_its_client() -> None:
    """It asks the server as it opens: in the loop, every other attempt and step would wait for that answer."""
    went_on = threading.Event()

    class Opening(connection.Connection):
        def rest(self) -> Any:
            assert went_on.wait(30), "the loop stood still"
            raise RuntimeError("opened")

    async def play() -> None:
        opening = Opening(TinkerConfig(base_url="http://127.0.0.1:1"), service=cast(Any, None), key="")
        backend = TinkerBackend(opening, cast(Any, None), None, base_model="starter")
        expiry = asyncio.create_task(backend.expiry_of(["tinker://run/weights/1"]))
        for _ in range(2):
            await asyncio.sleep(0)
        went_on.set()
        with pytest.raises(BackendError, match="opened"):
            await expiry

    asyncio.run(play())
