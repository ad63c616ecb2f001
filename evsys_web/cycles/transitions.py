"""What a completed part leads to. Nothing here changes the cycle: what is found is written in the move that it leads to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from django.utils.timezone import now

from evsys_web.curation.actions import NothingSelected
from evsys_web.cycles.models import Cycle, CycleRound, Reason, Stage
from evsys_web.cycles.parts import Part, PartMaker, last_checkpoint
from evsys_web.cycles.rounds import judge
from evsys_web.cycles.stopping import Stopped, rounds_done, target_reached


@dataclass(frozen=True, slots=True)
class Next:
    """Where a cycle goes, or why it is complete instead. found: new values of the round it comes from."""

    stage: Stage
    round_number: int
    round: CycleRound | None = None
    found: dict[str, Any] | None = None
    stopped: Stopped | None = None
    asks_budget: bool = True

    def record(self) -> None:
        if self.round is not None and self.found:
            CycleRound.objects.filter(pk=self.round.pk).update(**self.found)


def what_is_next(cycle: Cycle, part: Part | None) -> Next:
    """Raises RecipeError or PermissionDenied where the cycle cannot go on."""
    return AFTER[Stage(cycle.stage)](cycle, part)


def _after_baseline(cycle: Cycle, part: Any) -> Next:
    return Next(Stage.LEARN, 1, stopped=target_reached(part, cycle.load_config().stop))


def _after_learning(cycle: Cycle, part: Any) -> Next:
    return Next(Stage.CURATE, cycle.round_number)


def _after_curation(cycle: Cycle, part: None) -> Next:
    round_ = _round_of(cycle)
    try:
        published = PartMaker(cycle).publish(round_)
    except NothingSelected as nothing:
        if round_.number == 1:
            raise
        return Next(Stage.CURATE, round_.number, stopped=Stopped(Reason.NO_ROWS, str(nothing)))
    return Next(Stage.TRAIN, round_.number, round_, {"curation": published.curation})


def _after_training(cycle: Cycle, part: Any) -> Next:
    """Weights that were paid for are evaluated, whatever the budget says."""
    round_ = _round_of(cycle)
    return Next(Stage.JUDGE, round_.number, round_, {"checkpoint": last_checkpoint(part)}, asks_budget=False)


def _after_judging(cycle: Cycle, part: Any) -> Next:
    round_ = _round_of(cycle)
    config = cycle.load_config()
    finding, gained = judge(cycle, round_)
    gains = [*cycle.rounds.filter(number__lt=round_.number).order_by("number").values_list("gained", flat=True), gained]
    stopped = target_reached(part, config.stop) or rounds_done(config, gains)
    found = {"finding": finding, "gained": gained, "finished_at": now()}
    return Next(Stage.LEARN, round_.number + 1, round_, found, stopped)


def _round_of(cycle: Cycle) -> CycleRound:
    return CycleRound.objects.select_related("eval_run", "curation__dataset_version", "judged").get(
        cycle=cycle, number=cycle.round_number
    )


AFTER: dict[Stage, Callable[[Cycle, Any], Next]] = {
    Stage.BASELINE: _after_baseline,
    Stage.LEARN: _after_learning,
    Stage.CURATE: _after_curation,
    Stage.TRAIN: _after_training,
    Stage.JUDGE: _after_judging,
}
