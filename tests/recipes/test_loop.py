"""One step in order, when checkpoints and evaluators are due, and what happens when a part fails or a stop is asked for."""

from __future__ import annotations

import asyncio
import math
import threading
from collections.abc import Awaitable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any, ClassVar

import pytest

from recipes.algorithms.mock import MockSFT
from recipes.backends.mock import MockBackend
from recipes.callbacks import read_metrics
from recipes.checkpoints import Manifest
from recipes.errors import BackendError
from recipes.protocols import Backend, Callback, Evaluator, SamplingClient
from recipes.types import (
    AdamParams,
    Datum,
    ForwardBackwardResult,
    LoopState,
    Metrics,
    OptimStepResult,
    RunContext,
    RunResult,
    TrainingBatch,
)
from tests.recipes.runs_under_test import Witness, config, run


class Recorder(MockBackend):
    """The mock backend, writing down when work is submitted and when it is done."""

    def __init__(self, output_dir: Path, calls: list[str]) -> None:
        super().__init__(output_dir=output_dir)
        self.calls = calls

    def forward_backward_async(
        self, data: Sequence[Datum], *, loss_fn: str, loss_fn_config: Mapping[str, Any] | None = None
    ) -> Awaitable[ForwardBackwardResult]:
        self.calls.append("submit forward_backward")
        return self._done("forward_backward", super().forward_backward_async(data, loss_fn=loss_fn))

    def optim_step_async(self, adam: AdamParams) -> Awaitable[OptimStepResult]:
        self.calls.append("submit optim_step")
        return self._done("optim_step", super().optim_step_async(adam))

    async def snapshot_sampling_client(self, name: str | None = None) -> Any:
        self.calls.append(f"snapshot {name}")
        return await super().snapshot_sampling_client(name)

    async def _done(self, what: str, work: Awaitable[Any]) -> Any:
        result = await work
        self.calls.append(f"done {what}")
        return result


class Scripted(MockSFT):
    """mock_sft whose batches, metrics and evaluators a test decides."""

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.backend: Backend | None = None
        self.evaluated: Sequence[Evaluator] = ()
        self.batches: dict[int, TrainingBatch | Exception] = {}

    async def open_backend(self, ctx: RunContext) -> Backend:
        return self.backend or await super().open_backend(ctx)

    async def build_batch(self, step_index: int) -> TrainingBatch:
        scripted = self.batches.get(step_index)
        if isinstance(scripted, Exception):
            raise scripted
        return scripted or await super().build_batch(step_index)

    def evaluators(self, ctx: RunContext) -> Sequence[Evaluator]:
        return self.evaluated


class Counting:
    """An evaluator that says which snapshot it got."""

    def __init__(self, name: str, *, run_every: int, needs_sampler: bool = True, error: Exception | None = None) -> None:
        self.name, self.run_every, self.needs_sampler, self.error = name, run_every, needs_sampler, error
        self.samplers: list[SamplingClient | None] = []

    async def evaluate(self, backend: Backend, sampler: SamplingClient | None, *, step: int) -> Mapping[str, float]:
        self.samplers.append(sampler)
        if self.error:
            raise self.error
        return {f"eval/{self.name}": float(step)}


def train(algorithm: Scripted, tmp_path: Path, *callbacks: Callback) -> RunResult:
    run_config = config("mock_sft", **algorithm.cfg.model_dump(exclude_unset=True))
    extras: dict[str, Any] = {"train_rows": []}
    return algorithm.train(RunContext("7", tmp_path, run_config, None, callbacks=list(callbacks), extras=extras))  # type: ignore[arg-type]


def test_both_requests_are_submitted_before_the_first_is_awaited_and_the_step_goes_in_order(tmp_path: Path) -> None:
    witness = Witness()
    algorithm = Scripted(max_steps=2, save_every=1)
    algorithm.backend = Recorder(tmp_path, witness.calls)
    algorithm.evaluated = [Counting("a", run_every=1), Counting("b", run_every=1)]
    train(algorithm, tmp_path, witness)
    one_step = ["submit forward_backward", "submit optim_step", "done forward_backward", "done optim_step"]
    assert witness.calls == [
        "start",
        *one_step,
        "step 1",
        "save step_1",
        "snapshot eval_1",
        "eval a 1",
        "eval b 1",
        *one_step,
        "step 2",
        "save final",
        "snapshot eval_2",
        "eval a 2",
        "eval b 2",
        "end",
    ]


