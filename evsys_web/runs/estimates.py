"""Gathers what `recipes.estimate` needs to know of rows, model and machine, without a download and without torch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from django.core.cache import cache

from evsys_web.accounts.models import User
from evsys_web.datasets.models import DatasetVersion
from evsys_web.runs import metrics
from evsys_web.runs.models import Status, TrainingRun
from recipes.backends.local.models import resolve
from recipes.config import RunConfig
from recipes.errors import RecipeError
from recipes.estimate import GPU, Estimate, Hardware, Measured, TokenSample, count_parameters, estimate, processor
from recipes.registry import backends
from recipes.rendering import load_tokenizer
from recipes.rows import RowFormat
from recipes.token_lengths import by_length, rendered_sequences
from recipes.types import Row

SAMPLE_ROWS = 48
CACHE_SECONDS = 3600
SPEED, STEP_SECONDS, REPLY_TOKENS = "tokens/per_second", "time/step", "rollout/completion_tokens"


def estimate_run(config: RunConfig, version: DatasetVersion, user: User) -> Estimate:
    """Raises ConfigError when the settings are wrong, or the split is none of the version's."""
    folder = _folder(config.model.name)
    split = version.training_split(config.data.split)
    return estimate(
        config,
        num_rows=version.stretch(split).num_rows,
        sample=sample_tokens(config, version, split),
        num_parameters=count_parameters(folder) if folder else None,
        hardware=hardware() if getattr(backends.get(config.backend.kind), "computes_here", False) else None,
        measured=measured(config, user),
    )


def sample_tokens(config: RunConfig, version: DatasetVersion, split: str | None = None) -> TokenSample | None:
    """Some rows, evenly over version or split, through the model's own chat template; by the length of their texts where its
    tokenizer is not here; None when they cannot be rendered."""
    params = config.algorithm.params
    options = {name: params[name] for name in ("supervise", "enable_thinking", "max_seq_len") if params.get(name) is not None}
    tokenizer = config.backend.params.get("tokenizer") or config.model.name
    return sample_of(version, split, tokenizer=tokenizer, renderer_name=params.get("renderer_name"), **options)


def sample_of(
    version: DatasetVersion, split: str | None, *, tokenizer: str | None, renderer_name: str | None = None, **options: Any
) -> TokenSample | None:
    """The same with what it hangs on spelled out. tokenizer: None, where nobody knows the model's."""
    what = f"{version.content_hash}:{version.format}:{split}:{tokenizer}:{renderer_name}"
    key = f"tokens:{what}:{sorted(options.items())}".replace(" ", "")
    found: TokenSample | None = cache.get(key)
    if found is None:
        rows = rows_across(version, split)
        format = RowFormat(version.format)
        try:
            loaded = load_tokenizer(tokenizer, renderer_name=renderer_name, download=False) if tokenizer else None
        except RecipeError:
            loaded = None
        found = by_length(rows, format) if loaded is None else _count(rows, format, loaded, options)
        cache.set(key, found, CACHE_SECONDS)
    return found


def measured(config: RunConfig, user: User) -> Measured:
    """What the last completed run of the same model, backend and algorithm did that this person may see: medians over its
    steps."""
    same = {
        "config__model__name": config.model.name,
        "config__backend__kind": config.backend.kind,
        "config__algorithm__kind": config.algorithm.kind,
    }
    run = TrainingRun.objects.visible_to(user).filter(status=Status.COMPLETED, **same).newest_first().first()
    if run is None:
        return Measured()
    curves = metrics.series(run, [SPEED, STEP_SECONDS, REPLY_TOKENS])
    speed, seconds, reply = (_median(curves[key].y_last.tolist()) for key in (SPEED, STEP_SECONDS, REPLY_TOKENS))
    params = run.load_config().algorithm_config()
    attempts = getattr(params, "batch_size", 1) * getattr(params, "num_samples", 1)
    return Measured(speed, seconds / attempts if seconds else None, reply)


def _median(values: list[float]) -> float | None:
    usable = sorted(value for value in values if value > 0)
    return usable[len(usable) // 2] if usable else None


def hardware() -> Hardware:
    return GPU if Path("/dev/nvidiactl").exists() else processor(os.cpu_count() or 1)


def _folder(model_name: str) -> Path | None:
    """Where the model lies on this machine; None for one that would have to be fetched first."""
    try:
        place = resolve(model_name)
    except RecipeError:
        return None
    return place if isinstance(place, Path) else None


def _count(rows: list[Row], format: RowFormat, tokenizer: Any, options: dict[str, Any]) -> TokenSample | None:
    try:
        rendered = [rendered_sequences(row, format, tokenizer, **options) for row in rows]
    except RecipeError:
        return None
    if not rendered:
        return None
    totals = [sum(len(each.token_ids) for each in sequences) for sequences in rendered]
    return TokenSample(totals, [sum(each.num_trained for each in sequences) for sequences in rendered])


def rows_across(version: DatasetVersion, split: str | None = None) -> list[Row]:
    """At most SAMPLE_ROWS rows, in a few stretches over the whole version, or its split."""
    num_rows = version.stretch(split).num_rows
    if num_rows <= SAMPLE_ROWS:
        return version.rows_between(0, num_rows, split)
    starts = [round(part * (num_rows - SAMPLE_ROWS // 6) / 5) for part in range(6)]
    return [row for start in starts for row in version.rows_between(start, start + SAMPLE_ROWS // 6, split)]
