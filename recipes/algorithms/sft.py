"""Supervised fine-tuning: learn the assistant turns of chats by cross-entropy.

1. The loss of a step is the mean over its trained tokens, not their sum: the learning rate does not grow with batch or length.
2. Rows are shuffled anew every epoch, by seed and epoch alone; the last, smaller batch trains too.
3. A row whose reply lies beyond max_seq_len trains nothing; it is left out and counted, not padded and not hidden.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
from pydantic import BaseModel, field_validator

from recipes.algorithms.base import BaseAlgorithm
from recipes.config import BaseAlgorithmConfig, knob
from recipes.errors import BackendError, DataError, RenderingError
from recipes.protocols import Backend, Evaluator, SamplingClient
from recipes.registry import register_algorithm
from recipes.rendering import Supervise, check_renderer, datum_of, render_sequences, with_renderer
from recipes.row_order import Split, num_batches, rows_of_step, split_off
from recipes.rows import RowFormat, parse
from recipes.types import Datum, ForwardBackwardResult, Headline, Metrics, Row, RunContext, TrainingBatch

ROWS_PER_REPORT = 20_000


class SFTConfig(BaseAlgorithmConfig):
    max_seq_len: int = knob(
        2048,
        "Longer conversations lose their end; never more than the model can read.",
        unit="tokens",
        ge=2,
        le=1_048_576,
        essential=True,
    )
    supervise: Supervise = knob(Supervise.ALL_ASSISTANT, "Which assistant turns are learnt.", essential=True)
    validation_fraction: float = knob(0.0, "Share of the rows held out to measure the loss on; 0 holds out none.", ge=0, le=0.5)
    validation_every: int = knob(
        0, "Measure the validation loss every so many steps; 0 measures it once per epoch.", unit="steps", ge=0, le=10_000_000
    )

    _renderer_exists = field_validator("renderer_name")(check_renderer)


class Rendering(NamedTuple):
    """The datums of each row that has any (a row may be split, see `recipes.rendering`), and what happened to the rest."""

    datums: list[list[Datum]]
    num_dropped: int
    num_truncated: int
    num_split: int
    tokens_cut: int


@register_algorithm("sft")
class SFT(BaseAlgorithm):
    """Rows are `{"messages": […], "tools"?}`. The seam for other losses: override `build_batch` and set its `loss_fn`."""

    name: ClassVar[str] = "sft"
    summary: ClassVar[str] = "Supervised fine-tuning: the model learns to give the assistant's replies in the rows."
    Config: ClassVar[type[BaseModel]] = SFTConfig
    row_format: ClassVar[RowFormat | None] = RowFormat.MESSAGES
    headline: ClassVar[Headline] = Headline("train/mean_nll", "Loss")

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self._datums: list[list[Datum]] = []
        self._validation: list[Datum] = []
        self._train_rows: list[Row] = []
        self._max_seq_len: int = self.cfg.max_seq_len

    async def setup(self, ctx: RunContext, backend: Backend) -> None:
        """Render the rows. Raises DataError for a row that is none, or when no row is left."""
        tokenizer = with_renderer(backend.get_tokenizer(), self.cfg.renderer_name)
        rows = list(ctx.extras.get("train_rows", []))
        held_out = ctx.extras.get("validation_rows")
        if not rows:
            raise DataError("There are no rows to train on. Choose a dataset with at least one conversation.")
        if held_out is not None and self.cfg.validation_fraction:
            self.report("warning", "The rows to measure the loss on are given, so validation_fraction holds out no others.")
        self._max_seq_len = self.readable_length(tokenizer, backend, self.cfg.max_seq_len)
        self._train_rows, validation_rows = (rows, list(held_out)) if held_out is not None else self._split(rows)
        rendering = await self._render(self._train_rows, tokenizer, "training")
        self._datums = rendering.datums
        if not self._datums:
            raise DataError(
                f"No row is left to train on: all {len(self._train_rows)} lose every trained token at max_seq_len"
                f" {self._max_seq_len}. Raise max_seq_len."
            )
        if validation_rows:
            validation = await self._render(validation_rows, tokenizer, "validation")
            self._validation = [datum for datums in validation.datums for datum in datums]
        self._steps_per_epoch = num_batches(len(self._datums), self.cfg.batch_size)
        weights = [datum.loss_fn_inputs["weights"] for datums in self._datums for datum in datums]
        num_tokens, num_trained = sum(map(len, weights)), sum(int((row != 0).sum()) for row in weights)
        self.report(
            "info",
            f"Training on {len(self._datums):,} rows with {num_tokens:,} tokens, {num_trained:,} of them trained;"
            f" {len(validation_rows):,} rows are held out.",
        )
        if self.cfg.batch_size > len(self._datums):
            self.report(
                "warning",
                f"The batch of {self.cfg.batch_size:,} rows is larger than the data: every step learns from all"
                f" {len(self._datums):,} rows, one step per epoch.",
            )

    async def build_batch(self, step_index: int) -> TrainingBatch:
        """The next rows of this epoch's order; weights sum to 1 over the batch, so its loss is the mean over trained tokens."""
        chosen = rows_of_step(step_index, num_rows=len(self._datums), batch_size=self.cfg.batch_size, seed=self.cfg.seed)
        datums = [datum for row in chosen for datum in self._datums[row]]
        return TrainingBatch(data=_weighing_one(datums), loss_fn="cross_entropy")

    def step_metrics(self, step_index: int, batch: TrainingBatch, fb_result: ForwardBackwardResult) -> Metrics:
        """mean_nll = −Σ w·lp / Σ w, whatever the loss; loss_sum = −Σ lp over the trained tokens."""
        found = _negative_log_likelihood(batch.data, fb_result)
        if found is None:
            return {}
        return {"train/mean_nll": found.mean, "train/loss_sum": found.mean * found.num_tokens}

    def evaluators(self, ctx: RunContext) -> Sequence[Evaluator]:
        if not self._validation:
            return ()
        every = self.cfg.validation_every or self._steps_per_epoch
        return (ValidationLoss(self._validation, run_every=every, batch_size=self.cfg.batch_size),)

    def train_rows(self, ctx: RunContext) -> Sequence[Row]:
        return self._train_rows

    def _split(self, rows: list[Row]) -> Split:
        split = split_off(rows, self.cfg.validation_fraction, self.cfg.seed)
        if self.cfg.validation_fraction and not split.held_out:
            self.report("warning", f"{len(rows)} rows are too few to hold out {self.cfg.validation_fraction:.0%} of them.")
        return split

    async def _render(self, rows: Sequence[Row], tokenizer: Any, purpose: str) -> Rendering:
        datums: list[list[Datum]] = []
        num_dropped = num_truncated = num_split = tokens_cut = 0
        for number, row in enumerate(rows, 1):
            if number % 64 == 0:
                await asyncio.sleep(0)  # a stop is seen while a large dataset is rendered
            if number % ROWS_PER_REPORT == 0:
                self.report("info", f"Rendered {number:,} of {len(rows):,} {purpose} rows.")
            sequences = self._sequences(row, number, tokenizer)
            cut = sum(sequence.truncated for sequence in sequences)
            trained = [datum_of(sequence) for sequence in sequences if any(sequence.weights[1:])]
            num_split += len(sequences) > 1
            num_truncated += cut > 0
            tokens_cut += cut
            num_dropped += not trained
            if trained:
                datums.append(trained)
        rendering = Rendering(datums, num_dropped, num_truncated, num_split, tokens_cut)
        self._report_rendering(rendering, len(rows), purpose)
        return rendering

    def _sequences(self, row: Row, number: int, tokenizer: Any) -> Any:
        parsed = parse(row, RowFormat.MESSAGES, line=number, place="row")
        try:
            return render_sequences(
                parsed["messages"],
                tokenizer,
                supervise=self.cfg.supervise,
                enable_thinking=self.cfg.enable_thinking,
                max_seq_len=self._max_seq_len,
                tools=parsed.get("tools"),
            )
        except RenderingError as error:
            raise DataError(f"Row {number:,}, {error.field}: {error}", line=number, field=error.field) from error

    def _report_rendering(self, rendering: Rendering, num_rows: int, purpose: str) -> None:
        if rendering.num_truncated:
            self.report(
                "warning",
                f"{rendering.num_truncated:,} of {num_rows:,} {purpose} rows are longer than max_seq_len"
                f" {self._max_seq_len:,} and lost {rendering.tokens_cut:,} tokens at their end.",
            )
        if rendering.num_dropped:
            self.report(
                "warning",
                f"{rendering.num_dropped:,} of {num_rows:,} {purpose} rows have no trained token left and are left out.",
            )
        if rendering.num_split:
            self.report(
                "info",
                f"{rendering.num_split:,} of {num_rows:,} {purpose} rows became one sequence per assistant turn: the chat"
                " template renders earlier turns differently from the turn that is asked for.",
            )


