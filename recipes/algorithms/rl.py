"""Reinforcement learning with verifiable rewards: sample groups, reinforce what did better than its group.

1. The advantage is the reward minus the group's mean; dividing by its spread is a choice, and nothing is divided by length.
2. There is no reference model, hence no KL term: drift from the sampler is measured, not penalised.
3. A group in which every reward is equal teaches nothing. It is dropped, counted, and still in the reward metrics.
4. Every step samples from the weights as they are and updates once: the ratio of a policy loss leaves 1 only by what sampler and
   trainer compute differently: ppo, cispo and dro hold back little. top-p and top-k are off, which would falsify it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from time import perf_counter
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, model_validator

from recipes import losses
from recipes.algorithms.base import BaseAlgorithm
from recipes.algorithms.rewarded import RewardedConfig
from recipes.calculator import CalculatorGroupBuilder
from recipes.chat import ChatClient, LocalChat
from recipes.config import knob, validated
from recipes.envs import EnvGroupBuilder, Judge, ProblemGroupBuilder, RLDataset, RLDatasetBuilder, RLDatasets
from recipes.episodes import Played, play
from recipes.errors import BackendError, DataError
from recipes.nim import NimAgainstFrozenGroupBuilder, NimGroupBuilder, heaps_of
from recipes.protocols import Backend, Evaluator, SamplingClient
from recipes.registry import register_algorithm, verifiers
from recipes.rendering import with_renderer
from recipes.rollout_log import RolloutsFile
from recipes.rollouts import AttemptResult
from recipes.rounds import Rounds
from recipes.row_order import split_off
from recipes.rows import RowFormat, parse
from recipes.token_use import Range, TokenUse
from recipes.trajectories import anchored, check_logprobs, datums_of, drift, group_advantages, is_constant
from recipes.types import (
    Datum,
    ForwardBackwardResult,
    Headline,
    Metrics,
    Row,
    RunContext,
    SamplingParams,
    StopReason,
    Task,
    TrainingBatch,
    Trajectory,
)
from recipes.verifiers import check_tasks

ROLLOUT_SEED, HELD_OUT_SEED = 2, 3
"""Keep the draws of training and of held-out attempts apart, and both from the shuffles."""


class Environment(StrEnum):
    PROBLEM = "problem"
    CALCULATOR = "calculator"
    NIM = "nim"
    NIM_AGAINST_FROZEN = "nim_against_frozen"


class PolicyLoss(StrEnum):
    IMPORTANCE_SAMPLING = "importance_sampling"
    PPO = "ppo"
    CISPO = "cispo"
    DRO = "dro"


class RLConfig(RewardedConfig):
    environment: Environment = knob(
        Environment.PROBLEM,
        "What the model acts in: a problem with one reply; the same with a calculator to call; or Nim, from metadata.heaps, where"
        " the attempts of a group play each other, or the untrained base model.",
        essential=True,
    )
    max_turns: int = knob(4, "Longest conversation with a calculator.", unit="turns", ge=1, le=64)
    loss: PolicyLoss = knob(PolicyLoss.IMPORTANCE_SAMPLING, "The policy loss; see recipes/losses.py for the formulas.")
    clip_low_threshold: float | None = knob(
        None, "Lowest ratio that ppo and cispo let through; empty takes the loss's own.", ge=0, le=1
    )
    clip_high_threshold: float | None = knob(
        None, "Highest ratio that ppo and cispo let through; empty takes the loss's own.", ge=1, le=1000
    )
    beta: float | None = knob(
        None, "How strongly dro draws each token back to the sampler's probability; empty takes the loss's own.", ge=0, le=1000
    )
    drop_constant_reward: bool = knob(True, "Leave out groups in which every attempt earned the same.")

    @model_validator(mode="after")
    def _parts_fit(self) -> RLConfig:
        if self.drop_constant_reward and self.num_samples < 2:
            raise ValueError(
                "num_samples must be at least 2 while drop_constant_reward is on: a lone attempt is a constant group, so that"
                " nothing would ever be trained"
            )
        if self.environment is Environment.NIM and self.num_samples % 2:
            raise ValueError(f"num_samples must be even for nim, whose attempts play each other in pairs, not {self.num_samples}")
        losses.settings_of(losses.get(self.loss), self.loss_settings())
        return self

    def switched_off(self) -> dict[str, str]:
        found = super().switched_off()
        if self.environment is not Environment.CALCULATOR:
            found["max_turns"] = f"in the environment {self.environment}"
        if self.environment in (Environment.NIM, Environment.NIM_AGAINST_FROZEN):
            found |= dict.fromkeys(("verifier_name", "verifier_params"), "in a game, which knows who has won")
        return found

    def token_use(self, row: Range, trained: Range, reply: Range | None) -> TokenUse | None:
        """Groups that are dropped train nothing. How long a game is, nobody can tell."""
        if self.environment not in (Environment.PROBLEM, Environment.CALCULATOR):
            return None
        turns = self.max_turns if self.environment is Environment.CALCULATOR else 1
        use = self.use_of_attempts(row, reply or Range(1, turns * self.max_tokens), turns=turns)
        return use._replace(train=Range(0, use.train.high)) if self.drop_constant_reward else use

    def loss_settings(self) -> dict[str, float]:
        """What was set of the loss's own settings."""
        names = ("clip_low_threshold", "clip_high_threshold", "beta")
        return {name: value for name in names if (value := getattr(self, name)) is not None}


