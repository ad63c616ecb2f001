"""The official SDK on our server, and the in-process engine to compare it with."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

os.environ["TINKER_TELEMETRY"] = "0"

import tinker

from recipes.backends.local.config import LocalConfig
from recipes.backends.local.engine import Engine
from recipes.config import BaseAlgorithmConfig, ModelConfig
from tests.recipes.tinker_stack import KEY, tinker_server

SEED = 11
RANK = 4


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tinker-server")


@pytest.fixture(scope="session")
def url(root: Path) -> Iterator[str]:
    with tinker_server(root, models=("starter", "Qwen/Qwen3-8B=starter")) as address:
        yield address


@pytest.fixture
def service(url: str) -> Iterator[tinker.ServiceClient]:
    with tinker.ServiceClient(base_url=url, api_key=KEY) as service:
        yield service


@pytest.fixture
def training(service: tinker.ServiceClient) -> tinker.TrainingClient:
    return service.create_lora_training_client("starter", rank=RANK, seed=SEED).result(timeout=60)


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """What the server's model is, without a server."""
    algorithm = BaseAlgorithmConfig(lora_rank=RANK, seed=SEED)
    return Engine.load(LocalConfig(num_threads=1), ModelConfig(name="starter"), algorithm, tmp_path / "engine")


@pytest.fixture
def raw(url: str) -> Iterator[httpx.Client]:
    """For what the SDK would never send."""
    with httpx.Client(base_url=f"{url}/api/v1", headers={"X-API-Key": KEY}, timeout=40) as client:
        yield client
