"""How long what works or waits will still take, from how far it is, or from what such work took before. None: not known."""

from __future__ import annotations

from django.core.cache import cache
from django.utils.timezone import now

from evsys_web.accounts.models import User
from evsys_web.evals.models import EvalRun
from evsys_web.runs.estimates import estimate_run
from evsys_web.runs.models import Status, TrainingRun
from evsys_web.runs.work import Work
from recipes.errors import RecipeError

CACHE_SECONDS = 600
MIN_SHARE = 0.02
"""Of what works: less done tells nothing of the rest."""


def seconds_left(work: Work) -> float | None:
    """Of all of it for what waits."""
    if work.is_active:
        return _from_progress(work)
    key = f"queue-seconds:{type(work).__name__}:{work.pk}:{work.attempt}"
    found: float | None = cache.get(key)
    if found is None:
        found = _of_run(work) if isinstance(work, TrainingRun) else _of_eval(work) if isinstance(work, EvalRun) else None
        cache.set(key, -1.0 if found is None else found, CACHE_SECONDS)
    return None if found is None or found < 0 else found


def _from_progress(work: Work) -> float | None:
    share = getattr(work, "progress", None)
    if share is None or work.started_at is None or work.attempt > 1 or share < MIN_SHARE:
        return None  # of a resumed one nobody knows how long it worked and how long it waited
    return float((now() - work.started_at).total_seconds() * (1 - share) / share)


def _of_run(run: TrainingRun) -> float | None:
    user: User | None = run.created_by
    if user is None or run.dataset_version is None:
        return None
    try:
        seconds = estimate_run(run.load_config(), run.dataset_version, user).seconds
    except RecipeError:
        return None
    return None if seconds is None else (seconds.low * seconds.high) ** 0.5  # the middle of a range that spans factors


def _of_eval(run: EvalRun) -> float | None:
    """From the last completed eval of the same benchmark on the same backend."""
    same = EvalRun.objects.filter(
        benchmark=run.benchmark_id, status=Status.COMPLETED, is_imported=False, started_at__isnull=False, num_done__gt=0
    )
    last = same.filter(config__backend__kind=run.config.get("backend", {}).get("kind")).newest_first().first()
    if last is None or run.benchmark_id is None or last.finished_at is None or last.started_at is None:
        return None
    return float((last.finished_at - last.started_at).total_seconds() / last.num_done * max(0, run.num_attempts - run.num_done))