@dataclass(frozen=True)
class TaskDatasetBuilder(RLDatasetBuilder):
    """Groups of the given environments, one per task. held_out: tasks that are measured, never trained on."""

    tasks: Sequence[Task]
    held_out: Sequence[Task]
    settings: RLConfig
    judges: dict[str, Judge] = field(default_factory=dict)
    """One for each verifier that is used; filled as tasks name them."""

    async def __call__(self) -> RLDatasets:
        """Raises DataError for a task that cannot be played, ConfigError for a verifier of its own that does not exist."""
        settings = self.settings
        refuse_doubles(self.tasks)
        train = [self._builder(task, settings.num_samples) for task in self.tasks]
        held_out = [self._builder(task, settings.validation_samples, measures=True) for task in self.held_out]
        return RLDatasets(
            RLDataset(train, settings.batch_size, settings.seed), RLDataset(held_out, len(held_out)) if held_out else None
        )

    def _builder(self, task: Task, num_envs: int, *, measures: bool = False) -> EnvGroupBuilder:
        settings = self.settings
        if settings.environment in (Environment.NIM, Environment.NIM_AGAINST_FROZEN):
            heaps_of(task)
            # In a game against itself a model wins half of the time, however good it is.
            measured = measures or settings.environment is Environment.NIM_AGAINST_FROZEN
            return (NimAgainstFrozenGroupBuilder if measured else NimGroupBuilder)(task, num_envs, settings.system_prompt)
        judge = judge_of(task, settings, self.judges)
        if settings.environment is Environment.CALCULATOR:
            return CalculatorGroupBuilder(task, judge, num_envs, settings.max_turns, settings.system_prompt)
        return ProblemGroupBuilder(task, judge, num_envs, settings.system_prompt)


