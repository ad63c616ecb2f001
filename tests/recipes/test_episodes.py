"""Groups that are played: what is asked for together, which draws differ, and what an error costs."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from recipes.chat import Reply
from recipes.envs import Env, EnvGroupBuilder, Judge, Observation, ProblemGroupBuilder, RLDataset, StepResult
from recipes.episodes import MAX_TURNS, Played, play
from recipes.errors import BackendError, ConfigError, DataError, ErrorKind
from recipes.rollouts import seed_of
from recipes.types import SamplingParams, Task, Turn
from tests.recipes.test_rollouts import Fake


def task(name: str = "t", answer: Any = 1) -> Task:
    return Task(name, [{"role": "user", "content": f"q-{name}"}], answer=answer)


class Counting(Env):
    """Ends after `turns` replies, each worth 1."""

    def __init__(self, turns: int, fail_at: int | None = None) -> None:
        self.turns, self.fail_at, self.seen = turns, fail_at, 0

    async def initial_observation(self) -> Observation:
        return Observation([{"role": "user", "content": "count"}])

    async def step(self, reply: Reply) -> StepResult:
        self.seen += 1
        if self.seen == self.fail_at:
            raise RuntimeError("a bug in somebody's environment")
        done = self.seen == self.turns
        return StepResult(
            1.0, done, [] if done else [{"role": "user", "content": f"turn {self.seen}"}], metrics={"seen": self.seen}
        )


@dataclass
class CountingGroup(EnvGroupBuilder):
    task: Task
    num_envs: int
    turns: int = 3
    fail_at: dict[int, int] = field(default_factory=dict)
    bonus: float = 0.0

    async def make_envs(self, frozen: Any = None) -> Sequence[Env]:
        return [Counting(self.turns, self.fail_at.get(index)) for index in range(self.num_envs)]

    def compute_group_rewards(self, attempts: Sequence[Any]) -> list[float]:
        return [self.bonus * attempt.attempt for attempt in attempts]


def run(client: Any, *builders: EnvGroupBuilder, seed: int | None = 7, **options: Any) -> Played:
    return asyncio.run(play(builders, client, params=SamplingParams(seed=seed), **options))


def test_a_problem_is_one_request_for_the_whole_group_and_judged_by_its_verifier() -> None:
    client = Fake()
    seed = seed_of(7, "t")
    played = run(client, ProblemGroupBuilder(task(answer=seed + 2), Judge("numeric", {}), 4))
    assert client.calls == [("q-t", seed, 4)]
    (attempts,) = played.attempts_P_G
    assert [attempt.attempt for attempt in attempts] == [0, 1, 2, 3]
    assert [attempt.reward for attempt in attempts] == [0, 0, 1, 0]
    assert attempts[2].is_correct and attempts[2].messages[-1]["content"] == str(seed + 2)
    assert played.tally.num_done == 4


def test_groups_come_back_in_the_order_of_their_builders() -> None:
    names = [f"t{i}" for i in range(20)]
    played = run(Fake(seconds=0.001), *(ProblemGroupBuilder(task(name), Judge("numeric", {}), 2) for name in names))
    assert [group[0].task_id for group in played.attempts_P_G] == names


def test_later_turns_are_each_their_own_draw() -> None:
    client = Fake()
    (attempts,) = run(client, CountingGroup(task(), 2)).attempts_P_G
    assert [attempt.reward for attempt in attempts] == [3.0, 3.0]
    assert client.calls[0][2] == 2 and [call[2] for call in client.calls[1:]] == [1] * 4
    seeds = [call[1] for call in client.calls[1:]]
    assert len({*seeds, client.calls[0][1]}) == 5, "no two draws of one group are the same"
    assert [message["role"] for message in attempts[0].messages] == ["user", "assistant"] * 3
    assert attempts[0].signals == {"seen": 3} and attempts[0].num_tokens == 6


def test_the_same_seed_plays_the_same_and_another_does_not() -> None:
    def said(seed: int | None) -> list[Any]:
        played = run(Fake(), CountingGroup(task(), 2), seed=seed)
        return [attempt.messages for attempt in played.attempts_P_G[0]]

    assert said(7) == said(7) != said(8)
    assert said(None)[0][1]["content"] == "None", "without a seed nothing is fixed"


def test_an_environment_that_raises_costs_its_own_attempt_only() -> None:
    played = run(Fake(), CountingGroup(task(), 3, fail_at={1: 2}, bonus=10))
    (attempts,) = played.attempts_P_G
    assert [attempt.error is None for attempt in attempts] == [True, False, True]
    assert attempts[1].error_kind == ErrorKind.VERIFIER and "a bug in somebody's environment" in str(attempts[1].error)
    assert attempts[1].reward is None
    assert attempts[0].reward == 3.0, "a group that is not whole earns nothing as a group"


def test_a_group_earns_together_once_all_are_over() -> None:
    (attempts,) = run(Fake(), CountingGroup(task(), 3, bonus=10)).attempts_P_G
    assert [attempt.reward for attempt in attempts] == [3, 13, 23]


def test_an_environment_without_an_end_is_an_error_of_its_attempt() -> None:
    (attempts,) = run(Fake(), CountingGroup(task(), 1, turns=10**9)).attempts_P_G
    assert f"not ended after {MAX_TURNS} turns" in str(attempts[0].error) and attempts[0].error_kind == ErrorKind.DATA


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (BackendError("Busy.", permanent=False, kind=ErrorKind.SERVER), ErrorKind.SERVER),
        (DataError("The prompt is too long."), ErrorKind.DATA),
        (BackendError("Refused.", permanent=True, kind=ErrorKind.REQUEST), ErrorKind.REQUEST),
    ],
)
def test_a_reply_that_does_not_come_is_an_error_of_every_attempt_of_its_group(error: Exception, kind: ErrorKind) -> None:
    def fail(text: str, number: int) -> None:
        if text == "q-bad":
            raise error

    judge = Judge("numeric", {})
    bad, good = run(
        Fake(fail), ProblemGroupBuilder(task("bad"), judge, 2), ProblemGroupBuilder(task("good"), judge, 2)
    ).attempts_P_G
    assert [attempt.error_kind for attempt in bad] == [kind] * 2
    assert all(attempt.error is None for attempt in good)


@pytest.mark.parametrize(
    "error",
    [BackendError("The key is refused.", permanent=True, kind=ErrorKind.AUTH), ConfigError("temperature must be 0 or above.")],
)
def test_what_would_only_repeat_ends_it_all(error: Exception) -> None:
    def fail(text: str, number: int) -> None:
        raise error

    with pytest.raises(type(error), match=str(error)):
        run(Fake(fail), *(ProblemGroupBuilder(task(str(i)), Judge("numeric", {}), 2) for i in range(3)))


def test_turns_are_kept_only_where_every_reply_has_its_tokens() -> None:
    class Tokens(Fake):
        def __init__(self, missing: int | None = None) -> None:
            super().__init__()
            self.missing = missing

        async def sample(self, *args: Any, **options: Any) -> list[Reply]:
            replies = await super().sample(*args, **options)
            turn = None if len(self.calls) == self.missing else Turn([1], [2], [-0.5])
            return [Reply(r.text, r.message, r.stop_reason, 1, 1, 0.0, turn) for r in replies]

    assert len(run(Tokens(), CountingGroup(task(), 1)).attempts_P_G[0][0].turns) == 3
    assert run(Tokens(missing=2), CountingGroup(task(), 1)).attempts_P_G[0][0].turns == ()


def test_a_dataset_goes_through_every_group_once_an_epoch_in_a_drawn_order() -> None:
    builders = [CountingGroup(task(str(i)), 1) for i in range(10)]
    dataset = RLDataset(builders, batch_size=4, seed=3)
    assert len(dataset) == 3
    epochs = [[b.task.task_id for index in range(3) for b in dataset.get_batch(3 * epoch + index)] for epoch in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(b.task.task_id for b in builders)
    assert epochs[0] != epochs[1]


def test_a_judge_pickles_as_its_settings_and_opens_when_it_is_used() -> None:
    judge = Judge("numeric", {"absolute_tolerance": 0.5})
    assert asyncio.run(judge.verdict("1.4", task(), [])).is_correct
    again = pickle.loads(pickle.dumps(ProblemGroupBuilder(task(), judge, 2)))
    assert not asyncio.run(again.judge.verdict("1.6", task(), [])).is_correct
    with pytest.raises(ConfigError, match="no verifier 'nope'"):
        _ = Judge("nope", {}).verifier
