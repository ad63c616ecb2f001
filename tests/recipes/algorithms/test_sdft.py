"""Self-distillation on the mock backend: targets, loss and gradient worked out again from the tables, cuts and refusals."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.algorithms.sdft import SDFT, SDFTConfig, datums_of, distance
from recipes.backends.mock import MockBackend, MockSampler
from recipes.config import RunConfig
from recipes.errors import BackendError, ConfigError
from recipes.rollout_log import ROLLOUTS_FILE, read_step
from recipes.types import AdamParams, Array, ForwardBackwardResult, RunContext, SampleResult, TrainingBatch
from tests.recipes.runs_under_test import TIMING, Witness, chats, config, run

PARAMS: dict[str, Any] = {"batch_size": 4, "learning_rate": 0.05, "max_tokens": 10, "skip_first_n_tokens": 2, "topk": 5}


def sdft(folder: Path, *callbacks: Any, resume: bool = False, **params: Any) -> Any:
    options = {name: params.pop(name) for name in ("rows", "validation_rows") if name in params}
    return run(config("sdft", **PARAMS | params), folder, *callbacks, resume=resume, **options)


def untimed(steps: dict[int, Any]) -> dict[int, Any]:
    left_out = TIMING | {"time/rollouts"}
    return {step: {key: value for key, value in metrics.items() if key not in left_out} for step, metrics in steps.items()}


def log_softmax(row: Array) -> Array:
    found: Array = row - np.log(np.exp(row).sum())
    return found


class Laboratory:
    """One step on a table of bigrams that has moved away from the table of its teacher."""

    def __init__(self, folder: Path, **params: Any) -> None:
        self.algorithm = SDFT(**PARAMS | params)
        self.backend = MockBackend(output_dir=folder)
        rng = np.random.default_rng(1)
        self.backend._base = rng.normal(0, 2.0, self.backend._table.shape)
        self.backend._table = self.backend._base + rng.normal(0, 0.5, self.backend._table.shape)
        self.folder = folder

    async def step(self) -> TrainingBatch:
        context = RunContext("7", self.folder, config("sdft"), None, extras={"train_rows": chats()})  # type: ignore[arg-type]
        await self.algorithm.setup(context, self.backend)
        return await self.algorithm.build_batch(0)

    def loss(self, batch: TrainingBatch, table: Array) -> float:
        """Mean over taught positions of the cross-entropy with the teacher's five likeliest tokens, by the formula."""
        total, count = 0.0, 0
        for datum in batch.data:
            taught = datum.loss_fn_inputs["weights"].any(axis=1)
            for before in datum.model_input[taught]:
                teacher = log_softmax(self.backend._base[before])
                best = np.argsort(-teacher)[:5]
                share = np.exp(teacher[best]) / np.exp(teacher[best]).sum()
                total -= float((share * log_softmax(table[before])[best]).sum())
                count += 1
        return total / count


def test_the_replies_of_each_step_are_written_with_what_the_teacher_read(tmp_path: Path) -> None:
    witness = Witness()
    rows = chats(6)
    sdft(tmp_path, witness, rows=rows, max_steps=2, rollouts_kept=3, validation_fraction=0.0)
    logged = read_step(tmp_path / ROLLOUTS_FILE, 2)
    assert logged is not None and (logged.step, logged.num_rollouts, logged.previous, len(logged.groups)) == (2, 2, 1, 2)
    first = read_step(tmp_path / ROLLOUTS_FILE, 1)
    assert first is not None and first.num_rollouts == 4 and len(first.groups) == 3
    for group in first.groups:
        (reply,) = group["rollouts"]
        row = rows[int(group["task_id"].removeprefix("row ")) - 1]
        question, golden = row["messages"][0]["content"], row["messages"][1]["content"]
        assert reply["messages"][0]["content"] == question and reply["messages"][-1]["role"] == "assistant"
        assert question in reply["demonstration"] and golden in reply["demonstration"]
        assert reply["reward"] is None and reply["advantage"] is None and 0 <= reply["metrics"]["teacher_agrees"] <= 1
        assert reply["num_tokens"] <= 10