@register_algorithm("rl")
class RL(BaseAlgorithm):
    """Rows are tasks. The seam for other environments: override `dataset_builder`."""

    name: ClassVar[str] = "rl"
    summary: ClassVar[str] = "Reinforcement learning: the model tries each task several times and learns from what was rewarded."
    Config: ClassVar[type[BaseModel]] = RLConfig
    row_format: ClassVar[RowFormat | None] = RowFormat.TASK
    headline: ClassVar[Headline] = Headline("reward/mean", "Reward")
    gives_rollouts: ClassVar[bool] = True

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.callbacks.append(RolloutsFile(self.cfg.rollouts_kept))
        self._loss_settings = losses.settings_of(losses.get(self.cfg.loss), self.cfg.loss_settings())
        self._judges: dict[str, Judge] = {}
        self._train_rows: list[Row] = []
        self._told_of_errors = False

    def dataset_builder(self, ctx: RunContext) -> RLDatasetBuilder:
        """What is played. Raises DataError for rows that are no tasks."""
        rows = list(ctx.extras.get("train_rows", []))
        held_out = ctx.extras.get("validation_rows")
        if held_out is None:
            rows, held_out = split_off(rows, self.cfg.validation_fraction, self.cfg.seed) if rows else ([], [])
            if self.cfg.validation_fraction and not held_out:
                self.report("warning", f"{len(rows)} tasks are too few to hold out {self.cfg.validation_fraction:.0%} of them.")
        if not rows:
            raise DataError("There are no tasks to train on. Choose a dataset with at least one task.")
        self._train_rows = rows
        return TaskDatasetBuilder(tasks_of(rows), tasks_of(held_out), self.cfg, self._judges)

    async def setup(self, ctx: RunContext, backend: Backend) -> None:
        """Make the groups. Raises DataError for a task that cannot be played."""
        self._backend = backend
        self._tokenizer = with_renderer(backend.get_tokenizer(), self.cfg.renderer_name)
        self._groups, self._held_out = await self.dataset_builder(ctx)()
        self._steps_per_epoch = len(self._groups)
        played = [*self._groups.builders, *(self._held_out.builders if self._held_out else ())]
        needs_frozen = any(builder.needs_frozen for builder in played)
        self._frozen = self.chat(await backend.reference_sampling_client()) if needs_frozen else None
        num_held_out = len(self._held_out.builders) if self._held_out else 0
        self.report(
            "info",
            f"Training on {len(self._groups.builders):,} tasks with {self.cfg.num_samples} attempts each;"
            f" {num_held_out:,} tasks are held out.",
        )

    async def teardown(self) -> None:
        for judge in self._judges.values():
            await judge.close()

    def train_rows(self, ctx: RunContext) -> Sequence[Row]:
        return self._train_rows

    async def build_batch(self, step_index: int) -> TrainingBatch:
        """The rollouts of a step, and the datums of those that teach something. Raises BackendError for a sampler that gives no
        log-probabilities."""
        began = perf_counter()
        client = self.chat(await self._backend.snapshot_sampling_client(f"rl_{step_index + 1}"))
        played = await self.play(self._groups.get_batch(step_index), client, (ROLLOUT_SEED, step_index))
        groups = [group for attempts in played.attempts_P_G if (group := _trajectories(attempts, self.cfg.divide_by_std))]
        for index, group in enumerate(groups):
            for trajectory in group:
                trajectory.group = index
        rollouts = [trajectory for group in groups for trajectory in group]
        metrics = rollout_metrics(groups) | {"rollout/errors": float(played.tally.num_errors)}
        metrics["time/rollouts"] = perf_counter() - began
        self._tell_of_errors(step_index + 1, played)
        if (data := self._datums(groups)) and losses.get(self.cfg.loss).gate is None:
            data = await anchored(data, self._backend, loss=self.cfg.loss, settings=self._loss_settings)
        return TrainingBatch(data, str(self.cfg.loss), self._loss_settings or None, metrics, rollouts)

    def step_metrics(self, step_index: int, batch: TrainingBatch, fb_result: ForwardBackwardResult) -> Metrics:
        low = self._loss_settings.get("clip_low_threshold", 0.0)
        high = self._loss_settings.get("clip_high_threshold", float("inf"))
        return drift(batch.data, fb_result, low=low, high=high)

    def evaluators(self, ctx: RunContext) -> Sequence[Evaluator]:
        if self._held_out is None:
            return ()
        return (HeldOutReward(self, self._held_out, run_every=self.cfg.validation_every or self._steps_per_epoch),)

    async def play(self, builders: Sequence[EnvGroupBuilder], client: ChatClient, draw: tuple[int, ...]) -> Played:
        """Every group once. The seed of its attempts follows from the run's and `draw`: a step that is made again is the same."""
        seed = int(np.random.SeedSequence([self.cfg.seed, *draw]).generate_state(1)[0]) % 2**31
        params = SamplingParams(max_tokens=self.cfg.max_tokens, temperature=self.cfg.temperature, seed=seed)
        return await play(builders, client, params=params, frozen=self._frozen)

    def chat(self, sampler: SamplingClient) -> ChatClient:
        """In rounds where the backend can repeat itself to the bit; elsewhere nobody waits for the slowest."""
        client = LocalChat(sampler, self._tokenizer, enable_thinking=self.cfg.enable_thinking)
        return Rounds(client) if getattr(self._backend, "repeats_exactly", False) else client

    def _datums(self, groups: Sequence[Sequence[Trajectory]]) -> list[Datum]:
        for trajectory in (each for group in groups for each in group):
            for turn in trajectory.turns:
                check_logprobs(turn, trajectory.task_id)
        dropped = self.cfg.drop_constant_reward
        kept = [group for group in groups if not (dropped and is_constant([each.reward for each in group]))]
        return [datum for group in kept for trajectory in group for datum in datums_of(trajectory)]

    def _tell_of_errors(self, step: int, played: Played) -> None:
        """Once, and then again when the number of them is worth a look in `rollout/errors`."""
        if not played.tally.num_errors or self._told_of_errors:
            return
        self._told_of_errors = True
        first = next(attempt.error for group in played.attempts_P_G for attempt in group if attempt.error)
        self.report(
            "warning",
            f"{played.tally.num_errors:,} attempts of step {step} could not be sampled or judged and are left out. The first:"
            f" {first} Later ones are counted in rollout/errors.",
        )


