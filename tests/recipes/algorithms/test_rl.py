"""Reinforcement learning on the mock backend: what is refused, what is dropped and counted, and that a resume is the same run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.algorithms.rl import RL, RLConfig, rollout_metrics
from recipes.backends.mock import MockBackend, MockSampler
from recipes.callbacks import read_metrics
from recipes.chat import Reply
from recipes.envs import Env, EnvGroupBuilder, Observation, RLDataset, RLDatasetBuilder, RLDatasets, StepResult
from recipes.errors import ConfigError, VerifierError
from recipes.registry import algorithms, verifiers
from recipes.rollout_log import ROLLOUTS_FILE, read_step
from recipes.types import LoopState, Row, SampleResult, Task, Trajectory, Turn
from recipes.verifiers import FormatOnly
from tests.recipes.runs_under_test import TIMING, Witness, config, run

ALMOST = {"time/rollouts"} | TIMING
EARLY = {"verifier_name": "format_only", "verifier_params": {"pattern": "(?s).*[a-o].*"}}
PARAMS: dict[str, Any] = {"batch_size": 4, "num_samples": 4, "max_tokens": 12, "learning_rate": 0.05, **EARLY}


def task_rows(count: int = 10) -> list[Row]:
    return [{"task_id": f"t{i}", "messages": [{"role": "user", "content": f"Say {i}"}], "answer": i} for i in range(count)]


def rl(tmp_path: Path, *callbacks: Any, rows: list[Row] | None = None, resume: bool = False, **params: Any) -> Any:
    options = {name: params.pop(name) for name in ("backend", "validation_rows") if name in params}
    chosen = task_rows() if rows is None else rows
    return run(config("rl", **PARAMS | params), tmp_path, *callbacks, rows=chosen, resume=resume, **options)


class Rollouts(Witness):
    """Also keeps what was sampled."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.rollouts: dict[int, list[Trajectory]] = {}

    def on_rollout(self, state: LoopState, step: int, rollouts: Sequence[Trajectory]) -> None:
        self.rollouts[step] = list(rollouts)