def test_evaluators_share_one_snapshot_and_one_that_needs_none_gets_none(tmp_path: Path) -> None:
    algorithm = Scripted(max_steps=3)
    a, b, c = Counting("a", run_every=2), Counting("b", run_every=2), Counting("c", run_every=2, needs_sampler=False)
    algorithm.evaluated = [a, b, c]
    train(algorithm, tmp_path)
    assert a.samplers == b.samplers and a.samplers[0] is b.samplers[0] is not None
    assert len(a.samplers) == 2, "after step 2, and after the last step"
    assert c.samplers == [None, None]


def test_a_failing_evaluator_is_an_event_and_the_others_still_run(tmp_path: Path) -> None:
    witness, algorithm = Witness(), Scripted(max_steps=1)
    algorithm.evaluated = [Counting("broken", run_every=1, error=OSError("no judge")), Counting("fine", run_every=1)]
    assert train(algorithm, tmp_path, witness).status == "completed"
    assert witness.evals == {1: {"eval/fine": 1.0}}
    assert ("error", "The evaluator broken failed at step 1: OSError: no judge") in witness.events


def test_the_row_of_a_step_is_merged_in_the_agreed_order(tmp_path: Path) -> None:
    class Loud(Scripted):
        def step_metrics(self, step_index: int, batch: TrainingBatch, fb_result: ForwardBackwardResult) -> Metrics:
            return {"optim/lr": 1.0, "optim/grad_norm": 2.0, "train/mean_nll": 3.0, "sdft/topk": 4.0}

    witness, algorithm = Witness(), Loud(max_steps=1, batch_size=2)
    batch = asyncio.run(MockSFT(batch_size=2).build_batch(0))
    batch.metrics = {"train/mean_nll": 5.0}
    algorithm.batches = {0: batch}
    train(algorithm, tmp_path, witness)
    row = witness.steps[1]
    assert (row["optim/lr"], row["train/mean_nll"], row["sdft/topk"]) == (1.0, 5.0, 4.0)
    assert row["optim/grad_norm"] != 2.0, "the optimizer's own measurement wins"
    assert (row["progress/done"], row["tokens/total"]) == (1.0, 32.0)


def test_an_empty_batch_skips_the_update_but_takes_its_checkpoint_and_evaluation(tmp_path: Path) -> None:
    witness, algorithm = Witness(), Scripted(max_steps=2, save_every=1)
    algorithm.batches = {0: TrainingBatch([], metrics={"reward/mean": 0.5})}
    algorithm.backend = Recorder(tmp_path, witness.calls)
    algorithm.evaluated = [Counting("a", run_every=1, needs_sampler=False)]
    train(algorithm, tmp_path, witness)
    assert witness.calls[:4] == ["start", "step 1", "save step_1", "eval a 1"]
    assert witness.steps[1]["train/skipped_empty_batch"] == 1.0
    assert witness.steps[1]["reward/mean"] == 0.5
    assert "train/skipped_empty_batch" not in witness.steps[2]


@pytest.mark.parametrize(
    ("num_steps", "saves", "expected"),
    [
        (100, {"save_at_fractions": [0.5, 0.75, 0.9, 1.0]}, ["step_50", "step_75", "step_90", "final"]),
        (10, {"save_at_fractions": [0.1, 0.33]}, ["step_1", "step_3", "final"]),
        (7, {"save_every": 3}, ["step_3", "step_6", "final"]),
        (6, {"save_every": 3}, ["step_3", "final"]),
    ],
)
def test_checkpoints_are_saved_exactly_where_asked_and_the_last_step_once(
    tmp_path: Path, num_steps: int, saves: dict[str, Any], expected: list[str]
) -> None:
    witness = Witness()
    run(config("mock_sft", max_steps=num_steps, **saves), tmp_path, witness)
    assert [checkpoint.name for checkpoint in witness.checkpoints] == expected


