"""The mock backend, which also notes what it was asked for in the run's folder: `calls.jsonl`, a line per call.

A real backend has the same shape: a Config, `open`, and the methods of `recipes.protocols.Backend`. Import a vendor's package
inside `open`, so that listing kinds stays quick.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from recipes.backends.mock import MockBackend, MockConfig
from recipes.config import BaseAlgorithmConfig, ModelConfig, knob
from recipes.types import AdamParams, Datum, ForwardBackwardResult, LossCallable, OptimStepResult


class NotedMockConfig(MockConfig):
    note_every: int = knob(1, "Note only every so many calls.", unit="calls", ge=1, le=1000, essential=True)


class NotedMock(MockBackend):
    name = "noted_mock"
    summary = "The mock backend, with a line in calls.jsonl for each call."
    Config = NotedMockConfig

    @classmethod
    async def open(
        cls,
        config: BaseModel,
        *,
        model: ModelConfig,
        algorithm: BaseAlgorithmConfig,
        output_dir: Path,
        secrets: Mapping[str, str] | None = None,
        report: Callable[[str, str], None] | None = None,
    ) -> NotedMock:
        settings = NotedMockConfig.model_validate(config.model_dump())
        backend = cls(output_dir=output_dir, seed=algorithm.seed, step_seconds=settings.step_seconds)
        backend._notes = output_dir / "calls.jsonl"
        backend._note_every = settings.note_every
        return backend

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        self._notes: Path | None = None
        self._note_every = 1
        self._num_calls = 0

    def forward_backward_async(
        self, data: Sequence[Datum], *, loss_fn: str, loss_fn_config: Mapping[str, Any] | None = None
    ) -> Awaitable[ForwardBackwardResult]:
        self._note("forward_backward", num_datums=len(data), loss_fn=loss_fn)
        return super().forward_backward_async(data, loss_fn=loss_fn, loss_fn_config=loss_fn_config)

    def forward_backward_custom_async(self, data: Sequence[Datum], loss_fn: LossCallable) -> Awaitable[ForwardBackwardResult]:
        self._note("forward_backward", num_datums=len(data), loss_fn="custom")
        return super().forward_backward_custom_async(data, loss_fn)

    def optim_step_async(self, adam: AdamParams) -> Awaitable[OptimStepResult]:
        self._note("optim_step", learning_rate=adam.learning_rate)
        return super().optim_step_async(adam)

    def _note(self, call: str, **values: Any) -> None:
        self._num_calls += 1
        if self._notes is not None and self._num_calls % self._note_every == 0:
            with self._notes.open("a") as file:
                file.write(json.dumps({"call": call, **values}) + "\n")