def untimed(steps: dict[int, Any]) -> dict[int, Any]:
    return {step: {key: value for key, value in metrics.items() if key not in ALMOST} for step, metrics in steps.items()}


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"num_samples": 1}, "num_samples must be at least 2 while drop_constant_reward is on"),
        ({"environment": "nim", "num_samples": 3}, "num_samples must be even for nim"),
        ({"verifier_name": "llm_judge"}, "llm_judge asks a service"),
        ({"verifier_name": "nope"}, "There is no verifier 'nope'"),
        ({"verifier_name": "numeric", "verifier_params": {"pick": "middle"}}, "verifier_params.pick"),
        ({"clip_low_threshold": 0.5}, "importance_sampling has no setting 'clip_low_threshold'"),
        ({"loss": "ppo", "clip_low_threshold": 1.5}, "clip_low_threshold"),
        ({"loss": "ppo", "beta": 0.1}, "ppo has no setting 'beta'"),
        ({"loss": "dro", "clip_low_threshold": 0.5}, "dro has no setting 'clip_low_threshold'"),
        ({"loss": "gspo"}, "loss"),
        ({"temperature": 0}, "temperature"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_a_sentence(params: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        RL(**params)


def test_the_settings_work_by_themselves() -> None:
    settings = RLConfig()
    assert (settings.learning_rate, settings.num_samples, settings.drop_constant_reward) == (1e-5, 8, True)
    assert RLConfig(num_samples=1, drop_constant_reward=False).num_samples == 1


@pytest.mark.parametrize(
    ("loss", "settings", "expected"),
    [
        ("importance_sampling", {}, {}),
        ("ppo", {}, {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2}),
        ("ppo", {"clip_high_threshold": 1.5}, {"clip_low_threshold": 0.8, "clip_high_threshold": 1.5}),
        ("cispo", {}, {"clip_low_threshold": 0.0, "clip_high_threshold": 4.0}),
        ("dro", {}, {"beta": 0.1}),
        ("dro", {"beta": 0.05}, {"beta": 0.05}),
    ],
)
def test_each_policy_loss_trains_with_its_own_settings(
    tmp_path: Path, loss: str, settings: dict[str, float], expected: dict[str, float]
) -> None:
    seen: list[Any] = []

    class Watched(MockBackend):
        def forward_backward_async(self, data: Any, *, loss_fn: str, loss_fn_config: Any = None) -> Any:
            seen.append((loss_fn, dict(loss_fn_config or {})))
            return super().forward_backward_async(data, loss_fn=loss_fn, loss_fn_config=loss_fn_config)

    result = rl(tmp_path, loss=loss, max_steps=2, backend=Watched(output_dir=tmp_path), **settings)
    assert result.status == "completed", result.error
    assert seen == [(loss, expected)] * 2


def test_dro_draws_replies_back_to_the_sampler_and_leaves_prompts_alone(tmp_path: Path) -> None:
    """Where the weights are still those that sampled, its gradient is that of importance sampling, whatever its beta."""
    norms = []
    for number, choice in enumerate([{"loss": "importance_sampling"}, {"loss": "dro", "beta": 100.0}]):
        witness = Witness()
        rl(tmp_path / str(number), witness, max_steps=1, **choice)
        norms.append(witness.steps[1]["optim/grad_norm"])
    assert norms[0] > 0 and norms[1] == pytest.approx(norms[0], rel=1e-3)


def test_it_learns_what_is_rewarded(tmp_path: Path) -> None:
    witness = Witness()
    result = rl(tmp_path, witness, batch_size=10, num_samples=6, num_epochs=16, learning_rate=0.6)
    rewards = [metrics["reward/mean"] for metrics in witness.steps.values()]
    assert result.status == "completed"
    assert np.mean(rewards[:3]) < 0.5 < 0.8 < np.mean(rewards[-3:])


def test_constant_groups_are_dropped_yet_counted_in_every_reward(tmp_path: Path) -> None:
    witness = Rollouts()
    rl(tmp_path, witness, max_steps=2)
    for step, metrics in witness.steps.items():
        rollouts = witness.rollouts[step]
        groups = [[each for each in rollouts if each.group == group] for group in range(4)]
        constant = [len({each.reward for each in group}) == 1 for group in groups]
        assert metrics["rollout/without_gradient"] == np.mean(constant)
        assert metrics["reward/mean"] == pytest.approx(np.mean([each.reward for each in rollouts]))
        assert (metrics["reward/n_trajectories"], metrics["reward/n_groups"]) == (16, 4)
        for group in groups:
            assert sum(each.advantage for each in group) == pytest.approx(0)


def test_a_step_in_which_every_group_is_constant_trains_nothing_and_says_so(tmp_path: Path) -> None:
    witness = Witness()
    result = rl(tmp_path, witness, max_steps=2, verifier_params={"pattern": "(?s).*"}, save_every=1)
    assert result.status == "completed"
    for metrics in witness.steps.values():
        assert metrics["train/skipped_empty_batch"] == 1 and metrics["rollout/without_gradient"] == 1
        assert metrics["reward/mean"] == 1 and "optim/grad_norm" not in metrics
    assert [checkpoint.name for checkpoint in witness.checkpoints] == ["step_1", "final"]


def test_constant_groups_may_stay_and_a_lone_attempt_is_worth_its_reward(tmp_path: Path) -> None:
    witness = Rollouts()
    rl(tmp_path, witness, max_steps=2, num_samples=1, drop_constant_reward=False)
    assert all(each.advantage == each.reward for rollouts in witness.rollouts.values() for each in rollouts)
    assert "train/skipped_empty_batch" not in witness.steps[1]


def test_the_sampler_and_the_trainer_agree_before_an_update(tmp_path: Path) -> None:
    witness = Witness()
    rl(tmp_path, witness, max_steps=3)
    for metrics in witness.steps.values():
        assert abs(metrics["kl/sampler"]) < 1e-9
        assert metrics["train/ratio_mean"] == pytest.approx(1, abs=1e-5) == metrics["train/ratio_max"]


def test_every_step_samples_from_the_weights_as_they_are(tmp_path: Path) -> None:
    class Counted(MockBackend):
        snapshots = 0

        async def snapshot_sampling_client(self, name: str | None = None) -> MockSampler:
            self.snapshots += 1
            return await super().snapshot_sampling_client(name)

    backend = Counted(output_dir=tmp_path)
    rl(tmp_path, backend=backend, max_steps=5)
    assert backend.snapshots == 5


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_a_stopped_and_resumed_run_is_bit_equal_to_one_that_was_never_stopped(tmp_path: Path, stop_after: int) -> None:
    params: dict[str, Any] = {"num_epochs": 2, "validation_fraction": 0.2, "validation_every": 2, "seed": 5}
    whole, first, second = Rollouts(), Rollouts(stop_after=stop_after), Rollouts()
    rl(tmp_path / "whole", whole, **params)
    assert rl(tmp_path / "parts", first, **params).status == "cancelled"
    assert rl(tmp_path / "parts", second, resume=True, **params).status == "completed"
    assert second.start_step == stop_after
    assert untimed(first.steps | second.steps) == untimed(whole.steps)
    assert first.evals | second.evals == whole.evals
    assert first.rollouts | second.rollouts == whole.rollouts
    assert (tmp_path / "whole" / ROLLOUTS_FILE).read_bytes() == (tmp_path / "parts" / ROLLOUTS_FILE).read_bytes()


def test_held_out_tasks_are_measured_and_never_trained_on(tmp_path: Path) -> None:
    witness = Rollouts()
    rl(tmp_path, witness, num_epochs=2, validation_fraction=0.3, validation_every=2)
    trained = {each.task_id for rollouts in witness.rollouts.values() for each in rollouts}
    assert len(trained) == 7 == len(witness.rows)
    assert set(witness.evals) == {2, 4}
    assert all(0 <= metrics["eval/validation_reward"] <= 1 for metrics in witness.evals.values())


def test_given_validation_rows_win_over_a_fraction(tmp_path: Path) -> None:
    witness = Witness()
    rl(tmp_path, witness, max_steps=1, validation_rows=task_rows(3), validation_fraction=0.5)
    assert len(witness.rows) == 10 and 1 in witness.evals


class Silent(MockBackend):
    """Samples, and keeps the log-probabilities to itself."""

    async def snapshot_sampling_client(self, name: str | None = None) -> Any:
        inner = await super().snapshot_sampling_client(name)

        class Client:
            async def sample_async(self, **asked: Any) -> SampleResult:
                found = await inner.sample_async(**asked)
                return SampleResult(
                    [type(each)(each.tokens, self.change(each.logprobs), each.stop_reason) for each in found.sequences]
                )

            def change(self, logprobs: list[float]) -> list[float]:
                return []

        return Client()


def test_a_rollout_without_log_probabilities_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    result = rl(tmp_path, backend=Silent(output_dir=tmp_path), max_steps=1)
    assert result.status == "failed" and "0 log-probabilities for" in str(result.error)


@pytest.mark.parametrize(
    ("rows", "params", "sentence"),
    [
        ([], {}, "There are no tasks to train on"),
        ([{"task_id": "a", "messages": [{"role": "user", "content": "x"}]}], {}, "answer"),
        (task_rows(2) + task_rows(1), {}, "Two tasks have the id 't0'"),
        (
            [{**task_rows(1)[0], "answer": "many"}],
            {"verifier_name": "numeric", "verifier_params": {}},
            "numeric cannot judge the task 't0'",
        ),
        ([{**task_rows(1)[0], "verifier": "nope"}], {}, "There is no verifier 'nope'"),
        ([{**task_rows(1)[0], "verifier": 5}], {}, "neither a name nor"),
        ([{**task_rows(1)[0], "verifier": "llm_judge"}], {}, "llm_judge|base_url"),
        (task_rows(1), {"environment": "nim"}, "has no position to play from"),
    ],
)
def test_tasks_that_cannot_be_played_end_the_run_before_its_first_step(
    tmp_path: Path, rows: list[Row], params: dict[str, Any], sentence: str
) -> None:
    witness = Witness()
    result = rl(tmp_path, witness, rows=rows, **params)
    assert result.status == "failed" and not witness.steps
    assert np.any([word in str(result.error) for word in sentence.split("|")]), result.error


def test_a_tasks_own_verifier_wins(tmp_path: Path) -> None:
    own = {"kind": "format_only", "params": {"pattern": "(?s).*"}}
    witness = Witness()
    rl(tmp_path, witness, rows=[{**row, "verifier": own} for row in task_rows()], max_steps=1)
    assert witness.steps[1]["reward/mean"] == 1


def test_attempts_that_cannot_be_judged_are_left_out_and_told_of_once(tmp_path: Path) -> None:
    class Broken(FormatOnly):
        def verify(self, *_: Any, **__: Any) -> Any:
            raise VerifierError("there is nothing to compare with")

    witness = Witness()
    verifiers.register("broken")(Broken)
    try:
        result = rl(tmp_path, witness, max_steps=2, verifier_name="broken")
    finally:
        verifiers._items.pop("broken")
    assert result.status == "completed", result.error
    assert witness.steps[1]["rollout/errors"] == 16 and witness.steps[1]["train/skipped_empty_batch"] == 1
    told = [message for level, message in witness.events if level == "warning" and "could not be sampled or judged" in message]
    assert len(told) == 1 and "16 attempts of step 1" in told[0] and "nothing to compare with" in told[0]


@pytest.mark.parametrize("environment", ["calculator", "nim", "nim_against_frozen"])
def test_every_given_environment_trains(tmp_path: Path, environment: str) -> None:
    rows = [{**row, "metadata": {"heaps": [2, 1]}} for row in task_rows()]
    witness = Witness()
    result = rl(tmp_path, witness, rows=rows, environment=environment, max_steps=2, validation_fraction=0.2, validation_samples=2)
    assert result.status == "completed", result.error
    assert "eval/validation_reward" in witness.evals[2]
    assert witness.steps[1]["rollout/errors"] == 0


def test_the_rollouts_of_a_step_are_written_with_reward_and_advantage(tmp_path: Path) -> None:
    witness = Rollouts()
    rl(tmp_path, witness, max_steps=2, rollouts_kept=8)
    found = read_step(tmp_path / ROLLOUTS_FILE, 2)
    assert found is not None and (found.num_groups, found.num_rollouts, len(found.groups)) == (4, 16, 2)
    first, trajectory = found.groups[0]["rollouts"][0], witness.rollouts[2][0]
    assert (first["reward"], first["advantage"]) == (trajectory.reward, trajectory.advantage)
    assert first["messages"] == trajectory.messages and first["messages"][-1]["role"] == "assistant"


def test_a_subclass_may_bring_environments_of_its_own(tmp_path: Path) -> None:
    class Coin(Env):
        async def initial_observation(self) -> Observation:
            return Observation([{"role": "user", "content": "heads?"}])

        async def step(self, reply: Reply) -> StepResult:
            return StepResult(float(len(reply.text) % 2), metrics={"length": len(reply.text), "not a name": 1.0})

    class Coins(EnvGroupBuilder):
        task, num_envs = Task("coin", []), 4

        async def make_envs(self, frozen: Any = None) -> list[Env]:
            return [Coin() for _ in range(4)]

    class Builder(RLDatasetBuilder):
        async def __call__(self) -> RLDatasets:
            return RLDatasets(RLDataset([Coins()], 1))

    class CoinRL(RL):
        name = "coin_rl"

        def dataset_builder(self, ctx: Any) -> RLDatasetBuilder:
            return Builder()

    algorithms.register("coin_rl")(CoinRL)
    try:
        result = run(config("coin_rl", **PARAMS | {"num_epochs": 2}), tmp_path, rows=[])
    finally:
        algorithms._items.pop("coin_rl")
    assert result.status == "completed", result.error
    metrics = [row["metrics"] for row in read_metrics(tmp_path / "metrics.jsonl")]
    assert len(metrics) == 2 and metrics[0]["rollout/length"] > 0
    assert not [key for key in metrics[0] if "not a name" in key]


def test_metrics_of_rollouts_by_hand() -> None:
    def rollout(reward: float, group: int, logprobs: list[float], reason: str = "stop") -> Trajectory:
        turn = Turn([1], [2] * len(logprobs), logprobs)
        return Trajectory("t", [turn], reward, group=group, is_correct=reward == 1, stop_reason=reason)

    groups = [[rollout(1, 0, [-1.0, -2.0]), rollout(0, 0, [-3.0], "length")], [rollout(0, 1, [-2.0]), rollout(0, 1, [-2.0])]]
    found = rollout_metrics(groups)
    assert found["reward/mean"] == 0.25 and found["reward/correct"] == 0.25
    assert found["reward/std"] == pytest.approx(np.std([1, 0, 0, 0]))
    assert found["rollout/without_gradient"] == 0.5 and found["rollout/truncated"] == 0.25
    assert found["rollout/entropy"] == 2.0 and found["rollout/completion_tokens"] == 1.25
    assert rollout_metrics([]) == {"reward/n_trajectories": 0.0, "reward/n_groups": 0.0}
