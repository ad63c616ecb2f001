"""The point store against a plain list of rows that keeps everything."""

from __future__ import annotations

import math
import random
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from evsys_web.runs import metrics
from evsys_web.runs.chunks import downsample
from evsys_web.runs.metrics import Point
from evsys_web.runs.models import MetricChunk, MetricRow, TrainingRun

BEGAN = datetime(2026, 1, 1, tzinfo=UTC)
NAMES = ["train/mean_nll", "optim/lr", "eval/validation_nll", "tokens/total"]


def random_points(rng: random.Random, first_step: int, count: int) -> list[Point]:
    points = []
    for step in range(first_step, first_step + count):
        values = {"train/mean_nll": rng.gauss(1, 1), "optim/lr": 1e-4, "tokens/total": 100.0 * step}
        if rng.random() < 0.02:
            values["train/mean_nll"] = rng.choice([math.nan, math.inf, -math.inf])
        if rng.random() < 0.05:
            values["eval/validation_nll"] = rng.random()
        points.append(Point(step, BEGAN + timedelta(seconds=step), values))
    return points


def write(run: TrainingRun, points: list[Point]) -> None:
    metrics.write(run, enumerate(points, run.next_seqs(len(points))))


def same(found: list[float], expected: list[float]) -> bool:
    return np.array_equal(np.array(found), np.array(expected), equal_nan=True)


