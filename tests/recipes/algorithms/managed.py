"""Runs on a Fireworks that stands on loopback."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import fireworks._base_client
import pytest

import recipes
from recipes.config import RunConfig
from recipes.protocols import Callback
from recipes.types import Row, RunResult
from tests.fireworks_server import KEY, MODEL, Fault, FireworksServer, Request, fireworks_server
from tests.recipes.runs_under_test import chats


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FireworksServer]:
    """Under an SDK that tries again at once, as often as ever."""
    monkeypatch.setattr(fireworks._base_client, "INITIAL_RETRY_DELAY", 0.001)
    with fireworks_server() as made:
        yield made


def pairs(count: int = 10) -> list[Row]:
    return [{"prompt": f"What is {i} and {i}?", "chosen": f"{2 * i}", "rejected": f"{2 * i + 1}"} for i in range(count)]


def job_config(server: FireworksServer, kind: str = "fireworks_sft", **params: Any) -> RunConfig:
    model, backend = params.pop("model", {"name": MODEL}), params.pop("backend", {})
    return RunConfig.from_values(
        {
            "name": "sums",
            "data": {"path": "unused.jsonl"},
            "model": model,
            "algorithm": {"kind": kind, "params": {"batch_size": 4, "poll_seconds": 0.02, **params}},
            "backend": {"kind": "fireworks", "params": {"base_url": server.url, "timeout_seconds": 60, **backend}},
        }
    )


def train(
    server: FireworksServer,
    folder: Path,
    *callbacks: Callback,
    config: RunConfig | None = None,
    rows: Sequence[Row] | None = None,
    validation_rows: Sequence[Row] | None = None,
    key: str = KEY,
    **params: Any,
) -> RunResult:
    return recipes.train(
        config or job_config(server, **params),
        run_id="7",
        output_dir=folder,
        rows=chats() if rows is None else rows,
        validation_rows=validation_rows,
        callbacks=callbacks,
        secrets={"backend_api_key": key},
    )


def failing(method: str, path: str, status: int, message: str, *, times: int = 1000) -> Fault:
    """The first requests of this kind are answered so."""
    left = [times]

    def fault(request: Request) -> tuple[int, Any] | None:
        if request.method != method or path not in request.path or not left[0]:
            return None
        left[0] -= 1
        return status, {"code": 9, "message": message}

    return fault


def broken(method: str, pattern: str, *, times: int = 1000, status: int = 0) -> Fault:
    """The first requests of this kind find nobody: the connection breaks, or a failure is answered."""
    left = [times]

    def fault(request: Request) -> tuple[int, Any] | None:
        if request.method != method or not re.search(pattern, request.path) or not left[0]:
            return None
        left[0] -= 1
        return status, {"code": 13, "message": "internal"}

    return fault


def unheard(server: FireworksServer, method: str, pattern: str, *, times: int = 1000) -> Fault:
    """The first requests of this kind are obeyed, but their answers are lost."""
    left, is_inside = [times], [False]

    def fault(request: Request) -> tuple[int, Any] | None:
        if is_inside[0] or request.method != method or not re.search(pattern, request.path) or not left[0]:
            return None
        left[0] -= 1
        is_inside[0] = True
        server.requests.pop()
        server.answer(request)
        is_inside[0] = False
        return 0, None

    return fault
