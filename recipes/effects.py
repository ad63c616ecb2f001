"""Which of a run's settings will do nothing, in sentences: beside the estimate before anything is started, and in the run's log.

A setting that stands at its default is not spoken of: nobody asked for it.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from recipes.config import BackendChoice, BaseAlgorithmConfig, LRSchedule, RunConfig
from recipes.registry import algorithms, backends, uses_backend
from recipes.schedules import WITHOUT_WARMUP

WITHOUT_DECAY = frozenset({LRSchedule.CONSTANT, LRSchedule.LINEAR_WARMUP})


def effectless(config: RunConfig) -> list[str]:
    """Of a run that is not started. Raises ConfigError when its settings are wrong."""
    algorithm, settings = algorithms.get(config.algorithm.kind), config.algorithm_config()
    return without_effect(algorithm, settings, backends.get(config.backend.kind), config)


def without_effect(algorithm: Any, settings: BaseModel, backend: Any, config: RunConfig) -> list[str]:
    """algorithm, backend: class or instance. settings: the algorithm's own."""
    found = _of_each_other(settings)
    found += [f"{algorithm.name} does not use {name}; it has no effect." for name in _set(settings, ignored_by(algorithm))]
    if uses_backend(algorithm):
        ignored = _set(settings, ignored_by(backend))
        found += [f"The backend {config.backend.kind} cannot honour {name}; it has no effect." for name in ignored]
        return found + _of_both(settings, config)
    return found + _of_backend(algorithm, config)


def ignored_by(registered: Any) -> frozenset[str]:
    """Settings of algorithms that this algorithm or backend does not use; an installed class need not know the word."""
    return frozenset(getattr(registered, "ignored_fields", ()))


def _of_each_other(settings: BaseModel) -> list[str]:
    """Settings that another one of the algorithm's switches off; those of its own it tells itself (`switched_off`)."""
    changed = _changed(settings)
    own: dict[str, str] = getattr(settings, "switched_off", dict)()
    found = [f"{name} has no effect {why}." for name, why in own.items() if name in changed]
    if not isinstance(settings, BaseAlgorithmConfig):
        return found
    schedule = settings.lr_schedule
    if settings.lr_warmup_steps and schedule in WITHOUT_WARMUP:
        found.append(f"lr_warmup_steps has no effect under the schedule {schedule.value}.")
    if settings.lr_min_ratio and schedule in WITHOUT_DECAY:
        found.append(f"lr_min_ratio has no effect under the schedule {schedule.value}.")
    if settings.save_every and "save_at_fractions" in changed:
        found.append("save_at_fractions has no effect while save_every is not 0.")
    return found


def _of_both(settings: BaseModel, config: RunConfig) -> list[str]:
    """Settings of either that the other, or the weights that are begun from, switch off."""
    chosen = config.backend_config()
    tell = getattr(chosen, "switched_off", None)
    off: dict[str, str] = tell(settings, config.model) if tell is not None else {}
    changed = _changed(settings) | _changed(chosen)
    return [f"{name} has no effect {why}." for name, why in off.items() if name in changed]


def _of_backend(algorithm: Any, config: RunConfig) -> list[str]:
    """What was chosen of a backend that is not used."""
    kind, own = config.backend.kind, getattr(algorithm, "own_backend", None)
    if kind == own:
        return [f"{algorithm.name} does not use {name}; it has no effect." for name in sorted(_changed(config.backend_config()))]
    if kind == BackendChoice().kind:
        return []
    where = "by itself" if own is None else f"on {own} whatever is chosen"
    return [f"{algorithm.name} trains {where}: the backend {kind} is not used."]


def _set(settings: BaseModel, names: frozenset[str]) -> list[str]:
    return sorted(names & _changed(settings))


def _changed(settings: BaseModel) -> set[str]:
    fields = type(settings).model_fields
    return {name for name, field in fields.items() if getattr(settings, name) != field.get_default(call_default_factory=True)}
