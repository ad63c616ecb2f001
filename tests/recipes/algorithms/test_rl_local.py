"""Reinforcement learning on the starter model: exact where it must be exact, and it learns."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.algorithms.rl import RL
from recipes.backends.local import LocalBackend
from recipes.backends.local.config import LocalConfig
from recipes.chat import Reply
from recipes.config import BaseAlgorithmConfig, ModelConfig
from recipes.envs import FrozenPolicy, Judge, ProblemEnv, ProblemGroupBuilder, RLDataset, RLDatasetBuilder, RLDatasets, StepResult
from recipes.registry import algorithms
from recipes.starter import tasks as starter_tasks
from recipes.trajectories import datums_of
from recipes.types import LoopState, Row, RunContext, Task, Trajectory
from tests.recipes.runs_under_test import TIMING, Witness, config, run

ROWS = Path(starter_tasks.__file__).parent / "rows"
PARAMS: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 8, "num_samples": 4, "max_tokens": 40, "grad_clip_norm": 1.0}
PARAMS |= {"verifier_name": "numeric", "lora_rank": 8, "seed": 2}


def task_rows(count: int) -> list[Row]:
    return [json.loads(line) for line in (ROWS / "tasks_train.jsonl").read_text().splitlines()[:count]]


class Rollouts(Witness):
    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.rollouts: dict[int, list[Trajectory]] = {}

    def on_rollout(self, state: LoopState, step: int, rollouts: Sequence[Trajectory]) -> None:
        self.rollouts[step] = list(rollouts)


def rl(folder: Path, *callbacks: Any, kind: str = "rl", num_rows: int = 16, resume: bool = False, **params: Any) -> Any:
    chosen = config(kind, backend="local", **PARAMS | params)
    chosen.backend.params = {"num_threads": 1, "device": "cpu"}
    return run(chosen, folder, *callbacks, rows=task_rows(num_rows), resume=resume)


def untimed(steps: dict[int, Any]) -> dict[int, Any]:
    left_out = TIMING | {"time/rollouts"}
    return {step: {key: value for key, value in metrics.items() if key not in left_out} for step, metrics in steps.items()}


class Twice(ProblemEnv):
    """Asks the same again, whatever was said: an episode of two turns."""

    asked = False

    async def step(self, reply: Reply) -> StepResult:
        if self.asked:
            return await super().step(reply)
        self.asked = True
        return StepResult(episode_done=False, answers=[self._task.messages[-1]])


@dataclass
class TwiceBuilder(ProblemGroupBuilder):
    async def make_envs(self, frozen: FrozenPolicy | None = None) -> Sequence[Twice]:
        return [Twice(self.task, self.judge) for _ in range(self.num_envs)]


class TwiceRL(RL):
    name = "twice_rl"

    def dataset_builder(self, ctx: RunContext) -> Any:
        judge, tasks = Judge("numeric", {}), [Task.of(row) for row in ctx.extras["train_rows"]]

        class Builder(RLDatasetBuilder):
            async def __call__(self) -> RLDatasets:
                return RLDatasets(RLDataset([TwiceBuilder(task, judge, 4) for task in tasks], 8))

        return Builder()


@pytest.mark.parametrize("kind", ["rl", "twice_rl"])
def test_a_resumed_run_is_bit_equal_to_one_that_was_never_stopped(tmp_path: Path, kind: str) -> None:
    algorithms.register("twice_rl")(TwiceRL)
    whole, first, second = Rollouts(), Rollouts(stop_after=2), Rollouts()
    try:
        assert rl(tmp_path / "whole", whole, kind=kind, num_epochs=2).status == "completed"
        rl(tmp_path / "parts", first, kind=kind, num_epochs=2)
        assert rl(tmp_path / "parts", second, kind=kind, num_epochs=2, resume=True).status == "completed"
    finally:
        algorithms._items.pop("twice_rl")
    assert untimed(first.steps | second.steps) == untimed(whole.steps)
    assert first.rollouts | second.rollouts == whole.rollouts
    weights = "checkpoints/final/sampler/adapter_model.safetensors"
    assert (tmp_path / "whole" / weights).read_bytes() == (tmp_path / "parts" / weights).read_bytes()
    if kind == "twice_rl":
        assert whole.steps[1]["rollout/turns"] == 2
        assert [len(datums_of(rollout)) for rollout in whole.rollouts[1]] == [1] * 32, "the second turn goes on from the first"


def test_the_samplers_log_probabilities_stand_where_the_trainers_do(tmp_path: Path) -> None:
    """Position by position: what `compute_logprobs` says of prompt and reply, the datum's, and the trainer's own."""

    async def compare() -> None:
        backend = await LocalBackend.open(
            LocalConfig(), model=ModelConfig(), algorithm=BaseAlgorithmConfig(lora_rank=2), output_dir=tmp_path
        )
        try:
            witness = Rollouts()
            await asyncio.to_thread(rl, tmp_path / "run", witness, max_steps=1)
            client = await backend.reference_sampling_client()
            for rollout in witness.rollouts[1][:6]:
                (datum,) = datums_of(rollout)
                tokens = [*datum.model_input.tolist(), int(datum.loss_fn_inputs["target_tokens"][-1])]
                scored = np.array((await client.compute_logprobs_async(tokens))[1:], dtype=np.float64)
                said = len(rollout.turns[0].completion_tokens)
                assert datum.loss_fn_inputs["logprobs"][-said:] == pytest.approx(scored[-said:], abs=1e-4)
                assert not datum.loss_fn_inputs["logprobs"][:-said].any()
                trained = (await backend.forward_async([datum], loss_fn="importance_sampling")).loss_fn_outputs[0]["logprobs"]
                assert trained == pytest.approx(scored, abs=1e-4)
        finally:
            await backend.close()

    asyncio.run(compare())


def test_it_learns_to_work_the_sums_out(tmp_path: Path) -> None:
    witness = Witness()
    result = rl(tmp_path, witness, num_rows=200, batch_size=16, num_samples=8, max_steps=8, learning_rate=3e-3)
    rewards = [metrics["reward/mean"] for metrics in witness.steps.values()]
    assert result.status == "completed"
    assert np.mean(rewards[:2]) < 0.5 and np.mean(rewards[-2:]) > np.mean(rewards[:2]) + 0.2
    assert all(metrics["kl/sampler"] < 1e-3 for metrics in witness.steps.values())
