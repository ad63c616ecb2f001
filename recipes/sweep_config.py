"""A sweep: one run's settings and a matrix of what is tried, axes × seeds. Every combination is an ordinary `RunConfig`.

An axis is the dotted path of a setting (`algorithm.params.learning_rate`) with the values that it takes. Everything is checked
before anything is made: a path that leads nowhere, or a value that its setting refuses, is an error that names both.
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from itertools import product
from statistics import fmean, stdev
from typing import Annotated, Any, NamedTuple

from pydantic import Field, field_validator, model_validator

from recipes.config import RunConfig, Settings
from recipes.errors import ConfigError
from recipes.registry import algorithms, backends

MAX_RUNS = 200
MAX_AXES = 6
SEED = "algorithm.params.seed"
PARTS = ("model.name", "model.init_from_checkpoint", "data.split", "algorithm.kind", "backend.kind")
"""What may be an axis besides the settings of algorithm and backend."""
PARAMS = ("algorithm.params.", "backend.params.")

AxisValues = Annotated[list[Any], Field(min_length=1)]


class Matrix(Settings):
    """What is tried: every value of every axis with every other, each combination once per seed."""

    axes: dict[str, AxisValues] = Field(
        default_factory=dict,
        max_length=MAX_AXES,
        description="Values to try, by the dotted path of their setting, such as algorithm.params.learning_rate.",
    )
    seeds: list[int] = Field(
        default_factory=list,
        description="Each combination runs once per seed; left away, once, with the seed of the settings.",
    )

    @field_validator("axes")
    @classmethod
    def _axes_that_can_be_tried(cls, axes: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for path, values in axes.items():
            if path == SEED:
                raise ValueError(f"{SEED} is no axis: give seeds, over which results are averaged")
            if path not in PARTS and not path.startswith(PARAMS):
                raise ValueError(f"axis {path} is no setting that can be varied; {_hint(path)}")
            _refuse_repeated(f"axis {path}", values)
        return axes

    @field_validator("seeds")
    @classmethod
    def _seeds_once(cls, seeds: list[int]) -> list[int]:
        _refuse_repeated("seeds", seeds)
        return seeds

    @model_validator(mode="after")
    def _few_enough(self) -> Matrix:
        if not self.axes and not self.seeds:
            raise ValueError("give at least one axis, or seeds: without either this is a single run")
        if self.num_runs > MAX_RUNS:
            raise ValueError(f"{self.num_runs:,} runs are more than {MAX_RUNS} at once: take fewer values or seeds")
        return self

    @property
    def num_combinations(self) -> int:
        return math.prod(map(len, self.axes.values()))

    @property
    def num_runs(self) -> int:
        return self.num_combinations * max(1, len(self.seeds))


class PlannedRun(NamedTuple):
    """combination: from 0, in the order of the axes, the last one fastest. values: by axis. seed: None where none was given."""

    combination: int
    values: dict[str, Any]
    seed: int | None
    config: RunConfig


class SweepConfig(RunConfig):
    """A run as YAML or JSON with a `matrix` beside its settings."""

    matrix: Matrix

    def check(self) -> None:
        """Every run of it, since settings may only fit together, or only exist, with the values of an axis."""
        self.runs()

    def runs(self) -> list[PlannedRun]:
        """All of them, the seeds of a combination side by side. Raises ConfigError naming axis and value."""
        base = self.model_dump(mode="json", exclude={"matrix"})
        planned: list[PlannedRun] = []
        seen: dict[str, dict[str, Any]] = {}
        seeds: list[int | None] = [*self.matrix.seeds] or [None]
        for number, values in enumerate(combinations_of(self.matrix.axes)):
            for seed in seeds:
                config = _checked(base, values, seed)
                if (same := seen.setdefault(_essence(config), values)) is not values:
                    raise ConfigError(
                        f"{spelled(same)} and {spelled(values)} are the same run. Take one of them out.", path=("matrix", "axes")
                    )
                planned.append(PlannedRun(number, values, seed, config))
        return planned


def combinations_of(axes: Mapping[str, Sequence[Any]]) -> Iterator[dict[str, Any]]:
    """Every value with every other, as values by axis; the last axis is the fastest. One, empty, for no axes."""
    return (dict(zip(axes, values, strict=True)) for values in product(*axes.values()))


class Spread(NamedTuple):
    """Mean and sample standard deviation (n - 1) of n values; deviation is None for fewer than two. NaN stays NaN."""

    n: int
    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """None for no values."""
        if not values:
            return None
        if not all(map(math.isfinite, values)):  # a run that diverged is no run that went well
            return cls(len(values), math.nan, None)
        return cls(len(values), fmean(values), stdev(values) if len(values) > 1 else None)


def spelled(values: Mapping[str, Any], seed: int | None = None) -> str:
    """`learning_rate 0.001, lora_rank 8, seed 1`: the last part of each path is enough for people."""
    words = [f"{path.rpartition('.')[2] if path.startswith(PARAMS) else path} {text_of(value)}" for path, value in values.items()]
    return ", ".join([*words, *([] if seed is None else [f"seed {seed}"])])


def text_of(value: Any) -> str:
    """A value of an axis as YAML would have it on one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def blamed(error: ConfigError, values: Mapping[str, Any], seed: int | None) -> ConfigError:
    """The same of the axis whose value is to blame, where its path tells; else of what the run was tried with."""
    assigned = {**values, **({} if seed is None else {SEED: seed})}
    place = ".".join(map(str, error.path))
    axis = next((path for path in assigned if _within(place, path) or _within(path, place)), None)
    if place == "kind":  # the registry does not know which of the two was asked for
        axis = next((path for path in assigned if path.endswith(".kind")), None)
    if axis == SEED:
        return ConfigError(f"seeds, value {seed}: {error}", path=("matrix", "seeds"))
    if axis is not None:
        return ConfigError(f"axis {axis}, value {text_of(assigned[axis])}: {error}", path=("matrix", "axes", axis))
    return ConfigError(f"With {spelled(values, seed)}: {error}", path=error.path)


