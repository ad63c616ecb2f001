"""Opens each backend that runs on a bare machine, for the contract that all of them keep."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recipes.config import BaseAlgorithmConfig, ModelConfig
from recipes.protocols import Backend
from recipes.registry import backends
from recipes.rendering import datum_of, render
from recipes.types import AdamParams, Datum
from tests.recipes.runs_under_test import chats
from tests.recipes.tinker_stack import KEY, tinker_server

ADAM = AdamParams(learning_rate=0.01)
Scenario = Callable[[Backend], Awaitable[Any]]


@pytest.fixture(scope="session")
def tinker_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Our own Tinker-compatible server over the local engine, for the tinker backend to be opened on."""
    with tinker_server(tmp_path_factory.mktemp("tinker")) as url:
        yield url


@pytest.fixture(params=["mock", "local", "tinker"])
def play(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Any]:
    """play(scenario, folder="a") opens the backend, awaits scenario(backend), closes it."""
    backend_class: Any = backends.get(request.param)
    params: dict[str, Any] = {"num_threads": 1} if request.param == "local" else {}
    if request.param == "tinker":
        params = {"base_url": request.getfixturevalue("tinker_url")}

    async def opened(scenario: Scenario, folder: str, init_from_checkpoint: str | None) -> Any:
        settings = backend_class.Config(**params)
        backend = await backend_class.open(
            settings,
            model=ModelConfig(name="starter", init_from_checkpoint=init_from_checkpoint),
            algorithm=BaseAlgorithmConfig(lora_rank=4, seed=1),
            output_dir=tmp_path / folder,
            secrets={"backend_api_key": KEY},
        )
        try:
            return await scenario(backend)
        finally:
            await backend.close()

    def run(scenario: Scenario, folder: str = "a", init_from_checkpoint: str | None = None) -> Any:
        return asyncio.run(opened(scenario, folder, init_from_checkpoint))

    return run


def datums(backend: Backend, count: int = 3, start: int = 0) -> list[Datum]:
    tokenizer = backend.get_tokenizer()
    return [datum_of(render(row["messages"], tokenizer)) for row in chats(start + count)[start:]]


async def nll(backend: Backend, data: list[Datum]) -> float:
    return (await backend.forward_async(data)).metrics["loss:sum"]


async def learn(backend: Backend, data: list[Datum], steps: int = 1) -> float:
    loss = 0.0
    for _ in range(steps):
        gradient = backend.forward_backward_async(data, loss_fn="cross_entropy")
        update = backend.optim_step_async(ADAM)
        loss = (await gradient).metrics["loss:sum"]
        await update
    return loss
