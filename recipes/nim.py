"""Nim, a game of two: take any number of objects from one heap; who takes the last object of all wins.

The envs of a group come in pairs that play each other, both sides sampled from the policy, or each plays a game of its own
against the frozen model. Rewards are 1 for the winner and −1 for the loser; a move that is none loses.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from recipes.chat import Reply
from recipes.envs import Env, EnvGroupBuilder, FrozenPolicy, Observation, StepResult, with_system
from recipes.errors import DataError
from recipes.types import Task

MAX_HEAPS = 10
MAX_HEAP = 30
RULES = (
    "Nim: two players take turns. In your turn take one or more objects from a single heap. Whoever takes the last object of all"
    " wins. Reply with your move in the form: take 2 from A"
)
_MOVE = re.compile(r"take\s+(\d{1,3})\s+from\s+(?:heap\s+)?([A-J])\b", re.IGNORECASE)


def heaps_of(task: Task) -> list[int]:
    """The starting position in the task's metadata. Raises DataError."""
    heaps = task.metadata.get("heaps")
    if (
        not isinstance(heaps, list)
        or not 1 <= len(heaps) <= MAX_HEAPS
        or not all(isinstance(size, int) and not isinstance(size, bool) and 1 <= size <= MAX_HEAP for size in heaps)
    ):
        raise DataError(
            f"The task {task.task_id!r} has no position to play from: give metadata.heaps, a list of 1 to {MAX_HEAPS} heaps with"
            f" 1 to {MAX_HEAP} objects each.",
            field="metadata.heaps",
        )
    return list(heaps)


class NimGame:
    """One game. `winner` is the seat, 0 or 1, once it is over; seat 0 moves first."""

    def __init__(self, heaps: Sequence[int]) -> None:
        self.heaps = list(heaps)
        self.to_move = 0
        self.winner: int | None = None
        self.ended_by_mistake = False
        self.last_move = ""
        self._moved = asyncio.Condition()

    async def wait_for_turn(self, seat: int) -> None:
        """Until it is this seat's turn, or all is over."""
        async with self._moved:
            await self._moved.wait_for(lambda: self.to_move == seat or self.winner is not None)

    async def move(self, text: str) -> None:
        """The move of whoever's turn it is; the last one that the text names counts."""
        async with self._moved:
            seat, other = self.to_move, 1 - self.to_move
            found = _MOVE.findall(text)
            count, heap = (int(found[-1][0]), ord(found[-1][1].upper()) - ord("A")) if found else (0, 0)
            if heap >= len(self.heaps) or not 1 <= count <= self.heaps[heap]:
                self.winner, self.ended_by_mistake = other, True
            else:
                self.heaps[heap] -= count
                self.last_move = f"take {count} from {chr(ord('A') + heap)}"
                if not any(self.heaps):
                    self.winner = seat
            self.to_move = other
            self._moved.notify_all()

    def position(self) -> str:
        heaps = ", ".join(f"{chr(ord('A') + index)} {size}" for index, size in enumerate(self.heaps))
        return f"The other player: {self.last_move}.\nHeaps: {heaps}" if self.last_move else f"Heaps: {heaps}"


class NimEnv(Env):
    """One seat of a game. With `frozen`, the other seat is played by the frozen model."""

    def __init__(
        self,
        task: Task,
        game: NimGame,
        seat: int,
        *,
        frozen: FrozenPolicy | None = None,
        draw: int = 0,
        system_prompt: str | None,
    ) -> None:
        self._opening = with_system(task.messages, system_prompt)
        self._game = game
        self._seat = seat
        self._frozen = frozen
        self._draw = draw
        self._num_frozen_moves = 0
        self._others_conversation: list[dict[str, Any]] = []

    async def initial_observation(self) -> Observation | StepResult:
        await self._let_the_other_move()
        if self._game.winner is not None:
            return self._end()
        return Observation(self._opened())

    async def step(self, reply: Reply) -> StepResult:
        await self._game.move(reply.text)
        if self._game.winner is None:
            await self._let_the_other_move()
        if self._game.winner is not None:
            return self._end()
        return StepResult(episode_done=False, answers=[{"role": "user", "content": self._game.position()}])

    async def _let_the_other_move(self) -> None:
        if self._frozen is None:
            return await self._game.wait_for_turn(self._seat)
        if self._game.to_move == self._seat:
            return None
        said = self._others_conversation
        said += [{"role": "user", "content": self._game.position()}] if said else self._opened()
        reply = await self._frozen(said, 64 * self._draw + self._num_frozen_moves)
        self._num_frozen_moves += 1
        said.append(reply.message)
        await self._game.move(reply.text)

    def _opened(self) -> list[dict[str, Any]]:
        """The task's conversation with rules and position behind its last message: two of one role in a row are not for every
        chat template."""
        *before, last = self._opening
        return [*before, {**last, "content": f"{last.get('content') or ''}\n\n{RULES}\n\n{self._game.position()}".strip()}]

    def _end(self) -> StepResult:
        won = self._game.winner == self._seat
        mistaken = self._game.ended_by_mistake and not won
        return StepResult(
            1.0 if won else -1.0,
            is_correct=won,
            info={"won": won, "ended_by": "a move that is none" if self._game.ended_by_mistake else "the last object"},
            metrics={"illegal_move": float(mistaken)},
        )


@dataclass
class NimGroupBuilder(EnvGroupBuilder):
    """Games from one position. Envs 2i and 2i + 1 are the two seats of one game."""

    task: Task
    num_envs: int
    system_prompt: str | None = None
    plays_together: ClassVar[bool] = True

    async def make_envs(self, frozen: FrozenPolicy | None = None) -> Sequence[Env]:
        """Raises DataError for a task without a position, or an odd number of envs."""
        if self.num_envs % 2:
            raise DataError(f"A group of {self.num_envs} cannot play in pairs: an even number of attempts is needed.")
        games = [NimGame(heaps_of(self.task)) for _ in range(self.num_envs // 2)]
        return [NimEnv(self.task, game, seat, system_prompt=self.system_prompt) for game in games for seat in (0, 1)]


@dataclass
class NimAgainstFrozenGroupBuilder(EnvGroupBuilder):
    """Games from one position against the frozen model; every other env lets it begin."""

    task: Task
    num_envs: int
    system_prompt: str | None = None
    needs_frozen: ClassVar[bool] = True

    async def make_envs(self, frozen: FrozenPolicy | None = None) -> Sequence[Env]:
        """Raises DataError for a task without a position."""
        assert frozen is not None
        return [
            NimEnv(self.task, NimGame(heaps_of(self.task)), draw % 2, frozen=frozen, draw=draw, system_prompt=self.system_prompt)
            for draw in range(self.num_envs)
        ]
