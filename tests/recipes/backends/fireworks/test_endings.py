"""A session whose model does not come, or that nobody waits for, is ended; so is the trainer of a close that is broken off."""

from __future__ import annotations

import asyncio
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from fireworks.training import sdk

from recipes.backends.fireworks import FireworksBackend
from recipes.backends.fireworks.config import FireworksConfig
from recipes.backends.fireworks.dedicated import DedicatedSteps
from recipes.backends.fireworks.steps import end_session
from recipes.config import BaseAlgorithmConfig, ModelConfig
from recipes.errors import BackendError
from tests.fireworks_server import KEY, MODEL


class Ended(list[Any]):
    """The services that were closed."""

    def wait(self) -> None:
        deadline = time.monotonic() + 120
        while not self:
            assert time.monotonic() < deadline, "the session is still there"
            time.sleep(0.01)


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch) -> Ended:
    ended, close = Ended(), sdk.FiretitanServiceClient.close

    def closed(service: Any) -> None:
        close(service)
        ended.append(service)

    monkeypatch.setattr(sdk.FiretitanServiceClient, "close", closed)
    return ended


async def begun(root: str, folder: Path, **model: Any) -> Any:
    return await FireworksBackend.open(
        FireworksConfig(base_url=root, tokenizer="starter", step_seconds=120),
        model=ModelConfig(**{"name": MODEL, **model}),
        algorithm=BaseAlgorithmConfig(lora_rank=4),
        output_dir=folder,
        secrets={"backend_api_key": KEY},
    )


@pytest.mark.parametrize(
    "model",
    [
        {"name": "accounts/fireworks/models/unheard-of"},
        {"init_from_checkpoint": "fireworks://accounts/acme/models/unheard-of"},
    ],
    ids=["the model", "the weights to begin from"],
)
def test_a_session_whose_model_is_refused_is_ended(root: str, tmp_path: Path, ended: Ended, model: dict[str, Any]) -> None:
    with pytest.raises(BackendError):
        asyncio.run(begun(root, tmp_path, **model))
    ended.wait()


def test_a_session_that_opens_after_its_run_was_stopped_is_ended(
    root: str, tmp_path: Path, ended: Ended, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening, go_on = threading.Event(), threading.Event()
    create = sdk.FiretitanServiceClient.create_lora_training_client

    def slow(service: Any, *values: Any, **named: Any) -> Any:
        opening.set()
        assert go_on.wait(120)
        return create(service, *values, **named)

    monkeypatch.setattr(sdk.FiretitanServiceClient, "create_lora_training_client", slow)

    async def stopped() -> None:
        opened = asyncio.ensure_future(begun(root, tmp_path))
        assert await asyncio.to_thread(opening.wait, 120)
        opened.cancel()
        with pytest.raises(asyncio.CancelledError):
            await opened

    asyncio.run(stopped())
    go_on.set()
    ended.wait()


class Service:
    def __init__(self) -> None:
        self.calls: list[str] = []
        self.is_closing, self.go_on = threading.Event(), threading.Event()

    def delete_training_session(self) -> None:
        self.calls.append("delete")
        raise RuntimeError("the service is out of reach")

    def close(self) -> None:
        self.calls.append("close")
        self.is_closing.set()
        assert self.go_on.wait(120)


def test_the_place_of_a_session_is_given_back_where_it_is_the_services_and_its_heartbeat_ends_anyway() -> None:
    service = Service()
    service.go_on.set()
    with pytest.raises(RuntimeError):
        end_session(FireworksConfig(), service)
    end_session(FireworksConfig(base_url="http://127.0.0.1:1"), service)
    assert service.calls == ["delete", "close", "close"]


class Removed:
    """As a promotion, and as a trainer that can be deleted."""

    context_length = None

    def __init__(self) -> None:
        self.is_removed = threading.Event()

    def abandon(self) -> None: ...

    def close(self) -> None: ...

    def remove(self) -> None:
        self.is_removed.set()


def test_a_close_that_is_broken_off_deletes_the_trainer_all_the_same() -> None:
    service, there = Service(), Removed()
    settings: Any = FireworksConfig()
    stand_in: Any = there
    steps = DedicatedSteps(service, None, None, settings, None, stand_in, stand_in, MODEL, trainer=stand_in)

    async def broken_off() -> None:
        closing = asyncio.ensure_future(steps.close())
        assert await asyncio.to_thread(service.is_closing.wait, 120)
        closing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await closing

    asyncio.run(broken_off())
    assert there.is_removed.wait(120)
    service.go_on.set()
