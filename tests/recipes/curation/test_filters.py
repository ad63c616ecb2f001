from __future__ import annotations

import math
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from recipes.curation import PooledAttempt, compile_filter
from recipes.curation.columns import columns_of
from recipes.curation.filters import Aggregates, aggregate, score_of
from recipes.curation.pool import Pool, exact_mean, values_of
from recipes.curation.tree import Node, printed
from recipes.errors import DataError
from recipes.evals.metrics import pass_at_k
from tests.recipes.curation.attempts import SIGNAL, attempt, pools
from tests.recipes.curation.trees import trees

metrics = st.sampled_from(["is_correct", "correct", "reward", SIGNAL])


def by_task(attempts: list[PooledAttempt]) -> dict[tuple[str, str], list[PooledAttempt]]:
    found: dict[tuple[str, str], list[PooledAttempt]] = {}
    for item in attempts:
        found.setdefault((item.benchmark, item.task_id), []).append(item)
    return found


@given(pools(), metrics, st.booleans())
@settings(max_examples=150, deadline=None)
def test_columns_hold_the_aggregates_of_each_tasks_attempts(attempts: list[PooledAttempt], metric: str, errors: bool) -> None:
    pool = Pool.of(columns_of(attempts))
    try:
        columns = pool.aggregates(metric, include_errors=errors)
    except DataError:
        assert metric == SIGNAL and all(score_of(item, metric) is None for item in attempts)
        return
    tasks = by_task(attempts)
    assert set(tasks) == set(pool.tasks)
    for index, task in enumerate(pool.tasks):
        scores = [score_of(item, metric, include_errors=errors) for item in tasks[task]]
        assert columns.task(index) == aggregate(score for score in scores if score is not None)


@given(trees, pools(), metrics, st.booleans())
@settings(max_examples=150, deadline=None)
def test_both_evaluators_give_the_same_answer(tree: Node, attempts: list[PooledAttempt], metric: str, errors: bool) -> None:
    pool = Pool.of(columns_of(attempts))
    assume(metric != SIGNAL or SIGNAL in pool.signals and not np.isnan(pool.signals[SIGNAL]).all())
    compiled = compile_filter(printed(tree))
    assert compiled.tree == tree
    columns = pool.aggregates(metric, include_errors=errors)
    values = np.broadcast_to(values_of(compiled.tree, columns), columns.n.shape)
    tasks = by_task(attempts)
    for index, task in enumerate(pool.tasks):
        if not columns.n[index]:
            continue
        aggregates = columns.task(index)
        assert aggregates is not None
        assert compiled.matches(tasks[task], metric=metric, include_errors=errors) is bool(values[index])
        assert compiled.holds(aggregates) is bool(values[index])
        compiled.explain(aggregates)


def as_python(tree: Node, aggregates: Aggregates) -> Any:
    """What Python itself makes of the same text: an oracle for tests, over trees that the test made."""
    text = printed(tree).replace("@", "_at_").replace("true", "1.0").replace("false", "0.0")
    names = {name: float(getattr(aggregates, name)) for name in ("n", "n_correct", "avg", "best", "worst")}
    names["solved"] = float(aggregates.n_correct > 0)
    for k in range(1, 13):
        names[f"pass_at_{k}"] = pass_at_k(aggregates.n, aggregates.n_correct, k)
        names |= {f"{name}_at_{k}": names[name] for name in ("avg", "best", "worst")}
    return eval(text, {"__builtins__": {}}, names)  # noqa: S307 - the text is printed from a generated tree


@given(trees, st.integers(1, 12), st.data())
@settings(max_examples=150, deadline=None)
def test_a_filter_means_what_python_would_make_of_it(tree: Node, n: int, data: st.DataObject) -> None:
    n_correct = data.draw(st.integers(0, n))
    low, mean, high = sorted(data.draw(st.lists(st.floats(-2, 2), min_size=3, max_size=3)))
    aggregates = Aggregates(n, n_correct, mean, high, low)
    assert compile_filter(printed(tree)).holds(aggregates) is bool(as_python(tree, aggregates))