class HeldOutReward:
    """Reward of the held-out tasks under the snapshot of a step; the same draws each time."""

    name = "validation"
    needs_sampler = True

    def __init__(self, algorithm: RL, dataset: RLDataset, *, run_every: int) -> None:
        self.run_every = run_every
        self._algorithm = algorithm
        self._builders = dataset.builders

    async def evaluate(self, backend: Backend, sampler: SamplingClient | None, *, step: int) -> Mapping[str, float]:
        """Means over tasks of the means over their attempts. Raises BackendError when no attempt could be made."""
        assert sampler is not None
        played = await self._algorithm.play(self._builders, self._algorithm.chat(sampler), (HELD_OUT_SEED,))
        groups = [group for attempts in played.attempts_P_G if (group := _judged(attempts))]
        if not groups:
            raise BackendError("No held-out attempt could be sampled and judged.", permanent=False)
        found = {"eval/validation_reward": _mean_over_groups(groups, lambda attempt: attempt.reward)}
        found["eval/validation_correct"] = _mean_over_groups(groups, lambda attempt: float(bool(attempt.is_correct)))
        return found | {"eval/validation_errors": float(played.tally.num_errors)}


def judge_of(task: Task, settings: RewardedConfig, judges: dict[str, Judge]) -> Judge:
    """The task's own verifier, by name or as {kind, params}, or the run's; kept in `judges`. Raises DataError for one that cannot
    judge the task."""
    own = task.metadata.get("verifier")
    kind: Any = settings.verifier_name
    params: Any = settings.verifier_params
    if own is not None:
        kind, params = (own.get("kind"), own.get("params") or {}) if isinstance(own, dict) else (own, {})
    if not isinstance(kind, str) or not isinstance(params, dict):
        raise DataError(
            f"The task {task.task_id!r} has a verifier that is neither a name nor {{kind, params}}.", field="verifier"
        )
    key = json.dumps([kind, params], sort_keys=True, default=str)
    if key not in judges:
        validated(verifiers.get(kind).Config, params, ("verifier", "params"))
        if verifiers.get(kind).asks_service:
            raise DataError(f"The task {task.task_id!r} has the verifier {kind}, which asks a service.", field="verifier")
        judges[key] = Judge(kind, params)
    judge = judges[key]
    if misfits := check_tasks([task], judge.verifier):
        raise DataError(f"The verifier {kind} cannot judge the task {task.task_id!r}: {misfits[0].message}.", field="answer")
    return judge


