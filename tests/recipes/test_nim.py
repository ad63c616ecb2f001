"""Nim: who wins, what a move that is none costs, and that both seats of a game are played."""

from __future__ import annotations

import asyncio
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from recipes.chat import Reply
from recipes.episodes import play
from recipes.errors import BackendError, DataError
from recipes.nim import NimAgainstFrozenGroupBuilder, NimGroupBuilder, heaps_of
from recipes.rollouts import AttemptResult
from recipes.types import SamplingParams, Task


class Player:
    """A chat client that replies by a function of the conversation."""

    concurrency = 64

    def __init__(self, move: Callable[[Sequence[Any]], str]) -> None:
        self.move = move
        self.seen: list[list[Any]] = []

    async def sample(
        self, messages: Sequence[Any], params: SamplingParams, num_samples: int = 1, *, tools: Any = None
    ) -> list[Reply]:
        self.seen.append(list(messages))
        await asyncio.sleep(0)
        text = self.move(messages)
        return [Reply(text, {"role": "assistant", "content": text}, "stop", 3, 2, 0.1) for _ in range(num_samples)]

    async def close(self) -> None: ...


def one_from_the_first_heap(messages: Sequence[Any]) -> str:
    heaps = messages[-1]["content"].rpartition("Heaps: ")[2].split(", ")
    name = next(heap.split()[0] for heap in heaps if heap.split()[1] != "0")
    return f"take 1 from {name}"


def task(*heaps: int) -> Task:
    return Task("n", [{"role": "user", "content": "Play."}], metadata={"heaps": list(heaps)})


def outcome(builder: Any, client: Player, frozen: Player | None = None) -> list[AttemptResult]:
    played = asyncio.run(play([builder], client, params=SamplingParams(seed=1), frozen=frozen))
    return played.attempts_P_G[0]


@pytest.mark.parametrize(("heaps", "winner"), [((1,), 0), ((2,), 1), ((1, 1), 1), ((1, 1, 1), 0), ((2, 3), 0)])
def test_who_takes_the_last_object_wins_and_the_other_loses(heaps: tuple[int, ...], winner: int) -> None:
    attempts = outcome(NimGroupBuilder(task(*heaps), 2), Player(one_from_the_first_heap))
    rewards = [attempt.reward for attempt in attempts]
    assert rewards == ([1.0, -1.0] if winner == 0 else [-1.0, 1.0])
    assert [attempt.is_correct for attempt in attempts] == [winner == 0, winner == 1]
    assert sum(attempt.num_tokens for attempt in attempts) == 2 * sum(heaps)


def test_a_group_of_four_is_two_games_and_each_sees_the_moves_of_the_other() -> None:
    attempts = outcome(NimGroupBuilder(task(3), 4), Player(one_from_the_first_heap))
    assert [attempt.reward for attempt in attempts] == [1, -1, 1, -1]
    second = attempts[1].messages
    assert (
        second[0]["content"].startswith("Play.\n\nNim:")
        and "The other player: take 1 from A.\nHeaps: A 2" in second[0]["content"]
    )
    assert [message["role"] for message in second] == ["user", "assistant"]


@pytest.mark.parametrize("said", ["", "I pass", "take 0 from A", "take 9 from A", "take 1 from B", "take 1 from J"])
def test_a_move_that_is_none_loses_at_once_and_the_other_never_moves(said: str) -> None:
    first, second = outcome(NimGroupBuilder(task(5), 2), Player(lambda messages: said))
    assert (first.reward, second.reward) == (-1.0, 1.0)
    assert first.signals["illegal_move"] == 1 and second.signals["illegal_move"] == 0
    assert second.num_tokens == 0 and second.error is None and second.turns == ()


def test_the_last_move_that_a_reply_names_counts() -> None:
    attempts = outcome(NimGroupBuilder(task(2), 2), Player(lambda messages: "If I take 1 from A I lose, so: TAKE 2 from heap A"))
    assert attempts[0].reward == 1


def test_against_the_frozen_model_every_other_attempt_lets_it_begin() -> None:
    policy, frozen = Player(lambda messages: "take 2 from A"), Player(lambda messages: "take 1 from A")
    attempts = outcome(NimAgainstFrozenGroupBuilder(task(2), 4), policy, frozen)
    assert [attempt.reward for attempt in attempts] == [1.0, -1.0, 1.0, -1.0]
    assert attempts[1].messages[0]["content"].endswith("Heaps: A 1")
    assert len(frozen.seen) == 2 and all("assistant" not in {m["role"] for m in seen} for seen in frozen.seen)


def test_a_failure_of_one_side_ends_the_game_for_both_instead_of_waiting_for_ever() -> None:
    def fail(messages: Sequence[Any]) -> str:
        if "The other player" in messages[-1]["content"]:
            raise BackendError("The server is gone.", permanent=False)
        return "take 1 from A"

    async def bounded() -> Any:
        return await asyncio.wait_for(play([NimGroupBuilder(task(5), 2)], Player(fail), params=SamplingParams(seed=1)), 60)

    played = asyncio.run(bounded())
    assert [attempt.error for attempt in played.attempts_P_G[0]] == ["The server is gone."] * 2
    assert played.tally.num_errors == 2


@pytest.mark.parametrize("metadata", [{}, {"heaps": []}, {"heaps": [0]}, {"heaps": [True]}, {"heaps": [31]}, {"heaps": "3"}])
def test_a_task_without_a_position_is_refused(metadata: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="'n' has no position") as caught:
        heaps_of(Task("n", [], metadata=metadata))
    assert caught.value.field == "metadata.heaps"


def test_a_builder_can_be_pickled() -> None:
    builder = pickle.loads(pickle.dumps(NimGroupBuilder(task(1), 2)))
    assert len(asyncio.run(builder.make_envs())) == 2