class ValidationLoss:
    """Mean negative log-likelihood of the held-out rows, without a gradient."""

    name = "validation"
    needs_sampler = False

    def __init__(self, datums: Sequence[Datum], *, run_every: int, batch_size: int) -> None:
        self.run_every = run_every
        self._batches = [list(datums[start : start + batch_size]) for start in range(0, len(datums), batch_size)]

    async def evaluate(self, backend: Backend, sampler: SamplingClient | None, *, step: int) -> Mapping[str, float]:
        pending = [backend.forward_async(batch, loss_fn="cross_entropy") for batch in self._batches]
        found = [_negative_log_likelihood(batch, await result) for batch, result in zip(self._batches, pending, strict=True)]
        num_tokens = sum(part.num_tokens for part in found if part)
        if not num_tokens:
            raise BackendError("The backend gives no log-probabilities to measure the validation loss with.", permanent=True)
        total = sum(part.mean * part.num_tokens for part in found if part)
        return {"eval/validation_nll": total / num_tokens, "eval/validation_tokens": float(num_tokens)}


class _Likelihood(NamedTuple):
    mean: float
    num_tokens: int


def _weighing_one(datums: Sequence[Datum]) -> list[Datum]:
    total = np.float32(sum(float(datum.loss_fn_inputs["weights"].sum(dtype=np.float64)) for datum in datums))
    return [
        replace(datum, loss_fn_inputs={**datum.loss_fn_inputs, "weights": datum.loss_fn_inputs["weights"] / total})
        for datum in datums
    ]


def _negative_log_likelihood(data: Sequence[Datum], result: ForwardBackwardResult) -> _Likelihood | None:
    """−Σ w·lp / Σ w, in float64; None when the backend gives no log-probabilities."""
    outputs = result.loss_fn_outputs
    if len(outputs) != len(data) or not all("logprobs" in output for output in outputs):
        return None
    weights = np.concatenate([datum.loss_fn_inputs["weights"].ravel() for datum in data]).astype(np.float64)
    logprobs = np.concatenate([np.asarray(output["logprobs"], dtype=np.float64).ravel() for output in outputs])
    trained = weights != 0
    if not trained.any():
        return None
    mean = -float((weights[trained] * logprobs[trained]).sum() / weights[trained].sum())
    return _Likelihood(mean, int(trained.sum()))