def rollout_metrics(groups: Sequence[Sequence[Trajectory]]) -> Metrics:
    """Of all attempts with a reward, those of constant groups too.

    rollout/without_gradient: share of groups in which every reward is equal. rollout/entropy: mean of −log q over the tokens
    said, an unbiased estimate of the sampler's entropy. rollout/truncated: share of attempts cut off at max_tokens. Signals of
    verifiers and environments are means under their own names.
    """
    rollouts = [trajectory for group in groups for trajectory in group]
    if not rollouts:
        return {"reward/n_trajectories": 0.0, "reward/n_groups": 0.0}
    rewards = np.array([each.reward for each in rollouts])
    logprobs = np.array([logprob for each in rollouts for turn in each.turns for logprob in turn.logprobs])
    own = {
        "reward/mean": rewards.mean(),
        "reward/std": rewards.std(),
        "reward/correct": np.mean([bool(each.is_correct) for each in rollouts]),
        "reward/n_trajectories": len(rollouts),
        "reward/n_groups": len(groups),
        "rollout/without_gradient": np.mean([is_constant([each.reward for each in group]) for group in groups]),
        "rollout/entropy": -logprobs.mean() if len(logprobs) else 0.0,
        "rollout/completion_tokens": np.mean([each.num_tokens for each in rollouts]),
        "rollout/truncated": np.mean([each.stop_reason == StopReason.LENGTH for each in rollouts]),
        "rollout/turns": np.mean([len(each.turns) for each in rollouts]),
    }
    names = {name for each in rollouts for name in each.metrics if name.isidentifier()}
    signals = {f"rollout/{name}": np.mean([each.metrics[name] for each in rollouts if name in each.metrics]) for name in names}
    return {key: float(value) for key, value in (signals | own).items()}


def tasks_of(rows: Sequence[Row]) -> list[Task]:
    return [Task.of(parse(row, RowFormat.TASK, line=number, place="row")) for number, row in enumerate(rows, 1)]


def refuse_doubles(tasks: Sequence[Task]) -> None:
    seen: set[str] = set()
    for task in tasks:
        if task.task_id in seen:
            raise DataError(f"Two tasks have the id {task.task_id!r}: attempts are told apart by it.", field="task_id")
        seen.add(task.task_id)


def _judged(attempts: Sequence[AttemptResult]) -> list[AttemptResult]:
    return [attempt for attempt in attempts if attempt.error is None]


def _trajectories(attempts: Sequence[AttemptResult], by_std: bool) -> list[Trajectory]:
    """Those of a group that have a reward, with their advantages among themselves. Raises BackendError without token ids."""
    judged = _judged(attempts)
    if bare := next((attempt for attempt in judged if attempt.num_tokens and not attempt.turns), None):
        raise BackendError(
            f"The sampler gave no token ids and log-probabilities for an attempt at task {bare.task_id!r}. Policy gradients need"
            " them: choose a backend that gives them.",
            permanent=True,
        )
    rewards_G = [float(attempt.reward or 0.0) for attempt in judged]
    return [
        Trajectory(
            attempt.task_id,
            list(attempt.turns),
            reward,
            attempt.signals,
            attempt.messages,
            attempt=attempt.attempt,
            advantage=float(advantage),
            is_correct=attempt.is_correct,
            stop_reason=attempt.stop_reason,
        )
        for attempt, reward, advantage in zip(judged, rewards_G, group_advantages(rewards_G, by_std=by_std), strict=True)
    ]


def _mean_over_groups(groups: Sequence[Sequence[AttemptResult]], of: Callable[[AttemptResult], float | None]) -> float:
    return float(np.mean([np.mean([of(attempt) or 0.0 for attempt in group]) for group in groups]))
