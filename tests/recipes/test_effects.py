"""What of a run's settings does nothing is said before the start, for every pair of algorithm and backend."""

from __future__ import annotations

from typing import Any

import pytest

from recipes.config import BaseAlgorithmConfig, RunConfig
from recipes.effects import effectless
from recipes.estimate import estimate
from recipes.registry import algorithms, backends, backends_for, uses_backend

PAIRS = [
    (kind, backend) for kind in sorted(algorithms._paths) if uses_backend(algorithms.get(kind)) for backend in backends_for(kind)
]


def config(kind: str = "sft", backend: str = "local", **params: Any) -> RunConfig:
    values = {"data": {"path": "rows.jsonl"}, "algorithm": {"kind": kind, "params": params}, "backend": {"kind": backend}}
    return RunConfig.model_validate(values)


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"lr_warmup_steps": 5}, "lr_warmup_steps has no effect under the schedule constant."),
        ({"lr_warmup_steps": 5, "lr_schedule": "cosine"}, "lr_warmup_steps has no effect under the schedule cosine."),
        ({"lr_min_ratio": 0.1, "lr_schedule": "linear_warmup"}, "lr_min_ratio has no effect under the schedule linear_warmup."),
        ({"save_every": 5, "save_at_fractions": [0.5]}, "save_at_fractions has no effect while save_every is not 0."),
    ],
)
def test_a_setting_that_another_switches_off_is_named(params: dict[str, Any], sentence: str) -> None:
    assert effectless(config(**params)) == [sentence]
    assert sentence in estimate(config(**params), num_rows=10).notes


def test_settings_at_their_defaults_are_not_spoken_of() -> None:
    spelled_out = BaseAlgorithmConfig().model_dump(mode="json")
    shared = {name: value for name, value in spelled_out.items() if name in algorithms.get("sft").Config.model_fields}
    defaults = algorithms.get("sft").Config()
    assert effectless(config(backend="mock", **{name: getattr(defaults, name) for name in shared})) == []


@pytest.mark.parametrize(("kind", "backend"), PAIRS)
def test_what_a_backend_ignores_is_named_for_every_algorithm_that_trains_on_it(kind: str, backend: str) -> None:
    ignored = sorted(backends.get(backend).ignored_fields & set(algorithms.get(kind).Config.model_fields))
    needed = {"verifier_name": "numeric"} if kind == "rl" else {}
    unusual = {"lora_rank": 3, "renderer_name": "role_colon", "enable_thinking": True}
    given = {name: unusual[name] for name in ignored}
    found = effectless(config(kind, backend, **needed, **given))
    assert found == [f"The backend {backend} cannot honour {name}; it has no effect." for name in ignored]


def test_every_name_that_a_backend_ignores_is_a_setting() -> None:
    """Else the form would say nothing, in silence."""
    for kind in backends.kinds():
        assert backends.get(kind).ignored_fields <= set(BaseAlgorithmConfig.model_fields), kind


def test_an_algorithm_that_trains_by_itself_uses_no_backend() -> None:
    assert effectless(config("local_sft", "mock", lora_rank=3)) == ["local_sft trains by itself: the backend mock is not used."]
    assert effectless(config("local_sft", lora_rank=3)) == []
