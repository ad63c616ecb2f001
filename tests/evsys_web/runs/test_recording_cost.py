"""What recording may take from the work: when it commits, with how many statements, and what it looks at in a step's numbers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from pytest_django.fixtures import Settings

from evsys_web.runs import metrics
from evsys_web.runs.models import TrainingRun
from evsys_web.runs.recorder import Reported, RunRecorder
from evsys_web.runs.work_recorder import COMMIT_SECONDS, REST_SECONDS, rest_after
from recipes.errors import DataError
from recipes.types import LoopState, RunResult


@pytest.mark.parametrize(
    ("took", "busy", "rests"),
    [
        (0.001, 0.0, REST_SECONDS),  # the work waits for a device: its steps are rows at once
        (0.01, 0.0, 0.09),  # a busy database: a tenth of the time at most
        (0.001, 0.5, REST_SECONDS),
        (0.0005, 0.75, 0.0795),
        (0.001, 1.0, COMMIT_SECONDS),  # the work computes here: a third of a hundredth of the time
        (5.0, 1.0, COMMIT_SECONDS),  # whatever a commit takes, viewers are not left without news
    ],
)
def test_the_less_the_work_leaves_of_the_processor_the_longer_the_recorder_rests(took: float, busy: float, rests: float) -> None:
    assert rest_after(took, busy) == pytest.approx(rests)


@pytest.mark.django_db(transaction=True)
def test_a_commit_is_two_statements_however_many_steps_and_pushes_the_lease_now_and_then(
    held_run: TrainingRun, settings: Settings
) -> None:
    settings.RUN_LEASE_SECONDS = 3600
    recording = RunRecorder(held_run)
    lease = TrainingRun.objects.get().lease_until
    for _ in range(2):
        with CaptureQueriesContext(connection) as captured:
            recording._commit([Reported(step, time.time(), {"train/loss": 1.0}) for step in range(7)])
        statements = [query["sql"] for query in captured.captured_queries if "runs_" in query["sql"]]
        assert ["UPDATE" in statements[0], "INSERT" in statements[1]] == [True, True]
        assert len(statements) == 2, statements
    assert held_run.metric_rows.count() == 14 and TrainingRun.objects.get().lease_until == lease
    recording._pushed -= 3600 / 30 + 1
    recording._commit([Reported(8, time.time(), {"train/loss": 1.0})])
    assert TrainingRun.objects.get().lease_until != lease


@pytest.mark.django_db(transaction=True)
def test_a_step_is_looked_at_as_closely_after_a_thousand_good_ones(held_run: TrainingRun) -> None:
    wrong: list[Mapping[str, Any]] = [{"train/loss": "much"}, {":seq": 1.0}, {"train/loss": 1.0, "a\nb": 1.0}, {1: 1.0}]
    with RunRecorder(held_run) as recording:
        state = LoopState(str(held_run.pk), 3, held_run.output_dir)
        recording.on_train_start(state)
        values: dict[str, Any] = {"train/loss": 1.0}
        recording.on_step_end(state, 1, None, values)
        values["train/loss"] = 99.0  # the loop's own dict: what it does to it later is not recorded
        for number in wrong:
            with pytest.raises(DataError):
                recording.on_step_end(state, 2, None, number)  # type: ignore[arg-type]
        recording.on_step_end(state, 2, None, {"train/loss": np.float32(0.5)})
        recording.on_step_end(state, 3, None, {"train/loss": float("nan"), "optim/lr": 1})
        recording.result = RunResult(str(held_run.pk), "completed")
    found = [row.values for row in metrics.rows(held_run)]
    assert found[:2] == [{"train/loss": 1.0}, {"train/loss": 0.5}]
    assert repr(found[2]) == "{'train/loss': nan, 'optim/lr': 1.0}"
