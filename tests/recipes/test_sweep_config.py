"""Sweeps: which runs a matrix makes, what is refused before anything is made, and that files of them come back as they were."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.config import RunConfig
from recipes.errors import ConfigError
from recipes.sweep_config import MAX_RUNS, Spread, SweepConfig, spelled

RATE, RANK = "algorithm.params.learning_rate", "algorithm.params.lora_rank"


def sweep(axes: dict[str, Any] | None = None, seeds: list[Any] | None = None, **changes: Any) -> SweepConfig:
    matrix = {"axes": axes or {}, "seeds": seeds or []}
    values = {"name": "sums", "data": {"dataset": "sums@1"}, "algorithm": {"kind": "sft"}, "backend": {"kind": "mock"}}
    return SweepConfig.from_values({**values, "matrix": matrix, **changes})


def test_every_value_meets_every_other_once_per_seed() -> None:
    runs = sweep({RATE: [1e-3, 1e-2], RANK: [4, 8, 16]}, [0, 1]).runs()
    assert len(runs) == 12
    params = [run.config.algorithm.params for run in runs]
    assert [(each["learning_rate"], each["lora_rank"], each["seed"]) for each in params[:4]] == [
        (1e-3, 4, 0),
        (1e-3, 4, 1),
        (1e-3, 8, 0),
        (1e-3, 8, 1),
    ]
    assert [run.combination for run in runs] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert runs[3].config.name == "sums · learning_rate 0.001, lora_rank 8, seed 1"
    assert len({run.config.name for run in runs}) == 12


def test_its_runs_share_nothing_that_one_could_change_for_another() -> None:
    first, second = sweep({"algorithm.params.save_at_fractions": [[0.5], [1.0]]}, [0]).runs()
    first.config.algorithm.params["save_at_fractions"].append(0.7)
    assert second.config.algorithm.params["save_at_fractions"] == [1.0]


def test_models_backends_and_algorithms_can_be_axes() -> None:
    runs = sweep(
        {"model.name": ["starter", "a/b"], "backend.kind": ["local", "mock"], "algorithm.kind": ["sft", "mock_sft"]}
    ).runs()
    assert len({(run.config.model.name, run.config.backend.kind, run.config.algorithm.kind) for run in runs}) == 8


def test_a_setting_may_only_fit_together_with_an_axis() -> None:
    """What the settings lack alone, an axis may give: each run is judged as it will be."""
    groups = {"kind": "rl", "params": {"verifier_name": "numeric", "num_samples": 1}}
    with pytest.raises(ConfigError, match="num_samples"):
        sweep(seeds=[0], algorithm=groups)
    assert len(sweep({"algorithm.params.num_samples": [4, 8]}, algorithm=groups).runs()) == 2


@pytest.mark.parametrize(
    ("axes", "seeds", "words"),
    [
        ({RATE: [1e-3, 7]}, [], "axis algorithm.params.learning_rate, value 7: .*less than or equal to 1"),
        ({RATE: ["fast"]}, [], "axis algorithm.params.learning_rate, value fast: .*valid number"),
        ({RATE: [math.nan]}, [], "axis algorithm.params.learning_rate, value NaN: .*finite"),
        ({"algorithm.params.learning_rat": [1]}, [], "axis algorithm.params.learning_rat, value 1: .*no setting of this name"),
        ({"algorithm.params.learning_rate.peak": [1]}, [], "axis algorithm.params.learning_rate.peak, value 1: .*valid number"),
        ({"learning_rate": [1]}, [], "axis learning_rate is no setting .* did you mean algorithm.params.learning_rate"),
        ({"name": ["a"]}, [], "axis name is no setting that can be varied; take model.name"),
        ({"algorithm.kind": ["sft", "none_such"]}, [], "axis algorithm.kind, value none_such: There is no algorithm 'none_such'"),
        ({"backend.kind": ["none_such"]}, [], "axis backend.kind, value none_such: There is no backend 'none_such'"),
        ({"algorithm.params.seed": [1, 2]}, [], "is no axis: give seeds"),
        ({RATE: []}, [], "matrix.axes.algorithm.params.learning_rate: .*at least 1 item"),
        ({RATE: [0.1, 0.1]}, [], "axis algorithm.params.learning_rate has 0.1 more than once"),
        ({RANK: [8, "8"]}, [], "lora_rank 8 and lora_rank 8 are the same run"),
        ({}, [0, 0], "seeds has 0 more than once"),
        ({}, [-1], "seeds, value -1: .*greater than or equal to 0"),
        ({}, [], "at least one axis, or seeds"),
        ({RATE: [n / 1000 for n in range(1, 102)]}, [0, 1], f"202 runs are more than {MAX_RUNS}"),
        ({"backend.params.none_such": [1]}, [], "axis backend.params.none_such, value 1: .*no setting of this name"),
    ],
)
def test_what_is_wrong_names_axis_and_value(axes: dict[str, Any], seeds: list[Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        sweep(axes, seeds)


def test_a_path_through_a_number_is_refused() -> None:
    with pytest.raises(ConfigError, match="algorithm.params.learning_rate is no mapping, so nothing lies below it"):
        sweep({"algorithm.params.learning_rate.peak": [1]}, algorithm={"kind": "sft", "params": {"learning_rate": 0.1}})


def test_a_matrix_that_would_be_enormous_is_refused_before_it_is_unfolded() -> None:
    axes = {f"algorithm.params.knob_{n}": list(range(100)) for n in range(6)}
    with pytest.raises(ConfigError, match="1,000,000,000,000 runs are more than"):
        sweep(axes)


def test_a_hundred_thousand_values_are_refused_without_comparing_each_with_each() -> None:
    for axes, seeds in (({RATE: list(range(100_000))}, []), ({}, list(range(100_000)))):
        with pytest.raises(ConfigError, match="100,000 runs are more than"):
            sweep(axes, seeds)


def test_a_run_is_told_that_it_is_a_sweep() -> None:
    with pytest.raises(ConfigError, match="a matrix makes a sweep of several runs"):
        RunConfig.from_yaml(sweep(seeds=[0, 1]).to_yaml())


# Whatever people call things: what YAML reads as something else, or refuses unquoted.
ODD = ["yes", "null", "1e-3", "0x1F", "2024-01-01", "- a", "a: b", "#", "'", '"', "{}", "[", "&a", "*a", "!t", "%", "\ttab"]
texts = st.sampled_from(ODD) | st.text(st.characters(exclude_categories=("Cs", "Cc")), min_size=1, max_size=30)
rates = st.floats(1e-300, 1.0, exclude_min=False)
params = st.fixed_dictionaries(
    {"learning_rate": rates, "save_at_fractions": st.lists(st.floats(0.01, 1.0), max_size=3)},
    optional={
        "max_steps": st.none() | st.integers(1, 10_000_000),
        "renderer_name": st.sampled_from([None, "role_colon"]),
        "enable_thinking": st.none() | st.booleans(),
        "callbacks": st.just([{"kind": "early_stopping", "params": {"metric": "train/loss"}}]),
    },
)
documents = st.fixed_dictionaries(
    {
        "name": texts,
        "model": st.fixed_dictionaries({"name": texts}, optional={"init_from_checkpoint": st.none() | texts}),
        "data": st.fixed_dictionaries({"dataset": texts}, optional={"split": st.none() | texts}),
        "algorithm": st.fixed_dictionaries({"kind": st.just("sft"), "params": params}),
        "backend": st.just({"kind": "mock", "params": {}}),
    }
)
matrices = st.fixed_dictionaries(
    {"seeds": st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=3, unique=True)},
    optional={
        "axes": st.fixed_dictionaries(
            {},
            optional={
                RATE: st.lists(rates, min_size=1, max_size=3, unique=True),
                "model.name": st.lists(texts, min_size=1, max_size=3, unique=True),
                "algorithm.params.max_steps": st.lists(st.none() | st.integers(1, 100), min_size=1, max_size=3, unique=True),
            },
        )
    },
)


@settings(max_examples=30)
@given(documents)
def test_a_run_goes_out_as_yaml_and_comes_back_the_same(values: dict[str, Any]) -> None:
    config = RunConfig.from_values(values)
    again = RunConfig.from_yaml(config.to_yaml())
    assert again == config
    assert again.algorithm_config() == config.algorithm_config()


@settings(max_examples=30)
@given(documents, matrices)
def test_a_sweep_goes_out_as_yaml_and_comes_back_as_the_same_runs(values: dict[str, Any], matrix: dict[str, Any]) -> None:
    config = SweepConfig.from_values({**values, "matrix": matrix})
    again = SweepConfig.from_yaml(config.to_yaml())
    assert again == config
    assert again.runs() == config.runs()


def test_the_spread_of_seeds() -> None:
    assert Spread.of([]) is None
    assert Spread.of([2.0]) == (1, 2.0, None)
    assert Spread.of([1.0, 3.0]) == (2, 2.0, pytest.approx(math.sqrt(2)))  # n - 1 below the sum of squares
    diverged = Spread.of([1.0, math.nan])
    assert diverged is not None and diverged.n == 2 and math.isnan(diverged.mean) and diverged.deviation is None


def test_a_combination_is_told_by_the_ends_of_its_paths() -> None:
    assert (
        spelled({RATE: 1e-3, "model.name": "a/b", RANK: None}, 3) == "learning_rate 0.001, model.name a/b, lora_rank null, seed 3"
    )
