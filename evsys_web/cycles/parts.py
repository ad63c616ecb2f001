"""The parts of a cycle: ordinary evals, curations and training runs, made with the cycle's settings on behalf of its owner."""

from __future__ import annotations

import re

from evsys_web.accounts.models import User
from evsys_web.curation.actions import Published, publish
from evsys_web.cycles.models import Cycle, CycleRound, Stage
from evsys_web.datasets.models import DatasetVersion
from evsys_web.evals.actions import launch_eval, resume_eval
from evsys_web.evals.models import Benchmark, EvalRun, EvalTask
from evsys_web.runs import metrics
from evsys_web.runs.actions import launch_run, resume_run
from evsys_web.runs.models import Checkpoint, TrainingRun
from recipes.cycle_config import CycleConfig, Side
from recipes.errors import ConfigError

Part = EvalRun | TrainingRun
TOKENS = "tokens/total"


class PartMaker:
    """Everything it does raises RecipeError or PermissionDenied with a sentence for whoever started the cycle."""

    def __init__(self, cycle: Cycle) -> None:
        self._cycle = cycle
        self._config: CycleConfig = cycle.load_config()

    def make(self) -> Part:
        """The part of the cycle's stage, written down where it belongs. Call it in the transaction that moved the cycle."""
        cycle, stage = self._cycle, Stage(self._cycle.stage)
        if stage is Stage.BASELINE:
            cycle.baseline = self._eval("judge", "baseline", self._first_weights())
            cycle.save(update_fields=["baseline"])
            return cycle.baseline
        round_, _ = CycleRound.objects.get_or_create(cycle=cycle, number=cycle.round_number)
        part: Part
        if stage is Stage.LEARN:
            field, part = "eval_run", self._eval("learn", f"round {round_.number} attempts", self._weights_before(round_))
        elif stage is Stage.TRAIN:
            field, part = "training_run", self._training(round_)
        else:
            field, part = "judged", self._eval("judge", f"round {round_.number} held-out", _kept(round_))
        setattr(round_, field, part)
        round_.save(update_fields=[field])
        return part

    def resume(self, part: Part) -> None:
        """Back into the queue, to go on from what it has."""
        if isinstance(part, EvalRun):
            resume_eval(user=self._owner(), run=part)
        else:
            resume_run(user=self._owner(), run=part)

    def publish(self, round_: CycleRound) -> Published:
        """The rows of the round. Called again, it finds the curation and the version that it made the first time."""
        if round_.eval_run is None:
            raise ConfigError("The eval whose attempts were to become rows was deleted. Clone the cycle to begin anew.")
        return publish(
            user=self._owner(),
            project=self._cycle.project,
            eval_runs=[round_.eval_run],
            settings=self._config.curation,
            name=dataset_name(self._cycle),
        )

    def _eval(self, side: Side, label: str, weights: Checkpoint | str | None) -> EvalRun:
        cycle = self._cycle
        benchmark: Benchmark | None = cycle.learn if side == "learn" else cycle.judge
        if benchmark is None:
            raise ConfigError(f"The benchmark to {side} by was deleted. Clone the cycle with another one.", path=(side,))
        uri = weights.sampler_uri if isinstance(weights, Checkpoint) else weights
        return launch_eval(
            user=self._owner(),
            project=cycle.project,
            config=self._config.eval_config(side, name=part_name(cycle, label), checkpoint=uri),
            benchmark=benchmark,
            checkpoint=weights if isinstance(weights, Checkpoint) else None,
            auto_resume=True,
            is_part=True,
        )

    def _training(self, round_: CycleRound) -> TrainingRun:
        version: DatasetVersion | None = round_.curation.dataset_version if round_.curation else None
        if version is None:
            raise ConfigError(f"The rows of round {round_.number} were deleted. Clone the cycle to begin anew.")
        weights = self._weights_before(round_)
        config = self._config.run_config(
            name=part_name(self._cycle, f"round {round_.number}"),
            dataset=version.reference,
            checkpoint=weights.sampler_uri if isinstance(weights, Checkpoint) else weights,
        )
        return launch_run(
            user=self._owner(),
            project=self._cycle.project,
            config=config,
            dataset_version=version,
            auto_resume=True,
            is_part=True,
        )

    def _first_weights(self) -> str | None:
        return self._config.model.checkpoint

    def _weights_before(self, round_: CycleRound) -> Checkpoint | str | None:
        """What the round's model is before it is trained."""
        if round_.number == 1:
            return self._first_weights()
        return _kept(self._cycle.rounds.get(number=round_.number - 1))

    def _owner(self) -> User:
        owner: User | None = self._cycle.created_by
        if owner is None:
            raise ConfigError("The person who started this cycle is gone. Clone it to go on in your own name.")
        return owner


def last_checkpoint(run: TrainingRun) -> Checkpoint:
    """The weights that a finished run left. Raises ConfigError when there are none to go on from."""
    saved: Checkpoint | None = run.checkpoints.exclude(sampler_uri="").order_by("-step", "-pk").first()
    if saved is None:
        raise ConfigError("The training run saved no weights that could be evaluated. Look at its log.")
    return saved


def tokens_of(part: Part) -> int:
    """Tokens that a finished part sampled, or trained on."""
    if isinstance(part, TrainingRun):
        return int(metrics.last_values({part.pk: TOKENS}).get(part.pk, 0))
    return sum(EvalTask.objects.filter(eval_run=part).values_list("num_tokens", flat=True))


def seconds_of(part: Part) -> float:
    """How long a finished part took, from its first start to its end."""
    return (part.finished_at - part.started_at).total_seconds() if part.started_at and part.finished_at else 0.0


def part_name(cycle: Cycle, label: str) -> str:
    return f"{cycle.name[:150]} · {label}"


def dataset_name(cycle: Cycle) -> str:
    """A dataset of the cycle's own, a version per round; datasets' names take fewer characters than cycles'."""
    plain = " ".join(re.sub(r"[^\w .\-]", " ", cycle.name).split())
    return f"cycle {cycle.pk} {plain}"[:100].strip()


def _kept(round_: CycleRound) -> Checkpoint:
    saved: Checkpoint | None = round_.checkpoint
    if saved is None:
        raise ConfigError(f"The checkpoint of round {round_.number} was deleted, so there is no model to go on with.")
    return saved