def _checked(base: Mapping[str, Any], values: Mapping[str, Any], seed: int | None) -> RunConfig:
    """The run with these values. Raises ConfigError as `blamed` has it."""
    settings = copy.deepcopy(dict(base))
    assigned = {**values, **({} if seed is None else {SEED: seed})}
    for path, value in assigned.items():
        _lay(settings, path, value)
    settings["name"] = f"{base['name'][:100]} · {spelled(values, seed)}"[:200]
    try:
        return RunConfig.from_values(settings)
    except ConfigError as error:
        raise blamed(error, values, seed) from None


def _lay(settings: dict[str, Any], path: str, value: Any) -> None:
    """Raises ConfigError where the path runs through something that is no mapping."""
    *parents, last = path.split(".")
    place = settings
    for number, part in enumerate(parents):
        place = place.setdefault(part, {})
        if not isinstance(place, dict):
            through = ".".join(parents[: number + 1])
            raise ConfigError(f"axis {path}: {through} is no mapping, so nothing lies below it.", path=("matrix", "axes", path))
    place[last] = copy.deepcopy(value)


def _essence(config: RunConfig) -> str:
    """Equal for runs that would do the same, however their settings were written."""
    whole = config.model_dump(mode="json", exclude={"name"})
    whole["algorithm"]["params"] = config.algorithm_config().model_dump(mode="json")
    whole["backend"]["params"] = config.backend_config().model_dump(mode="json")
    return json.dumps(whole, sort_keys=True)


def _within(path: str, other: str) -> bool:
    return path == other or path.startswith(f"{other}.")


def _refuse_repeated(noun: str, values: Sequence[Any]) -> None:
    seen: set[str] = set()
    for value in values:
        text = json.dumps(value, sort_keys=True, default=str)
        if text in seen:
            raise ValueError(f"{noun} has {text} more than once")
        seen.add(text)


def _hint(path: str) -> str:
    """The setting that somebody meant, when one has nearly the name that they wrote."""
    known = {
        name: f"{registry.noun}.params.{name}"
        for registry in (backends, algorithms)
        for kind in registry.kinds()
        for name in registry.get(kind).Config.model_fields
    }
    near = get_close_matches(path.rpartition(".")[2], known, n=1, cutoff=0.75)
    return f"did you mean {known[near[0]]}?" if near else f"take {', '.join(PARTS)}, or a path below {' or '.join(PARAMS)}"