def test_a_stop_finishes_the_step_saves_it_and_ends_as_cancelled(tmp_path: Path) -> None:
    witness = Witness(stop_after=3)
    result = run(config("mock_sft", max_steps=10), tmp_path, witness)
    assert witness.calls[-3:] == ["step 3", "save step_3", "end"]
    assert (result.status, result.steps, result.num_steps, result.error) == ("cancelled", 3, 10, None)
    assert "state-step_3" in result.artifacts


def test_a_second_stop_ends_at_once_and_saves_nothing(tmp_path: Path) -> None:
    witness = Witness(stop_after=3, times=2)
    result = run(config("mock_sft", max_steps=10, save_every=3), tmp_path, witness)
    assert witness.calls[-2:] == ["step 3", "end"]
    assert (result.status, result.steps) == ("cancelled", 3)


def test_a_second_stop_does_not_wait_for_a_long_step(tmp_path: Path) -> None:
    witness = Witness()

    class StopsItself(Witness):
        def on_train_start(self, state: LoopState) -> None:
            for seconds in (0.1, 0.2):
                threading.Timer(seconds, state.request_stop).start()

    started = perf_counter()
    result = run(config("mock_sft", max_steps=2, step_seconds=30), tmp_path, witness, StopsItself())
    assert perf_counter() - started < 20
    assert (result.status, result.steps) == ("cancelled", 0)


def test_a_stop_that_comes_before_the_first_step_trains_nothing(tmp_path: Path) -> None:
    class Impatient(Witness):
        def on_event(self, state: LoopState, level: str, message: str) -> None:
            if not self.events:
                state.request_stop()
            super().on_event(state, level, message)

    witness = Impatient()
    result = run(config("mock_sft", max_steps=2), tmp_path, witness)
    assert (result.status, result.steps, witness.steps) == ("cancelled", 0, {})


def test_a_foreseen_failure_saves_the_last_step_and_says_where_it_happened(tmp_path: Path) -> None:
    witness, algorithm = Witness(), Scripted(max_steps=5)
    algorithm.batches = {3: BackendError("The server is gone.", permanent=True)}
    result = train(algorithm, tmp_path, witness)
    assert (result.status, result.error, result.steps) == ("failed", "The server is gone.", 3)
    assert [checkpoint.name for checkpoint in witness.checkpoints] == ["step_3"]
    assert ("error", "Failed after step 3 of 5: The server is gone.") in witness.events
    assert witness.result == result


def test_an_unforeseen_failure_is_recorded_and_raised(tmp_path: Path) -> None:
    witness, algorithm = Witness(), Scripted(max_steps=5)
    algorithm.batches = {2: ZeroDivisionError("division by zero")}
    with pytest.raises(ZeroDivisionError):
        train(algorithm, tmp_path, witness)
    assert witness.result and witness.result.status == "failed"
    assert witness.result.error == "ZeroDivisionError: division by zero"
    assert [checkpoint.name for checkpoint in witness.checkpoints] == ["step_2"]


def test_a_failed_forward_pass_leaves_the_last_step_to_be_saved(tmp_path: Path) -> None:
    witness, algorithm = Witness(), Scripted(max_steps=5)
    algorithm.batches = {2: TrainingBatch(asyncio.run(MockSFT().build_batch(0)).data, loss_fn="no_such_loss")}
    result = train(algorithm, tmp_path, witness)
    assert result.status == "failed" and "no_such_loss" in (result.error or "")
    assert [checkpoint.name for checkpoint in witness.checkpoints] == ["step_2"]