@given(st.lists(st.floats(-1e300, 1e300), min_size=1, max_size=12))
@settings(max_examples=150, deadline=None)
def test_the_mean_is_rounded_once(values: list[float]) -> None:
    exact = float(sum(map(Fraction, values)) / len(values))
    assert exact_mean(values) == exact
    pool = Pool.of(columns_of([attempt("t", number, value) for number, value in enumerate(values)]))
    assert pool.aggregates("reward").avg[0] == exact


def test_the_mean_of_three_tenths_is_a_tenth() -> None:
    attempts = [attempt("t", number, 0.1) for number in range(3)]
    assert compile_filter("avg == 0.1 and best == worst").matches(attempts, metric="reward")


def test_names_mean_what_the_contract_says() -> None:
    attempts = [attempt("t", number, value) for number, value in enumerate([1.0, 0.0, 0.0, 2.0])]
    for text in (
        "n == 4 and n_correct == 2 and solved",
        "avg == 0.5 and best == 1 and worst == 0",
        "avg@3 == avg and best@9 == best and worst@1 == worst",
        "pass@1 == 0.5 and 0.83 < pass@2 < 0.84 and pass@3 == 1",
        "pass@100 == 1",
        "-avg * 2 == -1",
        "avg",
        "not (avg and not solved)",
    ):
        assert compile_filter(text).matches(attempts), text
    assert compile_filter("avg == 0.75 and best == 2").matches(attempts, metric="reward")
    assert not compile_filter("pass@100 > 0").matches([attempt("t", 0, 0.0)])


def test_any_object_with_the_three_names_is_an_attempt() -> None:
    right = SimpleNamespace(reward=1.0, is_correct=True, signals={"length": 3})
    wrong = SimpleNamespace(reward=0.25, is_correct=False, signals={"length": 5})
    assert compile_filter("0 < avg < 1").matches([right, wrong])
    assert compile_filter("avg == 0.625").matches([right, wrong], metric="reward")
    assert compile_filter("avg == 4 and best == 5").matches([right, wrong], metric="length")


def test_errors_are_outside_n_unless_they_are_included() -> None:
    attempts = [attempt("t", 0, 1.0), attempt("t", 1, None)]
    assert compile_filter("n == 1 and avg == 1").matches(attempts)
    assert compile_filter("n == 2 and avg == 0.5 and worst == 0").matches(attempts, include_errors=True)


def test_a_task_without_a_verdict_survives_no_filter() -> None:
    for attempts in ([], [attempt("t", 0, None)]):
        assert not compile_filter("true").matches(attempts)
        assert not compile_filter("n == 0").matches(attempts)


def test_an_absent_metric_is_never_a_silent_zero() -> None:
    with_it = attempt("t", 0, 1.0, signals={"length": 4.0})
    without, null, nan = (
        attempt("t", 1, 1.0),
        attempt("t", 2, 1.0, signals={"length": None}),
        attempt("t", 3, 1.0, signals={"length": math.nan}),
    )
    assert compile_filter("n == 1 and worst == 4").matches([with_it, without, null, nan], metric="length")
    with pytest.raises(DataError, match="No attempt has the metric 'lenght'. There are is_correct, reward, length."):
        compile_filter("true").matches([with_it], metric="lenght")
    pool = Pool.of(columns_of([with_it, attempt("u", 0, 1.0)]))
    columns = pool.aggregates("length")
    assert columns.n.tolist() == [1, 0] and columns.num_without_metric == 1
    with pytest.raises(DataError, match="No attempt has the metric 'lenght'"):
        pool.aggregates("lenght")


def test_a_verdict_without_a_reward_earns_one_or_nothing() -> None:
    attempts = [PooledAttempt("t", 0, None, True), PooledAttempt("t", 1, None, False)]
    assert compile_filter("avg == 0.5").matches(attempts, metric="reward")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0 < avg < 1 and n >= 8", "n >= 8 fails: n is 4"),
        ("0 < avg < 0.5", "avg < 0.5 fails: avg is 0.75"),
        ("pass@2 == 1 or not solved", "pass@2 == 1 or not solved fails: pass@2 is 0.8333, solved is 1"),
        ("false", "false fails"),
        ("n >= 4", "n >= 4 holds: n is 4"),
    ],
)
def test_a_filter_says_why_a_task_is_out(text: str, reason: str) -> None:
    aggregates = Aggregates(4, 2, 0.75, 1.0, 0.0)
    assert compile_filter(text).explain(aggregates) == reason
