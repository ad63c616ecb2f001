"""The table of a sweep: mean and deviation over the seeds of each combination, sorted, and as CSV."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import pytest

from evsys_web.runs.models import Status, TrainingRun
from evsys_web.sweeps.models import Sweep
from evsys_web.sweeps.results import csv_chunks, shown_first, table_of
from evsys_web.sweeps.templatetags.sweep_numbers import mean_and_deviation
from recipes import presets
from recipes.sweep_config import Spread
from tests.evsys_web.sweeps.conftest import RATE, MakeSweep, completed

MODEL = Path(presets.__file__).parent / "starter" / "model"
pytestmark = pytest.mark.django_db


def runs_of(sweep: Sweep) -> list[TrainingRun]:
    return [each.run for each in sweep.members.select_related("run").order_by("combination", "seed")]


def test_results_stand_beside_the_values_that_made_them_whatever_the_order_of_axes(make_sweep: MakeSweep) -> None:
    """PostgreSQL gives the keys of JSON back in an order of its own: the shorter first."""
    sweep = make_sweep(
        {RATE: [0.01, 0.1], "algorithm.params.num_epochs": [1, 2], "algorithm.params.batch_size": [4, 8]}, seeds=[]
    )
    sweep.refresh_from_db()
    table = table_of(sweep)
    assert table.axes == [RATE, "algorithm.params.num_epochs", "algorithm.params.batch_size"]
    for row in table.rows:
        (member,) = row.members
        params = member.run.config["algorithm"]["params"]
        assert {path: params[path.rpartition(".")[2]] for path in table.axes} == row.values


def test_mean_and_deviation_are_over_completed_runs_alone(sweep: Sweep) -> None:
    runs = runs_of(sweep)
    for run, loss in zip(runs[:2], (1.0, 2.0), strict=True):
        completed(run, train__mean_nll=loss)
    completed(runs[2], train__mean_nll=900.0)
    TrainingRun.objects.filter(pk=runs[2].pk).update(status=Status.FAILED)  # its last value is no result
    completed(runs[3], train__mean_nll=5.0)
    table = table_of(sweep)
    assert table.axes == [RATE] and table.names == ["learning_rate"] and table.keys == ["train/mean_nll"]
    first, second = table.rows
    assert first.spreads == [Spread(2, 1.5, pytest.approx(math.sqrt(0.5)))]
    assert (first.num_completed, first.num_failed, first.num_live) == (2, 1, 0)
    assert second.spreads == [Spread(1, 5.0, None)] and second.num_live == 2


def test_evals_come_first_then_what_the_algorithm_is_judged_by() -> None:
    mock, rl = (TrainingRun(config={"algorithm": {"kind": kind}}) for kind in ("mock_sft", "rl"))
    offered = ["eval/held_out/accuracy", "reward/mean", "time/step", "train/mean_nll"]
    assert shown_first(offered, [mock, mock]) == ["eval/held_out/accuracy", "train/mean_nll"]
    assert shown_first(offered, [rl, mock])[1:] == ["reward/mean", "train/mean_nll"]
    assert shown_first(["time/step"], [mock]) == ["time/step"] and shown_first([], []) == []


def test_it_is_sorted_by_axis_or_metric_and_what_has_no_number_comes_last(make_sweep: MakeSweep) -> None:
    sweep = make_sweep({RATE: [0.01, 0.1, 0.5, 1.0]}, [0])
    for run, loss in zip(runs_of(sweep), (2.0, 1.0, math.nan), strict=False):
        completed(run, train__mean_nll=loss)

    def rates(sort: str) -> list[float]:
        return [row.values[RATE] for row in table_of(sweep, sort=sort).rows]

    assert rates("train/mean_nll") == [0.1, 0.01, 0.5, 1.0]
    assert rates("-train/mean_nll") == [0.01, 0.1, 0.5, 1.0]
    assert rates(f"-{RATE}") == [1.0, 0.5, 0.1, 0.01]
    assert rates("no such thing") == rates("") == [0.01, 0.1, 0.5, 1.0]


def test_only_metrics_that_there_are_can_be_asked_for(sweep: Sweep) -> None:
    completed(runs_of(sweep)[0], train__mean_nll=1.0, train__loss=2.0)
    assert table_of(sweep, asked=["train/loss", "none/such", "train/loss"]).keys == ["train/loss"]
    assert table_of(sweep, asked=["none/such"]).keys == ["train/mean_nll"]


def test_the_table_as_csv_runs_no_formula(make_sweep: MakeSweep) -> None:
    sweep = make_sweep({"model.name": ["starter", str(MODEL)]}, [0, 1])
    sweep.config["matrix"]["axes"]["model.name"][1] = "=cmd"
    completed(runs_of(sweep)[0], train__mean_nll=1.5)
    lines = list(csv.DictReader(io.StringIO(b"".join(csv_chunks(table_of(sweep))).decode())))
    assert [line["model.name"] for line in lines] == ["starter", "'=cmd"]
    assert lines[0]["train/mean_nll mean"] == "1.5" and lines[0]["train/mean_nll n"] == "1" and lines[0]["live"] == "1"
    assert lines[1]["train/mean_nll mean"] == "" and lines[1]["completed"] == "0"


@pytest.mark.parametrize(
    ("spread", "text"),
    [
        (None, "–"),
        (Spread(1, 0.5, None), "0.5"),
        (Spread(3, 0.41234, 0.0183), "0.412 ± 0.018"),
        (Spread(3, 1234.5, 31.0), "1,234 ± 31"),
        (Spread(2, 1.0, 0.0), "1 ± 0"),
        (Spread(2, math.nan, None), "NaN"),
        (Spread(2, 1e-9, 1e-10), "1.00000e-09 ± 1.0e-10"),
    ],
)
def test_a_mean_has_as_many_digits_as_its_spread_leaves_it(spread: Spread | None, text: str) -> None:
    assert mean_and_deviation(spread) == text
