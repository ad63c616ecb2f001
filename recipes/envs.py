"""Environments: what a policy acts in. The shape is tinker-cookbook's, one level up: replies are messages, not tokens.

- Env: one attempt. It is used once and thrown away; there is no reset.
- EnvGroupBuilder: makes the envs of one group, which share a task, or play against each other. Configuration: it can be pickled.
- RLDataset: batches of builders. RLDatasetBuilder: configuration that makes one to train on and one to measure on.

`recipes.episodes` plays groups; the given environments are ProblemEnv here, `recipes.calculator` and `recipes.nim`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from recipes.chat import Message, Reply
from recipes.registry import verifiers
from recipes.rollouts import AttemptResult, verdict_of
from recipes.row_order import num_batches, rows_of_step
from recipes.types import Metrics, Task
from recipes.verifiers import Verdict, Verifier

FrozenPolicy = Callable[[Sequence[Message], int], Awaitable[Reply]]
"""frozen(messages, draw) -> a reply of the model as it was before training; other draws, other replies."""


class Observation(NamedTuple):
    """The conversation that waits for the policy's reply, and what it may call."""

    messages: list[dict[str, Any]]
    tools: list[Any] = []


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a reply led to. `answers`: messages that the environment adds before the next turn. The rewards of all steps of an
    attempt add up; the last step's is_correct and info stand."""

    reward: float = 0.0
    episode_done: bool = True
    answers: list[dict[str, Any]] = field(default_factory=list)
    is_correct: bool | None = None
    info: dict[str, Any] = field(default_factory=dict)
    metrics: Metrics = field(default_factory=dict)


class Env(ABC):
    """One attempt: `initial_observation` once, then `step` after each reply until the episode is done."""

    @abstractmethod
    async def initial_observation(self) -> Observation | StepResult:
        """What the policy sees first; a StepResult when all is over before its first turn."""

    @abstractmethod
    async def step(self, reply: Reply) -> StepResult:
        """Whatever it raises is an error of this attempt, never a reward."""


class EnvGroupBuilder(ABC):
    """Makes the envs of one group. `task` names what they share; `num_envs` is the size of the group."""

    task: Task
    num_envs: int
    needs_frozen: ClassVar[bool] = False
    """Its envs ask the frozen model as well."""
    plays_together: ClassVar[bool] = False
    """Its envs wait for each other's turns: where one fails, the whole group does."""

    @abstractmethod
    async def make_envs(self, frozen: FrozenPolicy | None = None) -> Sequence[Env]:
        """`num_envs` new envs. `frozen` is given to builders that need it."""

    def compute_group_rewards(self, attempts: Sequence[AttemptResult]) -> list[float]:
        """What each attempt earns besides the rewards of its steps, once all of the group are over."""
        return [0.0] * len(attempts)


@dataclass(frozen=True, slots=True)
class RLDataset:
    """Groups in batches: `get_batch` counts on through the epochs, each with an order of its own; len() is that of one epoch."""

    builders: Sequence[EnvGroupBuilder]
    batch_size: int
    seed: int = 0

    def __len__(self) -> int:
        return num_batches(len(self.builders), self.batch_size)

    def get_batch(self, index: int) -> list[EnvGroupBuilder]:
        chosen = rows_of_step(index, num_rows=len(self.builders), batch_size=self.batch_size, seed=self.seed)
        return [self.builders[row] for row in chosen]


class RLDatasets(NamedTuple):
    train: RLDataset
    held_out: RLDataset | None = None


class RLDatasetBuilder(ABC):
    """Configuration that makes the groups of a run."""

    @abstractmethod
    async def __call__(self) -> RLDatasets:
        """Raises DataError for tasks that cannot be played."""


class Judge:
    """A verifier by kind and settings, opened at its first use and shared by its envs. Pickles as kind and settings."""

    def __init__(self, kind: str, params: dict[str, Any]) -> None:
        self.kind = kind
        self.params = params
        self._verifier: Verifier | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return Judge, (self.kind, self.params)

    @property
    def verifier(self) -> Verifier:
        """Raises ConfigError for a kind that does not exist or settings that it does not take."""
        if self._verifier is None:
            verifier: Verifier = verifiers.get(self.kind)(**self.params)
            verifier.open({})
            self._verifier = verifier
        return self._verifier

    async def verdict(self, text: str, task: Task, messages: list[dict[str, Any]]) -> Verdict:
        """Raises VerifierError, and whatever the verifier raises."""
        return await verdict_of(self.verifier, text, task, messages)

    async def close(self) -> None:
        """Give back what the verifier opened; its next use opens it again."""
        if self._verifier is not None:
            await self._verifier.close()


class ProblemEnv(Env):
    """One reply, judged by a verifier."""

    def __init__(self, task: Task, judge: Judge, system_prompt: str | None = None) -> None:
        self._task = task
        self._judge = judge
        self._messages = with_system(task.messages, system_prompt)

    async def initial_observation(self) -> Observation:
        return Observation(self._messages, self._task.tools)

    async def step(self, reply: Reply) -> StepResult:
        verdict = await self._judge.verdict(reply.text, self._task, [*self._messages, reply.message])
        return StepResult(verdict.reward, is_correct=verdict.is_correct, info=verdict.info, metrics=verdict.signals)


@dataclass
class ProblemGroupBuilder(EnvGroupBuilder):
    """`num_envs` attempts at one problem."""

    task: Task
    judge: Judge
    num_envs: int
    system_prompt: str | None = None

    async def make_envs(self, frozen: FrozenPolicy | None = None) -> Sequence[Env]:
        return [ProblemEnv(self.task, self.judge, self.system_prompt) for _ in range(self.num_envs)]


def with_system(messages: list[dict[str, Any]], system_prompt: str | None) -> list[dict[str, Any]]:
    """The conversation with a system message put first, unless it has one."""
    if system_prompt is None or any(message.get("role") == "system" for message in messages):
        return list(messages)
    return [{"role": "system", "content": system_prompt}, *messages]
