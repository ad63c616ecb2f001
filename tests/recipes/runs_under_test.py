"""Small runs and a callback that writes down what it hears."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import recipes
from recipes.config import RunConfig
from recipes.protocols import Backend, Callback
from recipes.types import Checkpoint, LoopState, Metrics, Row, RunContext, RunResult, TrainingBatch

TIMING = {"time/step", "tokens/per_second"}


def chats(count: int = 10) -> list[Row]:
    return [
        {"messages": [{"role": "user", "content": f"What is {i} and {i}?"}, {"role": "assistant", "content": f"It is {2 * i}."}]}
        for i in range(count)
    ]


def config(kind: str = "sft", *, backend: str = "mock", model: str = "starter", **params: Any) -> RunConfig:
    defaults = {"learning_rate": 0.05, "batch_size": 4} | params
    return RunConfig.from_values(
        {
            "data": {"dataset": "chats@1"},
            "model": {"name": model},
            "algorithm": {"kind": kind, "params": defaults},
            "backend": {"kind": backend},
        }
    )


class Witness(Callback):
    """Keeps every call, and asks for a stop where it is told to."""

    def __init__(self, *, stop_after: int | None = None, times: int = 1) -> None:
        self.calls: list[str] = []
        self.steps: dict[int, Metrics] = {}
        self.evals: dict[int, Metrics] = {}
        self.checkpoints: list[Checkpoint] = []
        self.events: list[tuple[str, str]] = []
        self.rows: list[Row] = []
        self.start_step: int | None = None
        self.result: RunResult | None = None
        self.state: LoopState | None = None
        self.stop_after, self.times = stop_after, times

    def on_train_start(self, state: LoopState) -> None:
        self.calls.append("start")
        self.start_step = state.start_step

    def on_train_data(self, ctx: RunContext, rows: Sequence[Row]) -> None:
        self.rows = list(rows)

    def on_step_end(self, state: LoopState, step: int, batch: TrainingBatch | None, metrics: Metrics) -> None:
        self.calls.append(f"step {step}")
        self.steps[step] = {key: value for key, value in metrics.items() if key not in TIMING}
        if step == self.stop_after:
            for _ in range(self.times):
                state.request_stop()

    def on_checkpoint(self, state: LoopState, checkpoint: Checkpoint) -> None:
        self.calls.append(f"save {checkpoint.name}")
        self.checkpoints.append(checkpoint)

    def on_eval(self, state: LoopState, step: int, name: str, metrics: Metrics) -> None:
        self.calls.append(f"eval {name} {step}")
        self.evals[step] = metrics

    def on_event(self, state: LoopState, level: str, message: str) -> None:
        self.state = state
        self.events.append((level, message))

    def on_train_end(self, state: LoopState, result: RunResult) -> None:
        self.calls.append("end")
        self.result = result


def run(
    run_config: RunConfig,
    output_dir: Path,
    *callbacks: Callback,
    rows: Sequence[Row] | None = None,
    backend: Backend | None = None,
    resume: bool = False,
    validation_rows: Sequence[Row] | None = None,
) -> RunResult:
    return recipes.train(
        run_config,
        run_id="7",
        output_dir=output_dir,
        rows=chats() if rows is None else rows,
        validation_rows=validation_rows,
        callbacks=callbacks,
        backend=backend,
        resume=resume,
    )


class Killed(BaseException):
    """What a worker feels when it is killed: no handler catches it."""


class KilledAfter(Witness):
    """Dies right after hearing of a step, or of the checkpoint of one."""

    def __init__(self, step: int | None = None, *, saved: int | None = None) -> None:
        super().__init__()
        self._step, self._saved = step, saved

    def on_step_end(self, state: LoopState, step: int, batch: TrainingBatch | None, metrics: Metrics) -> None:
        super().on_step_end(state, step, batch, metrics)
        if step == self._step:
            raise Killed

    def on_checkpoint(self, state: LoopState, checkpoint: Checkpoint) -> None:
        super().on_checkpoint(state, checkpoint)
        if checkpoint.step == self._saved:
            raise Killed