@pytest.mark.parametrize("seed", range(6))
def test_a_series_equals_the_plain_list_whatever_was_folded_and_truncated(
    run: TrainingRun, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setattr(metrics, "FOLD_ROWS", 50)
    rng = random.Random(seed)
    kept: list[Point] = []
    for _ in range(12):
        action = rng.choice(["write", "write", "fold", "fold some", "truncate"])
        if action == "write":
            points = random_points(rng, kept[-1].step + 1 if kept else 1, rng.randint(1, 120))
            write(run, points)
            kept += points
        elif action == "fold":
            metrics.fold(run)
        elif action == "fold some":
            metrics.fold(run, keep=30)
        elif kept:
            step = rng.randint(0, kept[-1].step)
            metrics.truncate_after(run, step)
            kept = [point for point in kept if point.step <= step]
    curves = metrics.series(run, NAMES, max_points=10**6)
    for name in NAMES:
        having = [point for point in kept if name in point.values]
        assert curves[name].x.tolist() == [point.step for point in having]
        assert same(curves[name].y_last.tolist(), [point.values[name] for point in having])
        assert curves[name].count == len(having)
    assert [row.step for row in metrics.rows(run)] == [point.step for point in kept]
    assert metrics.keys(run) == sorted({key for point in kept for key in point.values})
    last = {key: value for point in kept for key, value in point.values.items()}
    latest = metrics.latest(run)
    assert latest.keys() == last.keys()
    assert same(list(latest.values()), [last[key] for key in latest])


def test_rows_after_a_number_are_seen_once_across_the_fold(run: TrainingRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "FOLD_ROWS", 40)
    write(run, random_points(random.Random(0), 1, 130))
    metrics.fold(run, keep=10)
    assert MetricRow.objects.count() == 10
    for seq in (0, 39, 40, 41, 119, 120, 125, 130):
        assert [row.seq for row in metrics.after(run, seq)] == list(range(seq + 1, 131))
    assert [row.seq for row in metrics.after(run, 30, limit=25)] == list(range(31, 56))
    assert [row.seq for row in metrics.after(run, 110, limit=15)] == list(range(111, 126))


def test_numbers_that_are_not_finite_survive_storage_and_are_pointed_out(run: TrainingRun) -> None:
    for step, value in enumerate([1.0, math.nan, math.inf, -math.inf, 2.0], 1):
        metrics.append(run, step, {"train/mean_nll": value})
    assert MetricRow.objects.get(step=2).values == {"train/mean_nll": "NaN"}
    for _ in range(2):
        curve = metrics.series(run, ["train/mean_nll"])["train/mean_nll"].as_json()
        assert curve["y"] == [1.0, "NaN", "Infinity", "-Infinity", 2.0]
        assert curve["non_finite"] == [
            {"x": 2.0, "value": "NaN"},
            {"x": 3.0, "value": "Infinity"},
            {"x": 4.0, "value": "-Infinity"},
        ]
        metrics.fold(run)
    assert MetricRow.objects.count() == 0


def test_a_bucket_keeps_a_spike_of_one_point_and_says_how_many_points_there_are() -> None:
    y = np.sin(np.arange(86_000) / 1000)
    y[12_345], y[54_321], y[70_000] = 50, -50, np.nan
    curve = downsample(np.arange(86_000.0), y, 1500)
    assert (len(curve.x), curve.count) == (1500, 86_000)
    assert (curve.y_max.max(), curve.y_min.min()) == (50, -50)
    assert np.isfinite(curve.y_min).all()
    assert curve.non_finite == [(70_000.0, "NaN")]
    assert curve.x[-1] == 85_999


def test_a_bucket_without_any_number_has_no_smallest_and_no_largest() -> None:
    curve = downsample(np.arange(10.0), np.array([math.nan] * 5 + [1, 2, 3, 4, 5]), 2)
    assert curve.as_json()["min"] == ["NaN", 1.0]
    assert curve.as_json()["max"] == ["NaN", 5.0]


def test_points_lie_on_the_time_or_the_tokens_that_were_asked_for(run: TrainingRun) -> None:
    TrainingRun.objects.filter(pk=run.pk).update(started_at=BEGAN)
    run.refresh_from_db()
    write(run, [Point(1, BEGAN + timedelta(seconds=2), {"tokens/total": 70, "train/mean_nll": 3})])
    write(run, [Point(1, BEGAN + timedelta(seconds=3), {"eval/validation_nll": 5})])
    write(run, [Point(2, BEGAN + timedelta(seconds=4), {"tokens/total": 140, "train/mean_nll": 2})])
    for _ in range(2):
        by_time = metrics.series(run, ["eval/validation_nll", "train/mean_nll"], x="time")
        by_tokens = metrics.series(run, ["eval/validation_nll", "train/mean_nll"], x="tokens")
        assert by_time["eval/validation_nll"].x.tolist() == [3]
        assert by_tokens["eval/validation_nll"].x.tolist() == [70]
        assert by_tokens["train/mean_nll"].x.tolist() == [70, 140]
        metrics.fold(run)


def test_zooming_in_brings_more_detail_of_that_stretch(run: TrainingRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "FOLD_ROWS", 100)
    write(run, random_points(random.Random(1), 1, 950))
    metrics.fold(run, keep=50)
    curve = metrics.series(run, ["optim/lr"], start=333, stop=872)["optim/lr"]
    assert curve.x.tolist() == list(range(333, 873))
    by_tokens = metrics.series(run, ["optim/lr"], x="tokens", start=33_300, stop=87_200)["optim/lr"]
    assert by_tokens.count == 540
    for start, stop, count in (
        (-math.inf, math.inf, 950),
        (math.nan, None, 0),
        (1e300, None, 0),
        (-5, 0.5, 0),
        (949.5, 1e300, 1),
    ):
        assert metrics.series(run, ["optim/lr"], start=start, stop=stop)["optim/lr"].count == count


def test_a_run_without_points_has_empty_curves(run: TrainingRun) -> None:
    assert metrics.keys(run) == [] and metrics.latest(run) == {} and metrics.after(run, 0) == []
    assert metrics.series(run, ["train/mean_nll"], x="tokens")["train/mean_nll"].count == 0


def test_known_pairs_are_found_folded_or_not(run: TrainingRun) -> None:
    metrics.append(run, 5, {"train/mean_nll": 1})
    metrics.fold(run)
    metrics.append(run, 6, {"optim/lr": 1})
    assert metrics.known(run, [5, 6, 7]) == {(5, "train/mean_nll"), (6, "optim/lr")}


def test_a_million_points_are_read_and_thinned_out(run: TrainingRun) -> None:
    values = np.random.default_rng(0).normal(size=1000).astype("<f8").tobytes()
    stretches = []
    for first in range(1, 1_000_001, 1000):
        shared = {"run_id": run.pk, "first_seq": first, "last_seq": first + 999, "first_step": first, "last_step": first + 999}
        stretches.append(MetricChunk(key=":step", count=1000, data=b"", **shared))
        stretches.append(MetricChunk(key="train/mean_nll", count=1000, data=values, **shared))
    MetricChunk.objects.bulk_create(stretches)
    curve = metrics.series(run, ["train/mean_nll"])["train/mean_nll"]
    assert (curve.count, len(curve.x)) == (1_000_000, 1500)
