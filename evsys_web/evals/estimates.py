"""Gathers what `recipes.eval_estimate` needs to know of tasks, model and earlier evals, without a download and without torch."""

from __future__ import annotations

from typing import Any

from django.db.models import Sum

from evsys_web.accounts.models import User
from evsys_web.datasets.models import DatasetVersion
from evsys_web.evals.models import EvalRun
from evsys_web.runs.estimates import sample_of
from evsys_web.runs.models import Status
from recipes.eval_config import EvalConfig
from recipes.eval_estimate import EvalEstimate, MeasuredEval, estimate_eval


def estimate_for(config: EvalConfig, version: DatasetVersion, user: User, *, num_evals: int = 1) -> EvalEstimate:
    """num_evals: see `estimate_eval`. Raises ConfigError when the settings are wrong, or the split is none of the version's."""
    split = config.data.split
    tokenizer = None
    if config.model is not None:
        tokenizer = config.backend.params.get("tokenizer") or config.model.name
    return estimate_eval(
        config,
        num_rows=version.stretch(split).num_rows,
        sample=sample_of(version, split, tokenizer=tokenizer),
        measured=measured(config, version, user),
        num_evals=num_evals,
    )


def measured(config: EvalConfig, version: DatasetVersion, user: User) -> MeasuredEval:
    """What the last completed eval of the same tasks, model and longest reply did that this person may see."""
    same: dict[str, Any] = {"dataset_version": version, "config__sampling__max_tokens": config.sampling.max_tokens}
    if config.endpoint is not None:
        same |= {"config__endpoint__base_url": config.endpoint.base_url, "config__endpoint__model": config.endpoint.model}
    elif config.model is not None:
        same |= {"config__model__name": config.model.name, "config__backend__kind": config.backend.kind}
    ended = EvalRun.objects.visible_to(user).filter(status=Status.COMPLETED, is_imported=False, **same)
    run = ended.newest_first().first()
    if run is None:
        return MeasuredEval()
    num_made = run.num_done + run.num_errors
    if not num_made:
        return MeasuredEval()
    tokens = run.tasks.aggregate(all=Sum("num_tokens"))["all"] or 0
    took = None
    if run.attempt == 1 and run.started_at and run.finished_at:  # of a resumed one nobody knows how long it waited
        took = (run.finished_at - run.started_at).total_seconds() / num_made
    return MeasuredEval(tokens / num_made or None, took)