def test_a_step_trains_by_the_exact_gradient_of_the_mean_cross_entropy_with_the_teacher(tmp_path: Path) -> None:
    async def scenario() -> None:
        laboratory = Laboratory(tmp_path)
        batch = await laboratory.step()
        result = await laboratory.backend.forward_backward_async(batch.data, loss_fn="cross_entropy")
        await laboratory.backend.close()
        table, gradient = laboratory.backend._table, laboratory.backend._gradient
        assert gradient is not None
        expected = laboratory.loss(batch, table)
        metrics = laboratory.algorithm.step_metrics(0, batch, result)
        assert metrics["train/loss"] == -metrics["train/mean_logprob"] == pytest.approx(expected, rel=1e-6)
        assert result.metrics["loss:sum"] == pytest.approx(expected, rel=1e-6)
        assert metrics["kl/teacher"] == pytest.approx(expected - metrics["train/teacher_entropy"], rel=1e-6)
        for before in batch.data[0].model_input[-3:]:
            for after in np.argsort(-np.abs(gradient[before]))[:2]:
                values = []
                for move in (1e-5, -1e-5):
                    moved = table.copy()
                    moved[before, after] += move
                    values.append(laboratory.loss(batch, moved))
                assert gradient[before, after] == pytest.approx((values[0] - values[1]) / 2e-5, rel=1e-4, abs=1e-7)

    asyncio.run(scenario())


def test_targets_stand_at_the_students_own_tokens_and_the_first_ones_are_left_out(tmp_path: Path) -> None:
    async def scenario() -> None:
        laboratory = Laboratory(tmp_path, batch_size=3)
        await laboratory.step()
        algorithm = laboratory.algorithm
        client = await laboratory.backend.snapshot_sampling_client()
        answered = await algorithm.answer(algorithm._prompts[:3], client, (1,))
        for each, prompts, datum in zip(answered, algorithm._prompts, datums_of(answered, 2), strict=False):
            tokens = [*prompts.student, *each.reply.tokens]
            assert datum.model_input.tolist() == tokens[:-1]
            weights = datum.loss_fn_inputs["weights"]
            taught = np.flatnonzero(weights.any(axis=1)).tolist()
            assert taught == list(range(len(prompts.student) - 1 + 2, len(tokens) - 1))
            for place in taught:
                best = np.argsort(-laboratory.backend._base[tokens[place]])[:5]
                assert datum.loss_fn_inputs["target_tokens"][place].tolist() == best.tolist()
        total = sum(datum.loss_fn_inputs["weights"].sum(dtype=np.float64) for datum in datums_of(answered, 2))
        assert total == pytest.approx(1.0, rel=1e-6)
        await laboratory.backend.close()

    asyncio.run(scenario())


def test_it_learns_what_the_teacher_says(tmp_path: Path) -> None:
    async def scenario() -> tuple[float, float]:
        laboratory = Laboratory(tmp_path, topk=128)
        batch = await laboratory.step()
        kl = []
        for step in range(12):
            result = await laboratory.backend.forward_backward_async(batch.data, loss_fn="cross_entropy")
            kl.append(laboratory.algorithm.step_metrics(step, batch, result)["kl/teacher"])
            await laboratory.backend.optim_step_async(AdamParams(learning_rate=0.05))
            batch = await laboratory.algorithm.build_batch(step + 1)
        await laboratory.backend.close()
        return kl[0], kl[-1]

    first, last = asyncio.run(scenario())
    assert 0 < last < 0.7 * first


