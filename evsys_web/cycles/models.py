"""A cycle: a baseline, then rounds of eval → curation → training → re-eval. It is a chain as `runs/work.py` has it.

The parts are ordinary rows of other apps; deleting one leaves the cycle standing. What a cycle waits for is `current_eval` or
`current_run`; where it is is `stage` and `round_number`. How it moves is `advance.py`'s.
"""

from __future__ import annotations

from typing import ClassVar, Self

from django.db import models
from django.db.models import Q
from django.urls import reverse
from django.utils.timezone import now

from evsys_web.accounts.models import User
from evsys_web.evals.models import EvalRun
from evsys_web.runs.models import TrainingRun
from evsys_web.runs.status import ENDED
from evsys_web.runs.status import Status as Status
from evsys_web.runs.work import Chain, WorkQuerySet
from recipes.cycle_config import CycleConfig


class Stage(models.TextChoices):
    """What a cycle is at; the words are for people."""

    BASELINE = "baseline", "Baseline eval"
    LEARN = "learn", "Eval to learn from"
    CURATE = "curate", "Curation"
    TRAIN = "train", "Training"
    JUDGE = "judge", "Held-out eval"


class Reason(models.TextChoices):
    """Why a cycle is complete."""

    ROUNDS = "rounds", "All rounds done"
    TARGET = "target", "Target reached"
    NO_GAIN = "no_gain", "No gain"
    BUDGET = "budget", "Budget spent"
    NO_ROWS = "no_rows", "Nothing left to learn"


class CycleQuerySet(WorkQuerySet):
    def with_parts(self) -> Self:
        """With everything that a page shows of rounds, in as many queries for one cycle as for many."""
        parts = ("eval_run", "curation__dataset_version__dataset", "training_run", "checkpoint__run", "judged")
        rounds = CycleRound.objects.select_related(*parts)
        return self.select_related("project", "learn", "judge", "baseline").prefetch_related(
            models.Prefetch("rounds", queryset=rounds)
        )


class Cycle(Chain):
    """`num_tokens`, `num_seconds`: what the finished parts have taken, for the budget."""

    TASK = "evsys_web.cycles.tasks.advance_cycle"
    WAITING = Q(status=Status.QUEUED) | (
        Q(status__in=(Status.RUNNING, Status.STOPPING))
        & (Q(current_eval=None) | Q(current_eval__status__in=ENDED))
        & (Q(current_run=None) | Q(current_run__status__in=ENDED))
    )

    project = models.ForeignKey("accounts.Project", on_delete=models.CASCADE, related_name="cycles")
    created_by = models.ForeignKey("accounts.User", on_delete=models.SET_NULL, null=True, related_name="cycles")
    name = models.CharField(max_length=200)
    config = models.JSONField(default=dict, help_text="A CycleConfig, dumped.")
    learn = models.ForeignKey("evals.Benchmark", on_delete=models.SET_NULL, null=True, blank=True, related_name="learning_cycles")
    judge = models.ForeignKey("evals.Benchmark", on_delete=models.SET_NULL, null=True, blank=True, related_name="judging_cycles")
    cloned_from = models.ForeignKey("self", on_delete=models.SET_NULL, null=True, blank=True, related_name="clones")
    submission_key = models.CharField(
        max_length=200, blank=True, editable=False, help_text="A form posted twice makes one cycle."
    )

    stage = models.CharField(max_length=10, choices=Stage, default=Stage.BASELINE, editable=False)
    round_number = models.PositiveIntegerField(default=0, editable=False, help_text="0 before the first round.")
    baseline = models.ForeignKey(
        "evals.EvalRun", on_delete=models.SET_NULL, null=True, blank=True, editable=False, related_name="baseline_of"
    )
    current_eval = models.ForeignKey(
        "evals.EvalRun", on_delete=models.SET_NULL, null=True, blank=True, editable=False, related_name="+"
    )
    current_run = models.ForeignKey(
        "runs.TrainingRun", on_delete=models.SET_NULL, null=True, blank=True, editable=False, related_name="+"
    )
    num_tokens = models.PositiveBigIntegerField(default=0, editable=False)
    num_seconds = models.FloatField(default=0.0, editable=False)
    reason = models.CharField(max_length=10, choices=Reason, blank=True, editable=False)

    objects = CycleQuerySet.as_manager()

    class Meta:
        ordering: ClassVar[list[str]] = ["-created_at", "-pk"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(
                fields=["created_by", "submission_key"], condition=~Q(submission_key=""), name="one_cycle_per_submission"
            )
        ]
        indexes: ClassVar[list[models.Index]] = [
            models.Index(fields=["project", "-created_at"]),
            models.Index(fields=["status"], name="cycle_by_status"),
        ]

    def __str__(self) -> str:
        return self.name

    def get_absolute_url(self) -> str:
        return reverse("cycles:detail", args=[self.pk])

    # what it is

    @property
    def model_name(self) -> str:
        return str(self.config.get("model", {}).get("name", ""))

    @property
    def num_rounds(self) -> int:
        """As many as there will be at most."""
        return int(self.config.get("rounds", 0))

    @property
    def part(self) -> EvalRun | TrainingRun | None:
        """What it waits for; None while it has none."""
        part: EvalRun | TrainingRun | None = self.current_eval or self.current_run
        return part

    @property
    def where(self) -> str:
        """Round and stage, as a sentence begins."""
        stage = Stage(self.stage).label
        return stage if self.stage == Stage.BASELINE else f"Round {self.round_number}, {stage[:1].lower()}{stage[1:]}"

    def load_config(self) -> CycleConfig:
        """Validated again: the row may be older than the code. Raises ConfigError."""
        return CycleConfig.from_values(self.config)

    # how it changes

    def note(self, message: str, *, level: str = "info") -> None:
        CycleEvent.objects.create(cycle=self, seq=self.next_seqs(1), level=level, message=message)

    def wait_for(self, part: EvalRun | TrainingRun) -> None:
        """It goes on when this part has ended. Call it in the transaction that moved the cycle."""
        self.current_eval = part if isinstance(part, EvalRun) else None
        self.current_run = part if isinstance(part, TrainingRun) else None
        self.save(update_fields=["current_eval", "current_run"])


