"""Which of a run's settings will do nothing, in sentences: beside the estimate before anything is started, and in the run's log.

A setting that stands at its default is not spoken of: nobody asked for it.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from recipes.config import BackendChoice, BaseAlgorithmConfig, LRSchedule, RunConfig
from recipes.registry import algorithms, backends
from recipes.schedules import WITHOUT_WARMUP

WITHOUT_DECAY = frozenset({LRSchedule.CONSTANT, LRSchedule.LINEAR_WARMUP})


def effectless(config: RunConfig) -> list[str]:
    """Of a run that is not started. Raises ConfigError when its settings are wrong."""
    algorithm, settings = algorithms.get(config.algorithm.kind), config.algorithm_config()
    return without_effect(algorithm, settings, backends.get(config.backend.kind), kind=config.backend.kind)


def without_effect(algorithm: Any, settings: BaseModel, backend: Any, *, kind: str) -> list[str]:
    """algorithm, backend: class or instance. settings: the algorithm's own. kind: under which the backend was chosen."""
    found = _of_each_other(settings) if isinstance(settings, BaseAlgorithmConfig) else []
    found += [f"{algorithm.name} does not use {name}; it has no effect." for name in _set(settings, ignored_by(algorithm))]
    if getattr(algorithm, "needs_backend", True):
        ignored = _set(settings, ignored_by(backend))
        return [*found, *(f"The backend {kind} cannot honour {name}; it has no effect." for name in ignored)]
    if kind != BackendChoice().kind:
        found.append(f"{algorithm.name} trains by itself: the backend {kind} is not used.")
    return found


def ignored_by(registered: Any) -> frozenset[str]:
    """Settings of algorithms that this algorithm or backend does not use; an installed class need not know the word."""
    return frozenset(getattr(registered, "ignored_fields", ()))


def _of_each_other(settings: BaseAlgorithmConfig) -> list[str]:
    """Settings that another one switches off."""
    schedule, changed = settings.lr_schedule, _changed(settings)
    found: list[str] = []
    if settings.lr_warmup_steps and schedule in WITHOUT_WARMUP:
        found.append(f"lr_warmup_steps has no effect under the schedule {schedule.value}.")
    if settings.lr_min_ratio and schedule in WITHOUT_DECAY:
        found.append(f"lr_min_ratio has no effect under the schedule {schedule.value}.")
    if settings.save_every and "save_at_fractions" in changed:
        found.append("save_at_fractions has no effect while save_every is not 0.")
    return found


def _set(settings: BaseModel, names: frozenset[str]) -> list[str]:
    return sorted(names & _changed(settings))


def _changed(settings: BaseModel) -> set[str]:
    fields = type(settings).model_fields
    return {name for name, field in fields.items() if getattr(settings, name) != field.get_default(call_default_factory=True)}
