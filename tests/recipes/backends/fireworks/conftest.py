from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import fireworks._base_client
import pytest
import uvicorn

from recipes.backends.fireworks import promotion, provisioning
from recipes.backends.local.config import LocalConfig
from recipes.tinker_server import make_server
from tests.recipes.backends.fireworks.pool import MODEL, TINKER_KEY, Pool
from tests.recipes.backends.fireworks.trainer_proxy import TrainerProxy

PoolT = TypeVar("PoolT", bound=Pool)


@pytest.fixture(scope="session")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pool]:
    """One server for all: it takes seconds to start."""
    with _served(Pool, tmp_path_factory.mktemp("pool")) as pool:
        yield pool


@pytest.fixture(scope="session")
def trainer_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainerProxy]:
    with _served(TrainerProxy, tmp_path_factory.mktemp("trainers")) as proxy:
        yield proxy


@contextmanager
def _served(kind: type[PoolT], folder: Path) -> Iterator[PoolT]:
    app = make_server([f"{MODEL}=starter"], root=folder, key=TINKER_KEY, config=LocalConfig(num_threads=1))
    outer = kind(app)
    server = uvicorn.Server(uvicorn.Config(outer, host="127.0.0.1", port=0, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 300
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    outer.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    try:
        yield outer
    finally:
        server.should_exit = True
        thread.join(10)


@pytest.fixture
def root(pool: Pool, monkeypatch: pytest.MonkeyPatch) -> str:
    """Beside a Fireworks where nothing has happened, asked in haste."""
    monkeypatch.setattr(promotion, "POLL_SECONDS", 0.05)
    pool.renew()
    return pool.url


@pytest.fixture
def trainers(trainer_proxy: TrainerProxy, monkeypatch: pytest.MonkeyPatch) -> TrainerProxy:
    """Beside a Fireworks where nothing has happened, asked in haste."""
    monkeypatch.setattr(promotion, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(provisioning, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(fireworks._base_client, "INITIAL_RETRY_DELAY", 0.001)
    trainer_proxy.renew()
    return trainer_proxy