class CycleRound(models.Model):
    """One turn of a cycle, from 1. `checkpoint`: the weights that its training left, which the next round begins from.

    `finding`: how `judged` compares (`rounds.py` says what is in it); empty until the round is judged. `gained`: whether that is
    a gain as the stop rule has it."""

    cycle = models.ForeignKey(Cycle, on_delete=models.CASCADE, related_name="rounds")
    number = models.PositiveIntegerField()
    eval_run = models.ForeignKey("evals.EvalRun", on_delete=models.SET_NULL, null=True, related_name="learned_in")
    curation = models.ForeignKey("curation.Curation", on_delete=models.SET_NULL, null=True, related_name="cycle_rounds")
    training_run = models.ForeignKey("runs.TrainingRun", on_delete=models.SET_NULL, null=True, related_name="cycle_rounds")
    checkpoint = models.ForeignKey("runs.Checkpoint", on_delete=models.SET_NULL, null=True, related_name="cycle_rounds")
    judged = models.ForeignKey("evals.EvalRun", on_delete=models.SET_NULL, null=True, related_name="judged_in")
    finding = models.JSONField(default=dict)
    gained = models.BooleanField(null=True)
    started_at = models.DateTimeField(default=now)
    finished_at = models.DateTimeField(null=True)

    class Meta:
        ordering: ClassVar[list[str]] = ["number"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["cycle", "number"], name="one_round_per_number")
        ]

    def __str__(self) -> str:
        return f"{self.cycle_id}:{self.number}"


class CycleEvent(models.Model):
    """Something a person should read about a cycle."""

    cycle = models.ForeignKey(Cycle, on_delete=models.CASCADE, related_name="events")
    seq = models.PositiveBigIntegerField()
    at = models.DateTimeField(default=now)
    level = models.CharField(max_length=10, default="info")
    message = models.TextField()

    class Meta:
        ordering: ClassVar[list[str]] = ["seq"]
        constraints: ClassVar[list[models.BaseConstraint]] = [
            models.UniqueConstraint(fields=["cycle", "seq"], name="one_cycle_event_per_seq")
        ]

    def __str__(self) -> str:
        return f"{self.level}: {self.message}"


def short_name(model_name: str) -> str:
    """Without the folder, organisation or account that it belongs to."""
    return model_name.rpartition("/")[2] or model_name


def visible_cycle(user: User, pk: int) -> Cycle:
    """The cycle with its parts, or Cycle.DoesNotExist for whoever may not see it."""
    found: Cycle = Cycle.objects.visible_to(user).with_parts().get(pk=pk)
    return found