def test_weights_in_the_middle_of_an_update_are_not_saved(tmp_path: Path) -> None:
    class Careless(Recorder):
        """Updates although its forward pass failed."""

        async def _done(self, what: str, work: Awaitable[Any]) -> Any:
            await work
            if what == "forward_backward" and self.calls.count("submit forward_backward") == 3:
                raise BackendError("lost", permanent=True)
            return await super()._done(
                what, asyncio.sleep(0, ForwardBackwardResult([], {}) if what[0] == "f" else OptimStepResult({}))
            )

    witness, algorithm = Witness(), Scripted(max_steps=5)
    algorithm.backend = Careless(tmp_path, [])
    assert train(algorithm, tmp_path, witness).status == "failed"
    assert witness.checkpoints == []
    assert any("not saved" in message for _, message in witness.events)


def test_a_loss_that_is_no_number_is_kept_warned_of_once_and_readable_in_the_file(tmp_path: Path) -> None:
    class Diverging(Scripted):
        def step_metrics(self, step_index: int, batch: TrainingBatch, fb_result: ForwardBackwardResult) -> Metrics:
            return {"train/mean_nll": [1.0, math.nan, math.inf][step_index]}

    witness = Witness()
    train(Diverging(max_steps=3), tmp_path, witness)
    assert math.isnan(witness.steps[2]["train/mean_nll"]) and math.isinf(witness.steps[3]["train/mean_nll"])
    assert [message for level, message in witness.events if level == "warning"][0].startswith(
        "The loss is no number any more at step 2"
    )
    assert sum(level == "warning" for level, _ in witness.events) == 1
    told = [row["metrics"]["train/mean_nll"] for row in read_metrics(tmp_path / "metrics.jsonl")]
    assert told == [1.0, "NaN", "Infinity"]


def test_an_algorithm_without_setup_is_refused_with_its_name(tmp_path: Path) -> None:
    class Hollow(MockSFT):
        name: ClassVar[str] = "hollow"

        async def setup(self, ctx: RunContext, backend: Backend) -> None:
            return None

    run_config = config("mock_sft")
    result = Hollow().train(RunContext("7", tmp_path, run_config, None))  # type: ignore[arg-type]
    assert result.status == "failed" and "hollow" in (result.error or "") and "_steps_per_epoch" in (result.error or "")


def test_a_run_can_be_started_from_inside_an_event_loop(tmp_path: Path) -> None:
    async def cell() -> RunResult:
        return run(config("mock_sft", max_steps=2), tmp_path)

    assert asyncio.run(cell()).status == "completed"


def test_a_folder_that_cannot_be_written_is_told_to_callbacks_and_raised(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    witness = Witness()
    with pytest.raises(OSError, match="file"):
        run(config("mock_sft", max_steps=2), tmp_path / "file" / "run", witness)
    assert witness.result and witness.result.status == "failed"


class Forgetful(MockBackend):
    """Keeps a checkpoint until `until`; or does not say."""

    def __init__(self, output_dir: Path, until: datetime | None) -> None:
        super().__init__(output_dir=output_dir)
        self.until = until

    async def expiry_of(self, uris: Sequence[str]) -> datetime | None:
        assert len(uris) == 2
        if self.until is None:
            raise BackendError("Nobody answers.", permanent=False)
        return self.until


def test_how_long_a_checkpoint_is_kept_is_written_down_and_what_has_expired_is_not_resumed_from(tmp_path: Path) -> None:
    for until in (datetime.now(UTC) + timedelta(days=7), datetime.now(UTC) - timedelta(seconds=1)):
        folder = tmp_path / str(until.day)
        run(config(max_steps=2), folder, Witness(stop_after=1), backend=Forgetful(folder, until))
        manifest = Manifest(folder)
        assert [row.expires_at for row in manifest.read()] == [until]
        assert (manifest.newest_usable() is None) == (until < datetime.now(UTC))


def test_a_checkpoint_counts_also_when_nobody_says_how_long_it_is_kept(tmp_path: Path) -> None:
    witness = Witness()
    result = run(config(max_steps=1), tmp_path, witness, backend=Forgetful(tmp_path, None))
    assert result.status == "completed" and witness.checkpoints[0].expires_at is None
    assert ("warning", "It is not known for how long the checkpoint final is kept: Nobody answers.") in witness.events