def test_a_reply_for_which_the_teacher_has_no_room_is_cut_and_counted(tmp_path: Path) -> None:
    witness = Witness()
    template = "{question}" + " padded" * 4
    lengths = [len(prompts.teacher) for prompts in _prompts(tmp_path / "x", template)]
    longest = max(lengths)
    result = sdft(tmp_path / "run", witness, demo_template=template, max_context_length=longest + 1 + 4, max_steps=1)
    assert (result.status, result.error) == ("completed", None)
    assert witness.steps[1]["rollout/teacher_cut"] > 0
    assert witness.steps[1]["tokens/trained"] <= 4 * (4 - 2) + 4 * (longest - min(lengths))


def _prompts(folder: Path, template: str) -> Any:
    async def scenario() -> Any:
        laboratory = Laboratory(folder, demo_template=template)
        await laboratory.step()
        await laboratory.backend.close()
        return laboratory.algorithm._prompts

    return asyncio.run(scenario())


def test_rows_without_room_for_a_reply_are_left_out_with_a_warning_and_all_of_them_are_an_error(tmp_path: Path) -> None:
    rows = chats(5)
    rows[1]["messages"][0]["content"] *= 40
    witness = Witness()
    assert sdft(tmp_path / "a", witness, rows=rows, max_context_length=600, max_steps=1).status == "completed"
    assert any("1 of 5 training rows leave no room" in message for level, message in witness.events if level == "warning")
    result = sdft(tmp_path / "b", rows=rows, max_context_length=20)
    assert result.status == "failed" and "No row is left to train on" in (result.error or "")


def test_a_resumed_run_is_that_which_was_never_stopped(tmp_path: Path) -> None:
    whole, first, second = Witness(), Witness(stop_after=3), Witness()
    params = {"num_epochs": 2, "validation_fraction": 0.2}
    assert sdft(tmp_path / "whole", whole, **params).status == "completed"
    sdft(tmp_path / "parts", first, **params)
    assert sdft(tmp_path / "parts", second, resume=True, **params).status == "completed"
    assert untimed(first.steps | second.steps) == untimed(whole.steps)
    assert first.evals | second.evals == whole.evals and whole.evals[2]["eval/validation_kl"] > 0


def test_rows_that_are_given_to_measure_on_are_measured(tmp_path: Path) -> None:
    witness = Witness()
    assert sdft(tmp_path, witness, validation_rows=chats(3), max_steps=2, validation_every=1).status == "completed"
    assert set(witness.evals) == {1, 2}
    assert any("3 rows are held out" in message for _, message in witness.events)


def test_a_backend_that_does_not_tell_likeliest_tokens_is_refused_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(MockBackend, "gives_topk_prompt_logprobs")
    with pytest.raises(ConfigError, match="which the backend mock does not tell") as refusal:
        config("sdft")
    assert refusal.value.path == ("backend", "kind")
    assert config("sft").backend.kind == "mock"


def test_a_teacher_that_leaves_a_position_out_is_an_error_not_a_guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = MockSampler.sample_async

    async def forgetful(self: MockSampler, **options: Any) -> SampleResult:
        found = await whole(self, **options)
        return SampleResult(found.sequences, topk_prompt_logprobs=[*(found.topk_prompt_logprobs or [])[:-1], None])

    monkeypatch.setattr(MockSampler, "sample_async", forgetful)
    result = sdft(tmp_path, max_steps=1)
    assert result.status == "failed" and "told no likeliest tokens at some position" in (result.error or "")


def test_a_backend_without_log_probabilities_is_an_error() -> None:
    with pytest.raises(BackendError, match="no log-probabilities of soft targets"):
        distance([], ForwardBackwardResult([{}], {}))


def test_skipping_every_token_is_refused() -> None:
    with pytest.raises(ValueError, match="must be less than max_tokens"):
        SDFTConfig(max_tokens=3)
    yaml = "data: {path: rows.jsonl}\nalgorithm: {kind: sdft, params: {topk: 0}}"
    with pytest.raises(ConfigError, match="topk"):
        RunConfig.from_yaml(yaml)
