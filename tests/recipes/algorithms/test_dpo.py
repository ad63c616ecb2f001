"""Preferences on the mock backend: loss and gradient by an independent formula and by differences, what is left out, resumes."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recipes.algorithms.dpo import DPO, REFERENCE_FILE, DPOConfig, preference_loss
from recipes.backends.mock import MockBackend
from recipes.errors import ConfigError
from recipes.types import AdamParams, Row, RunContext, TrainingBatch
from tests.recipes.runs_under_test import TIMING, Witness, chats, config, run

PARAMS: dict[str, Any] = {"batch_size": 4, "learning_rate": 0.02}


def ask(text: str) -> list[Row]:
    return [{"role": "user", "content": text}]


def say(text: str) -> list[Row]:
    return [{"role": "assistant", "content": text}]


def pair_rows(count: int = 10) -> list[Row]:
    return [{"prompt": ask(f"Say {i}"), "chosen": say(f"yes, {i}"), "rejected": say(f"no {i} at all")} for i in range(count)]


def dpo(folder: Path, *callbacks: Any, rows: list[Row] | None = None, resume: bool = False, **params: Any) -> Any:
    options = {name: params.pop(name) for name in ("backend", "validation_rows") if name in params}
    chosen = pair_rows() if rows is None else rows
    return run(config("dpo", **PARAMS | params), folder, *callbacks, rows=chosen, resume=resume, **options)


def untimed(steps: dict[int, Any]) -> dict[int, Any]:
    return {step: {key: value for key, value in metrics.items() if key not in TIMING} for step, metrics in steps.items()}


def told(witness: Witness) -> list[str]:
    return [message for level, message in witness.events if level == "warning"]


# Written out again, pair by pair, in the words of the papers.
def by_hand(h: float, beta: float, loss: str, smoothing: float) -> float:
    if loss == "ipo":
        return (h - 1 / (2 * beta)) ** 2
    sigma = 1 / (1 + math.exp(-beta * h))
    return -(1 - smoothing) * math.log(sigma) - smoothing * math.log(1 - sigma)


@pytest.mark.parametrize(("loss", "smoothing"), [("sigmoid", 0.0), ("sigmoid", 0.2), ("ipo", 0.0)])
@pytest.mark.parametrize("beta", [0.05, 0.5, 2.0])
def test_the_loss_and_its_slope_are_those_of_the_papers(loss: str, smoothing: float, beta: float) -> None:
    drifts = np.array([-9.0, -1.5, 0.0, 0.3, 7.0])
    losses, slopes = preference_loss(drifts, beta=beta, loss=loss, label_smoothing=smoothing)
    assert losses == pytest.approx([by_hand(h, beta, loss, smoothing) for h in drifts], rel=1e-10)
    step = 1e-5
    numerical = [
        (by_hand(h + step, beta, loss, smoothing) - by_hand(h - step, beta, loss, smoothing)) / (2 * step) for h in drifts
    ]
    assert slopes == pytest.approx(numerical, rel=1e-5, abs=1e-8)


def test_a_pair_far_apart_overflows_nothing() -> None:
    losses, slopes = preference_loss(np.array([-1e6, 1e6]), beta=1.0)
    assert losses.tolist() == [1e6, 0.0] and slopes.tolist() == [-1.0, 0.0]


class Laboratory:
    """A DPO step on a table of bigrams that has moved away from its reference, with its loss worked out from the table alone."""

    def __init__(self, folder: Path, **params: Any) -> None:
        self.algorithm = DPO(batch_size=3, beta=0.7, **params)
        self.backend = MockBackend(output_dir=folder)
        self.start = self.backend._table.copy()
        self.folder = folder

    async def step(self, rows: list[Row]) -> TrainingBatch:
        context = RunContext("7", self.folder, config("dpo"), None, extras={"train_rows": rows})  # type: ignore[arg-type]
        await self.algorithm.setup(context, self.backend)
        self.backend._table = self.start + np.random.default_rng(1).normal(0, 0.3, self.start.shape)
        return await self.algorithm.build_batch(0)

    async def gradient(self, batch: TrainingBatch) -> Any:
        assert isinstance(batch.loss_fn, str)
        await self.backend.forward_backward_async(batch.data, loss_fn=batch.loss_fn)
        return self.backend._gradient

    def loss(self, rows: list[Row], table: Any, of: Callable[[float], float]) -> float:
        return float(np.mean([of(self._logratio(row, "chosen", table) - self._logratio(row, "rejected", table)) for row in rows]))

    def _logratio(self, row: Row, side: str, table: Any) -> float:
        tokenizer = self.backend.get_tokenizer()
        ids = tokenizer.apply_chat_template([*row["prompt"], *row[side]], tokenize=True, return_dict=False)
        head = tokenizer.apply_chat_template(row["prompt"], tokenize=True, return_dict=False, add_generation_prompt=True)
        end = max(index for index, each in enumerate(ids) if each == tokenizer.eos_token_id) + 1
        return self._logprob(ids[:end], len(head), table) - self._logprob(ids[:end], len(head), self.start)

    def _logprob(self, ids: list[int], start: int, table: Any) -> float:
        rows = table[ids[start - 1 : -1]]
        return float(sum(row[after] - np.log(np.exp(row).sum()) for row, after in zip(rows, ids[start:], strict=True)))


@pytest.mark.parametrize("params", [{}, {"label_smoothing": 0.1}, {"loss": "ipo"}])
def test_a_step_trains_by_the_exact_gradient_of_the_loss_it_reports(tmp_path: Path, params: dict[str, Any]) -> None:
    rows = pair_rows(3)
    rows[0]["prompt"] = [*ask("Hello"), *say("Hello yourself"), *ask("Say 0")]

    async def scenario() -> None:
        laboratory = Laboratory(tmp_path, **params)
        batch = await laboratory.step(rows)
        gradient = await laboratory.gradient(batch)
        await laboratory.backend.close()

        def loss(table: Any) -> float:
            smoothing, kind = params.get("label_smoothing", 0.0), params.get("loss", "sigmoid")
            return laboratory.loss(rows, table, lambda h: by_hand(h, 0.7, kind, smoothing))

        table = laboratory.backend._table
        assert batch.metrics["train/loss"] == pytest.approx(loss(table), rel=1e-5)
        for seed in range(3):
            along = np.random.default_rng(seed).normal(size=table.shape)
            numerical = (loss(table + 1e-5 * along) - loss(table - 1e-5 * along)) / 2e-5
            assert (gradient * along).sum() == pytest.approx(numerical, rel=1e-4)

    asyncio.run(scenario())


def test_only_the_assistants_turns_of_the_reply_count(tmp_path: Path) -> None:
    reply = [*say("let me see"), *ask("well?"), *say("yes")]
    rows = [{"prompt": [*ask("Hi"), *say("Hi yourself"), *ask("So?")], "chosen": reply, "rejected": say("no")}]

    async def scenario() -> None:
        laboratory = Laboratory(tmp_path)
        chosen, rejected = (await laboratory.step(rows)).data
        await laboratory.backend.close()
        texts = []
        for datum in (chosen, rejected):
            weights = datum.loss_fn_inputs["weights"]
            texts.append(laboratory.backend.get_tokenizer().decode(datum.loss_fn_inputs["target_tokens"][weights != 0].tolist()))
        assert texts == ["let me see<|im_end|>yes<|im_end|>", "no<|im_end|>"]
        assert chosen.loss_fn_inputs["weights"].max() == pytest.approx(-rejected.loss_fn_inputs["weights"].min())

    asyncio.run(scenario())


def test_the_first_step_stands_where_the_reference_stands(tmp_path: Path) -> None:
    witness = Witness()
    assert dpo(tmp_path, witness, max_steps=1).status == "completed"
    metrics = witness.steps[1]
    assert metrics["train/loss"] == pytest.approx(math.log(2))
    assert metrics["rewards/chosen"] == metrics["rewards/rejected"] == metrics["rewards/margins"] == 0
    assert metrics["train/chosen_nll"] == pytest.approx(math.log(259), rel=0.01), "an untrained model knows nothing"


@pytest.mark.parametrize("loss", ["sigmoid", "ipo"])
def test_it_learns_which_reply_is_preferred_and_held_out_pairs_agree(tmp_path: Path, loss: str) -> None:
    witness = Witness()
    result = dpo(tmp_path, witness, rows=pair_rows(20), loss=loss, num_epochs=8, validation_fraction=0.2)
    assert result.status == "completed", result.error
    assert len(witness.rows) == 16
    first, last = witness.steps[1], witness.steps[max(witness.steps)]
    assert last["train/loss"] < first["train/loss"] and last["rewards/margins"] > 0.4
    assert last["rewards/accuracies"] == 1 and last["rewards/chosen"] > last["rewards/rejected"]
    assert list(witness.evals) == [4 * epoch for epoch in range(1, 9)], "once per epoch when nothing else is asked for"
    measured = witness.evals[32]
    assert measured["eval/validation_accuracy"] == 1 and measured["eval/validation_margin"] > 0.4
    assert measured["eval/validation_loss"] < witness.evals[4]["eval/validation_loss"]


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_stopped_and_resumed_run_is_bit_equal_to_one_that_was_never_stopped(tmp_path: Path, stop_after: int) -> None:
    params: dict[str, Any] = {"num_epochs": 2, "validation_fraction": 0.2, "validation_every": 2, "seed": 5}
    whole, first, second = Witness(), Witness(stop_after=stop_after), Witness()
    dpo(tmp_path / "whole", whole, **params)
    assert dpo(tmp_path / "parts", first, **params).status == "cancelled"
    assert dpo(tmp_path / "parts", second, resume=True, **params).status == "completed"
    assert second.start_step == stop_after
    assert untimed(first.steps | second.steps) == untimed(whole.steps)
    assert first.evals | second.evals == whole.evals


def test_a_resumed_run_measures_from_where_it_began_even_on_a_backend_that_was_trained(tmp_path: Path) -> None:
    backend, first, second = MockBackend(output_dir=tmp_path), Witness(stop_after=2), Witness()
    dpo(tmp_path, first, backend=backend, num_epochs=2)
    dpo(tmp_path, second, backend=backend, num_epochs=2, resume=True)
    assert second.steps[3]["rewards/margins"] > first.steps[1]["rewards/margins"] == 0


def test_a_run_that_begins_from_a_checkpoint_has_that_as_its_reference(tmp_path: Path) -> None:
    trained = dpo(tmp_path / "first", num_epochs=4)
    settings = config("dpo", **PARAMS | {"max_steps": 1})
    settings.model.init_from_checkpoint = trained.artifacts["checkpoint-final"]
    witness = Witness()
    assert run(settings, tmp_path / "second", witness, rows=pair_rows()).status == "completed"
    assert witness.steps[1]["rewards/margins"] == 0


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda path: path.unlink(), "reference.jsonl of its folder, the reference, cannot be read"),
        (lambda path: path.write_text("nonsense\n"), "cannot be read"),
        (lambda path: path.write_text('{"chosen": 1, "rejected": 2}\n'), "the reference of 1 pairs, not of 10"),
    ],
)
def test_a_resume_without_its_reference_is_refused(tmp_path: Path, damage: Callable[[Path], Any], sentence: str) -> None:
    dpo(tmp_path, Witness(stop_after=1), num_epochs=2)
    damage(tmp_path / REFERENCE_FILE)
    result = dpo(tmp_path, num_epochs=2, resume=True)
    assert result.status == "failed" and sentence in str(result.error)


@pytest.mark.parametrize(
    ("rows", "params", "sentence"),
    [
        ([], {}, "There are no pairs to train on"),
        (chats(2), {}, "Row 1, prompt|prompt"),
        ([*pair_rows(1), {"prompt": "a", "chosen": "same", "rejected": "same"}], {}, "the same reply as chosen"),
        ([{"prompt": "a", "chosen": "b"}], {}, "rejected"),
        (pair_rows(3), {"max_seq_len": 8}, "none of 3 has two different sides of at most 8 tokens. Raise max_seq_len"),
    ],
)
def test_rows_that_are_no_pairs_end_the_run_before_its_first_step(
    tmp_path: Path, rows: list[Row], params: dict[str, Any], sentence: str
) -> None:
    witness = Witness()
    result = dpo(tmp_path, witness, rows=rows, **params)
    assert result.status == "failed" and not witness.steps
    assert any(words in str(result.error) for words in sentence.split("|")), result.error


def test_pairs_with_a_long_side_or_no_difference_are_left_out_and_counted(tmp_path: Path) -> None:
    unseen = [{"role": "assistant", "content": "a", "reasoning": "left out by the template"}]
    odd: list[Row] = [{"prompt": "q", "chosen": "x" * 900, "rejected": "b"}, {"prompt": "q", "chosen": "a", "rejected": unseen}]
    witness = Witness()
    result = dpo(tmp_path, witness, rows=[*pair_rows(4), *odd], max_seq_len=500, num_epochs=1)
    assert (result.status, result.num_steps) == ("completed", 1)
    assert told(witness) == [
        "1 of 6 training pairs have a side longer than max_seq_len 500 and are left out.",
        "1 of 6 training pairs differ in nothing that the chat template shows the model and are left out.",
    ]


def test_given_validation_rows_win_over_a_fraction(tmp_path: Path) -> None:
    witness = Witness()
    dpo(tmp_path, witness, max_steps=1, validation_rows=pair_rows(3), validation_fraction=0.5)
    assert len(witness.rows) == 10 and 1 in witness.evals
    assert "validation_fraction holds out no others" in told(witness)[0]


def test_a_backend_that_keeps_log_probabilities_to_itself_ends_the_run_with_a_sentence(tmp_path: Path) -> None:
    class Silent(MockBackend):
        def forward_async(self, data: Any, **options: Any) -> Any:
            async def without() -> Any:
                result = await MockBackend.forward_async(self, data, **options)
                return type(result)([{} for _ in result.loss_fn_outputs], result.metrics)

            return without()

    result = dpo(tmp_path, rows=pair_rows(3), backend=Silent(output_dir=tmp_path))
    assert result.status == "failed" and "gives no log-probabilities" in str(result.error)


def test_weights_that_are_no_numbers_end_the_run_with_a_way_out(tmp_path: Path) -> None:
    class Broken(MockBackend):
        def optim_step_async(self, adam: AdamParams) -> Any:
            self._table = self._table * np.nan
            return super().optim_step_async(adam)

    result = dpo(tmp_path, backend=Broken(output_dir=tmp_path), num_epochs=1)
    assert result.status == "failed" and "Lower the learning rate" in str(result.error)


@pytest.mark.parametrize(
    ("params", "sentence"),
    [
        ({"beta": 0}, "beta"),
        ({"label_smoothing": 0.5}, "label_smoothing"),
        ({"loss": "ipo", "label_smoothing": 0.1}, "label_smoothing has no meaning for ipo"),
        ({"loss": "hinge"}, "loss"),
        ({"renderer_name": "nope"}, "role_colon"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_a_sentence(params: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        DPO(**params)


def test_the_settings_work_by_themselves() -> None:
    settings = DPOConfig()
    assert (settings.learning_rate, settings.beta, settings.loss) == (1e-5, 0.1, "sigmoid")
