"""Groups of environments, played by a policy: rollouts of one turn or many, in the same flight as `recipes.rollouts.sample`.

The first turn of envs that see the same is one request for all of them, which shares the prompt; later turns are each their own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from recipes.chat import ChatClient, Message, Reply
from recipes.envs import Env, EnvGroupBuilder, FrozenPolicy, Observation, StepResult
from recipes.errors import BackendError, ConfigError, DataError, ErrorKind
from recipes.rollouts import AttemptResult, Flight, Report, Tally, failed, seed_of, would_repeat
from recipes.types import Metrics, SamplingParams, Turn

MAX_TURNS = 64
"""An env that has not ended by then is an error of its attempt."""


class Played(NamedTuple):
    """attempts_P_G: the attempts of each group, in the order of builders and envs."""

    attempts_P_G: list[list[AttemptResult]]
    tally: Tally


async def play(
    builders_P: Sequence[EnvGroupBuilder],
    client: ChatClient,
    *,
    params: SamplingParams,
    frozen: ChatClient | None = None,
    concurrency: int | None = None,
    max_errors_in_a_row: int = 20,
) -> Played:
    """Every group once. Attempt i of a group draws its turn t with a seed made of `params.seed`, the task's id, t and i.

    frozen: the model as it was before training, for builders that need it. Raises as `rollouts.sample` does.
    """
    groups = [_Group(builder) for builder in builders_P]
    limit = concurrency or client.concurrency
    flight = Flight(_Play(client, params, frozen), limit, max(max_errors_in_a_row, 2 * limit), lambda result: None)
    tally = await flight.run(iter(groups), None, 0.0)
    return Played([group.attempts for group in groups], tally)


@dataclass(frozen=True, slots=True)
class _Group:
    builder: EnvGroupBuilder
    attempts: list[AttemptResult] = field(default_factory=list)

    @property
    def num(self) -> int:
        return self.builder.num_envs


@dataclass(slots=True)
class _Episode:
    """One attempt on its way."""

    env: Env
    attempt: int
    messages: list[dict[str, Any]] = field(default_factory=list)
    tools: list[Any] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    reward: float = 0.0
    last: StepResult = field(default_factory=StepResult)
    metrics: Metrics = field(default_factory=dict)

    def begin(self, opening: Observation | StepResult) -> None:
        if isinstance(opening, StepResult):
            self.add(opening)
        else:
            self.messages, self.tools = list(opening.messages), list(opening.tools)
            self.last = StepResult(episode_done=False)

    async def step(self, reply: Reply) -> None:
        self.messages.append(reply.message)
        self.replies.append(reply)
        self.add(await self.env.step(reply))

    def add(self, result: StepResult) -> None:
        self.last = result
        self.reward += result.reward
        self.messages += result.answers
        self.metrics |= result.metrics

    def result(self, task_id: str) -> AttemptResult:
        return AttemptResult(
            task_id,
            self.attempt,
            self.reward,
            self.last.is_correct,
            self.metrics,
            self.last.info,
            self.messages,
            num_prompt_tokens=self.replies[0].num_prompt_tokens if self.replies else 0,
            num_tokens=sum(reply.num_tokens for reply in self.replies),
            seconds=sum(reply.seconds for reply in self.replies),
            stop_reason=self.replies[-1].stop_reason if self.replies else None,
            turns=_turns(self.replies),
        )


@dataclass(frozen=True, slots=True)
class _Play:
    """What is done with one group."""

    client: ChatClient
    params: SamplingParams
    frozen: ChatClient | None

    async def run(self, group: _Group, report: Report) -> None:
        errors: list[BackendError] = []
        builder = group.builder
        try:
            envs = await builder.make_envs(self._frozen_policy(builder) if builder.needs_frozen else None)
            episodes = [_Episode(env, attempt) for attempt, env in enumerate(envs)]
            played = self._together if builder.plays_together else self._apart
            results = await played(builder, episodes, errors)
        except (BackendError, DataError) as error:
            results = [self._failed(builder, attempt, [], error, errors) for attempt in range(builder.num_envs)]
        if all(result.error is None for result in results):
            rewards_G = builder.compute_group_rewards(results)
            results = [
                replace(result, reward=(result.reward or 0.0) + reward) for result, reward in zip(results, rewards_G, strict=True)
            ]
        group.attempts.extend(results)
        for result in results:
            report(result)
        if fatal := next((error for error in errors if would_repeat(error)), None):
            raise fatal

    async def _apart(self, builder: EnvGroupBuilder, episodes: list[_Episode], errors: list[BackendError]) -> list[AttemptResult]:
        """Each on its own; an error is of its attempt alone."""
        openings = [await episode.env.initial_observation() for episode in episodes]
        shared: Sequence[Reply | None] = [None] * len(episodes)
        first = openings[0]
        if isinstance(first, Observation) and all(opening == first for opening in openings):
            shared = await self.client.sample(
                first.messages, self._params(builder, 0, 0), len(episodes), tools=first.tools or None
            )
            if len(shared) != len(episodes):
                raise BackendError(f"{len(episodes)} replies were asked for and {len(shared)} came.", permanent=True)

        async def play(episode: _Episode, opening: Observation | StepResult, reply: Reply | None) -> AttemptResult:
            try:
                episode.begin(opening)
                await self._go_on(builder, episode, reply)
            except Exception as error:  # noqa: BLE001 - somebody's environment: whatever it raises is an error of this attempt
                return self._failed(builder, episode.attempt, episode.messages, error, errors)
            return episode.result(builder.task.task_id)

        return list(await asyncio.gather(*map(play, episodes, openings, shared)))

    async def _together(
        self, builder: EnvGroupBuilder, episodes: list[_Episode], errors: list[BackendError]
    ) -> list[AttemptResult]:
        """They wait for each other, so that the first error ends the group."""

        async def play(episode: _Episode) -> None:
            episode.begin(await episode.env.initial_observation())
            await self._go_on(builder, episode, None)

        try:
            async with asyncio.TaskGroup() as tasks:
                for episode in episodes:
                    tasks.create_task(play(episode))
        except ExceptionGroup as several:
            first = several.exceptions[0]
            return [self._failed(builder, episode.attempt, episode.messages, first, errors) for episode in episodes]
        return [episode.result(builder.task.task_id) for episode in episodes]

    async def _go_on(self, builder: EnvGroupBuilder, episode: _Episode, reply: Reply | None) -> None:
        while not episode.last.episode_done:
            turn = len(episode.replies)
            if turn == MAX_TURNS:
                raise DataError(f"The environment had not ended after {MAX_TURNS} turns.")
            if reply is None:
                params = self._params(builder, turn, episode.attempt)
                (reply,) = await self.client.sample(episode.messages, params, 1, tools=episode.tools or None)
            await episode.step(reply)
            reply = None

    def _params(self, builder: EnvGroupBuilder, turn: int, attempt: int) -> SamplingParams:
        if self.params.seed is None:
            return self.params
        name = builder.task.task_id if turn == 0 else f"{builder.task.task_id}\x1f{turn}"
        return replace(self.params, seed=seed_of(self.params.seed, name) + attempt)

    def _failed(
        self,
        builder: EnvGroupBuilder,
        attempt: int,
        messages: list[dict[str, Any]],
        error: Exception,
        errors: list[BackendError],
    ) -> AttemptResult:
        """An error of the environment itself counts like a verifier's: the attempt could not be judged. Raises a ConfigError."""
        if isinstance(error, ConfigError):
            raise error
        kind = ErrorKind.DATA if isinstance(error, DataError) else ErrorKind.VERIFIER
        if isinstance(error, BackendError):
            errors.append(error)
            kind = error.kind
        return failed(builder.task, attempt, messages or builder.task.messages, error, kind)

    def _frozen_policy(self, builder: EnvGroupBuilder) -> FrozenPolicy:
        client = self.frozen
        if client is None:
            raise BackendError("This environment plays against the frozen model, and none was opened.", permanent=True)

        async def reply(messages: Sequence[Message], draw: int) -> Reply:
            seed = None if self.params.seed is None else seed_of(self.params.seed, f"{builder.task.task_id}\x1ffrozen") + draw
            (said,) = await client.sample(messages, replace(self.params, seed=seed), 1)
            return said

        return reply


def _turns(replies: Sequence[Reply]) -> tuple[Turn, ...]:
    """() unless every reply has its tokens."""
    turns = [reply.turn for reply in replies]
    return tuple(turn for turn in turns if turn is not None) if all(turns) else ()
