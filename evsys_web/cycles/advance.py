"""How a cycle moves: whenever the part it waits for has ended, somebody looks and makes the next one.

Each move is one transaction that begins with `cycle.move()`: it asks that the cycle stands where it was seen, so that of two who
look at once (a message delivered twice, a sweep beside it) one wins and the other does nothing; and the next part is made in that
transaction, so that a process killed at any moment has made either both or none. What takes long, such as publishing rows, is
done before it, and gives the same when it is done twice.

A part that does not complete ends the cycle likewise. Resumed, the cycle is queued again and goes on with that part.
"""

from __future__ import annotations

import traceback

from django.core.exceptions import PermissionDenied, ValidationError
from django.db import transaction
from django.db.models import F

from evsys_web.cycles.models import Cycle, Stage, Status
from evsys_web.cycles.parts import Part, PartMaker, seconds_of, tokens_of
from evsys_web.cycles.stopping import budget_spent
from evsys_web.cycles.transitions import Next, what_is_next
from evsys_web.runs.status import ENDED
from recipes.errors import RecipeError

MOST_MOVES = 20


def advance(cycle_id: int) -> None:
    """Move the cycle as far as it goes without waiting. Safe anywhere, at any time, by several at once."""
    for _ in range(MOST_MOVES):
        cycle = _look(cycle_id)
        if cycle is None or not _is_due(cycle):
            return
        place = cycle.place
        try:
            _move(cycle)
        except (RecipeError, PermissionDenied, ValidationError) as refusal:
            said = "; ".join(refusal.messages) if isinstance(refusal, ValidationError) else str(refusal)
            _end_at(cycle_id, place, said)


def give_up(cycle_id: int, error: Exception) -> None:
    """Something unforeseen broke a move, and undid its transaction."""
    if (cycle := _look(cycle_id)) is not None and _is_due(cycle):
        said = f"The program stopped with an error that it did not foresee ({type(error).__name__})."
        _end_at(cycle_id, cycle.place, said, error)


def _look(cycle_id: int) -> Cycle | None:
    parts = ("project", "created_by", "learn", "judge", "baseline", "current_eval", "current_run")
    cycle: Cycle | None = Cycle.objects.select_related(*parts).filter(pk=cycle_id).first()
    return cycle


def _is_due(cycle: Cycle) -> bool:
    """As `Cycle.WAITING` has it."""
    if cycle.status == Status.QUEUED:
        return True
    return cycle.status in (Status.RUNNING, Status.STOPPING) and (cycle.part is None or cycle.part.status in ENDED)


def _move(cycle: Cycle) -> None:
    """One move, or none if somebody else was faster."""
    part = cycle.part
    if cycle.status == Status.QUEUED:
        _begin(cycle, part)
    elif part is None and cycle.stage != Stage.CURATE:
        _end(cycle, Status.FAILED, "It was deleted. Resume makes it again.")
    elif part is not None and part.status != Status.COMPLETED:
        _end(cycle, Status(part.status), part.error or "It was stopped.", part.error_type)
    elif cycle.status == Status.STOPPING:
        _end(cycle, Status.CANCELLED, "Stopped before what comes next.")
    else:
        _go(cycle, part, what_is_next(cycle, part))


@transaction.atomic
def _begin(cycle: Cycle, part: Part | None) -> None:
    """From the queue: make the part of its stage, or bring the one that did not complete back into the queue."""
    if not cycle.move():
        return
    if part is not None and part.can_resume:
        PartMaker(cycle).resume(part)
    elif part is None and cycle.stage != Stage.CURATE:
        cycle.wait_for(PartMaker(cycle).make())
    cycle.note(f"{cycle.where} begins." if part is None else f"{cycle.where} goes on.")


@transaction.atomic
def _go(cycle: Cycle, part: Part | None, following: Next) -> None:
    """Write down what the completed part brought; then the next one, or the end."""
    spent = {"num_tokens": F("num_tokens") + tokens_of(part), "num_seconds": F("num_seconds") + seconds_of(part)} if part else {}
    if not cycle.move(current_eval=None, current_run=None, **spent):
        return
    following.record()
    stopped = following.stopped or (budget_spent(cycle) if following.asks_budget else None)
    if stopped is not None:
        cycle.complete(reason=stopped.reason)
        cycle.note(f"Complete. {stopped.sentence}")
        return
    cycle.move(stage=following.stage, round_number=following.round_number)
    if following.stage is not Stage.CURATE:
        cycle.wait_for(PartMaker(cycle).make())
    cycle.note(f"{cycle.where} begins.")


def _end_at(cycle_id: int, place: int, said: str, error: Exception | None = None) -> None:
    """A move that began there was refused, or broke."""
    cycle = _look(cycle_id)
    if cycle is None or cycle.place != place:
        return
    if error is None:
        _end(cycle, Status.FAILED, said)
    else:
        detail = "".join(traceback.format_exception(error))
        _end(cycle, Status.CRASHED, said, type(error).__name__, detail)


@transaction.atomic
def _end(cycle: Cycle, status: Status, said: str, error_type: str = "", detail: str = "") -> None:
    """failed, crashed or cancelled, in a sentence that says where."""
    sentence = f"{cycle.where}: {said}"
    if status == Status.CANCELLED:
        won = cycle.cancel()
    else:
        end = cycle.fail if status == Status.FAILED else cycle.crash
        won = end(sentence, error_type=error_type, detail=detail)
    if won:
        cycle.note(sentence, level="info" if status == Status.CANCELLED else "error")
