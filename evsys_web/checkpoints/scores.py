"""Checkpoints with what is known of how good they are. An eval points at its checkpoint; here that is read backwards."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from django.db.models import Case, F, FloatField, OuterRef, QuerySet, Subquery, TextField, Value, When
from django.db.models.fields.json import KT
from django.db.models.functions import Cast

from evsys_web.accounts.models import User
from evsys_web.evals.models import EvalRun, Status
from evsys_web.runs.downloads import checkpoint_bytes
from evsys_web.runs.headlines import LOSS, headline_of
from evsys_web.runs.models import Checkpoint, TrainingRun
from recipes.types import Headline

SORTS = {"saved": F("created_at"), "step": F("step"), "loss": F("loss"), "right": F("right")}
NON_FINITE = ("NaN", "Infinity", "-Infinity")


class Scored(NamedTuple):
    """newest_eval: the newest completed one that the person may see. num_bytes: None for weights that are not on this machine."""

    checkpoint: Checkpoint
    newest_eval: EvalRun | None
    num_bytes: int | None

    @property
    def headline(self) -> Headline:
        return headline_of(self.checkpoint.run)

    @property
    def value(self) -> float | str | None:
        """Of the headline, when it was saved."""
        value: float | str | None = self.checkpoint.metrics.get(self.headline.key)
        return value


def visible_checkpoints(user: User) -> QuerySet[Checkpoint]:
    """Those of runs that the person may see."""
    runs = TrainingRun.objects.visible_to(user).values("pk")
    return Checkpoint.objects.filter(run__in=runs).select_related("run__project")


def evals_of(checkpoint: Checkpoint, user: User) -> QuerySet[EvalRun]:
    """Evals of these weights, newest first."""
    evals: QuerySet[EvalRun] = EvalRun.objects.visible_to(user).filter(checkpoint=checkpoint)
    return evals.select_related("benchmark").defer("error_detail").order_by("-created_at", "-pk")


def with_scores(checkpoints: QuerySet[Checkpoint], user: User, *, benchmark: int | None = None) -> QuerySet[Checkpoint]:
    """Each with `loss`, and of its newest completed eval (on this benchmark) `right`, the share in [0, 1], and `eval_pk`.
    None where there is none; a loss that is no number counts as none."""
    evals = EvalRun.objects.visible_to(user).filter(checkpoint=OuterRef("pk"), status=Status.COMPLETED)
    if benchmark is not None:
        evals = evals.filter(benchmark=benchmark)
    newest = evals.order_by("-finished_at", "-pk")
    return checkpoints.annotate(
        loss_text=Cast(KT(f"metrics__{LOSS.key}"), TextField()),  # a key's own lookups would compare with JSON
        loss=Case(
            When(loss_text__in=NON_FINITE, then=Value(None)),
            default=Cast("loss_text", FloatField()),
            output_field=FloatField(),
        ),
        right=Subquery(newest.annotate(share=Cast(KT("summary__avg__value"), FloatField())).values("share")[:1]),
        eval_pk=Subquery(newest.values("pk")[:1]),
    )


def in_order(checkpoints: QuerySet[Checkpoint], sort: str) -> QuerySet[Checkpoint]:
    """By a name of SORTS, with - in front for the largest first; those without a value last."""
    column = SORTS[sort.removeprefix("-")]
    order = column.desc(nulls_last=True) if sort.startswith("-") else column.asc(nulls_last=True)
    return checkpoints.order_by(order, "-pk")


def scored(checkpoints: Iterable[Checkpoint]) -> list[Scored]:
    """For showing: `checkpoints` as `with_scores` gives them."""
    rows = list(checkpoints)
    keys = [pk for row in rows if (pk := getattr(row, "eval_pk", None)) is not None]
    evals = EvalRun.objects.select_related("benchmark").defer("error_detail", "config").in_bulk(keys)
    return [Scored(row, evals.get(getattr(row, "eval_pk", None)), checkpoint_bytes(row)) for row in rows]
