"""Direct preference optimisation: make the chosen reply likelier than the rejected one, measured from where the run began.

With lp the log-probability of a whole reply (summed over its tokens), ref the same under the weights that the run begins from
and h = (lp_chosen − ref_chosen) − (lp_rejected − ref_rejected), the loss of a pair is

- sigmoid  −(1 − ε)·log σ(β·h) − ε·log σ(−β·h)      (Rafailov et al. 2023, arXiv:2305.18290; ε: label smoothing, 0 in the paper)
- ipo      (h − 1/(2·β))²                            (Azar et al. 2023, arXiv:2310.12036, with β for its τ)

and the loss of a step is their mean.

1. A loss of pairs is no sum over datums, as backends compute them. So a step reads its pairs twice: once for lp, from which the
   slope dL/dlp of every reply follows in closed form, then with cross_entropy weighted by −dL/dlp. That gradient is exact on any
   backend whose losses are sums, at 1.5 times the cost.
2. The reference is no second model: the log-probabilities of all pairs are taken once, before the first step, and kept in
   reference.jsonl. A resumed run reads them there, since its weights are no longer those.
3. A pair of which one side is longer than max_seq_len is left out and counted: half a reply is not what was preferred.
4. Only the replies count. Assistant turns within the prompt are context.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from pydantic import BaseModel, field_validator, model_validator

from recipes.algorithms.base import BaseAlgorithm
from recipes.config import BaseAlgorithmConfig, knob
from recipes.errors import BackendError, DataError, RenderingError
from recipes.protocols import Backend, Evaluator, SamplingClient
from recipes.registry import register_algorithm
from recipes.rendering import check_renderer, datum_of, render_sequences, with_renderer
from recipes.row_order import Split, num_batches, rows_of_step, split_off
from recipes.rows import RowFormat, parse
from recipes.stores import write_atomically
from recipes.token_lengths import sequences_of
from recipes.token_use import Range, TokenUse
from recipes.types import Array, Datum, ForwardBackwardResult, Row, RunContext, TrainingBatch, float_array

REFERENCE_FILE = "reference.jsonl"
ROWS_PER_REPORT = 20_000
BATCHES_IN_FLIGHT = 8


class PreferenceLoss(StrEnum):
    SIGMOID = "sigmoid"
    IPO = "ipo"


class DPOConfig(BaseAlgorithmConfig):
    learning_rate: float = knob(
        1e-5,
        "Peak Adam step size. Preferences want smaller steps than imitation: too large, and both replies become unlikely.",
        gt=0,
        le=1,
        essential=True,
    )
    batch_size: int = knob(8, "Pairs per optimizer step.", unit="pairs", ge=1, le=65536, essential=True)
    beta: float = knob(
        0.1, "How strongly the model is held to where it began: the larger, the nearer it stays.", gt=0, le=100, essential=True
    )
    loss: PreferenceLoss = knob(
        PreferenceLoss.SIGMOID, "sigmoid pushes pairs apart without end; ipo to a distance of 1 / (2 × beta) and no further."
    )
    label_smoothing: float = knob(0.0, "Share of the pairs that sigmoid takes to be labelled the wrong way round.", ge=0, lt=0.5)
    max_seq_len: int = knob(
        2048,
        "Pairs with a longer side are left out; never more than the model can read.",
        unit="tokens",
        ge=2,
        le=1_048_576,
        essential=True,
    )
    validation_fraction: float = knob(
        0.0, "Share of the pairs held out to measure the preference on; 0 holds out none.", ge=0, le=0.5
    )
    validation_every: int = knob(
        0, "Measure held-out pairs every so many steps; 0 measures them once per epoch.", unit="steps", ge=0, le=10_000_000
    )

    _renderer_exists = field_validator("renderer_name")(check_renderer)

    @model_validator(mode="after")
    def _parts_fit(self) -> DPOConfig:
        if self.label_smoothing and self.loss is not PreferenceLoss.SIGMOID:
            raise ValueError(f"label_smoothing has no meaning for {self.loss}: set it to 0, or choose sigmoid")
        return self

    def token_use(self, row: Range, trained: Range, reply: Range | None) -> TokenUse:
        """Both sides once before the first step, and twice in each: log-probabilities, then the gradient."""
        return TokenUse(train=row, prefill=row, prefill_once=row)


class Pair(NamedTuple):
    """Both sides of a row, with weight 1 on every token of the reply and 0 elsewhere. Mostly one datum each (a reply of several
    turns may be split, see `recipes.rendering`)."""

    chosen: list[Datum]
    rejected: list[Datum]


@register_algorithm("dpo")
class DPO(BaseAlgorithm):
    """Rows are `{"prompt": […], "chosen": […], "rejected": […], "tools"?}`."""

    name: ClassVar[str] = "dpo"
    summary: ClassVar[str] = (
        "Preference optimisation: the model learns to prefer the chosen reply of each pair over the rejected one."
    )
    Config: ClassVar[type[BaseModel]] = DPOConfig
    row_format: ClassVar[RowFormat | None] = RowFormat.PREFERENCE

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self._pairs: list[Pair] = []
        self._held_out: list[Pair] = []
        self._train_rows: list[Row] = []
        self._max_seq_len: int = self.cfg.max_seq_len

    async def setup(self, ctx: RunContext, backend: Backend) -> None:
        """Render the pairs and take their reference. Raises DataError for a row that is none, or when no pair is left."""
        self._backend = backend
        tokenizer = with_renderer(backend.get_tokenizer(), self.cfg.renderer_name)
        self._max_seq_len = self.readable_length(tokenizer, backend, self.cfg.max_seq_len)
        self._train_rows, held_out = self._split(ctx)
        self._pairs = await self._render(self._train_rows, tokenizer, "training")
        if not self._pairs:
            raise DataError(
                f"No pair is left to train on: none of {len(self._train_rows):,} has two different sides of at most"
                f" {self._max_seq_len} tokens. Raise max_seq_len, or choose other rows."
            )
        self._held_out = await self._render(held_out, tokenizer, "validation")
        reference = await self._reference(ctx)
        self._reference_P_2, self._held_out_reference_P_2 = np.split(reference, [len(self._pairs)])
        self._steps_per_epoch = num_batches(len(self._pairs), self.cfg.batch_size)
        self.report("info", f"Training on {len(self._pairs):,} pairs; {len(self._held_out):,} pairs are held out.")
        if self.cfg.batch_size > len(self._pairs):
            self.report(
                "warning",
                f"The batch of {self.cfg.batch_size:,} pairs is larger than the data: every step learns from all"
                f" {len(self._pairs):,} pairs, one step per epoch.",
            )

    async def build_batch(self, step_index: int) -> TrainingBatch:
        """The next pairs of this epoch's order, each token weighing −dL/dlp of its reply. Raises BackendError for
        log-probabilities that are missing or no numbers."""
        chosen = rows_of_step(step_index, num_rows=len(self._pairs), batch_size=self.cfg.batch_size, seed=self.cfg.seed)
        pairs = [self._pairs[index] for index in chosen]
        result = await self._backend.forward_async(datums_of(pairs), loss_fn="cross_entropy")
        logprobs_P_2 = reply_logprobs(pairs, result)
        found = self.compare(logprobs_P_2, self._reference_P_2[chosen])
        data = [
            _weighted(datum, sign * slope)
            for pair, slope in zip(pairs, found.slopes_P / len(pairs), strict=True)
            for sign, side in zip((-1.0, 1.0), pair, strict=True)
            for datum in side
        ]
        num_chosen = sum(int((datum.loss_fn_inputs["weights"] != 0).sum()) for pair in pairs for datum in pair.chosen)
        metrics = {
            "train/loss": float(found.losses_P.mean()),
            "train/chosen_nll": -float(logprobs_P_2[:, 0].sum()) / num_chosen,
            "rewards/chosen": float(found.rewards_P_2[:, 0].mean()),
            "rewards/rejected": float(found.rewards_P_2[:, 1].mean()),
            "rewards/margins": float(found.margins_P.mean()),
            "rewards/accuracies": float((found.margins_P > 0).mean()),
        }
        return TrainingBatch(data, "cross_entropy", metrics=metrics)

    def evaluators(self, ctx: RunContext) -> Sequence[Evaluator]:
        if not self._held_out:
            return ()
        every = self.cfg.validation_every or self._steps_per_epoch
        return (HeldOutPairs(self, self._held_out, self._held_out_reference_P_2, run_every=every),)

    def train_rows(self, ctx: RunContext) -> Sequence[Row]:
        return self._train_rows

    def compare(self, logprobs_P_2: Array, reference_P_2: Array) -> Compared:
        """What the configured loss says of replies (chosen, rejected), given both log-probabilities of each."""
        cfg = self.cfg
        drift_P_2 = logprobs_P_2 - reference_P_2
        losses_P, slopes_P = preference_loss(
            drift_P_2[:, 0] - drift_P_2[:, 1], beta=cfg.beta, loss=cfg.loss, label_smoothing=cfg.label_smoothing
        )
        return Compared(losses_P, slopes_P, cfg.beta * drift_P_2)

    async def measure(self, pairs: Sequence[Pair], purpose: str = "") -> Array:
        """Log-probabilities (P, 2) of the replies under the weights as they are. Some batches are in flight at a time.
        purpose: progress is reported under this name."""
        size, found = self.cfg.batch_size, [np.zeros((0, 2))]
        for start in range(0, len(pairs), size * BATCHES_IN_FLIGHT):
            stretch = pairs[start : start + size * BATCHES_IN_FLIGHT]
            batches = [stretch[first : first + size] for first in range(0, len(stretch), size)]
            pending = [self._backend.forward_async(datums_of(batch), loss_fn="cross_entropy") for batch in batches]
            found += [reply_logprobs(batch, await result) for batch, result in zip(batches, pending, strict=True)]
            done = start + len(stretch)
            if purpose and done // ROWS_PER_REPORT > start // ROWS_PER_REPORT:
                self.report("info", f"Took the {purpose} of {done:,} of {len(pairs):,} pairs.")
        return np.concatenate(found)

    def _split(self, ctx: RunContext) -> Split:
        rows, held_out = list(ctx.extras.get("train_rows", [])), ctx.extras.get("validation_rows")
        share = self.cfg.validation_fraction
        if not rows:
            raise DataError("There are no pairs to train on. Choose a dataset with at least one.")
        if held_out is not None:
            if share:
                self.report("warning", "The pairs to measure on are given, so validation_fraction holds out no others.")
            return Split(rows, list(held_out))
        split = split_off(rows, share, self.cfg.seed)
        if share and not split.held_out:
            self.report("warning", f"{len(rows)} pairs are too few to hold out {share:.0%} of them.")
        return split

    async def _render(self, rows: Sequence[Row], tokenizer: Any, purpose: str) -> list[Pair]:
        pairs: list[Pair] = []
        num_long = num_same = 0
        for number, row in enumerate(rows, 1):
            if number % 32 == 0:
                await asyncio.sleep(0)  # a stop is seen while a large dataset is rendered
            if number % ROWS_PER_REPORT == 0:
                self.report("info", f"Rendered {number:,} of {len(rows):,} {purpose} rows.")
            pair = self._pair(row, number, tokenizer)
            if pair is None:
                num_long += 1
            elif _same(pair):
                num_same += 1
            else:
                pairs.append(pair)
        for count, why in (
            (num_long, f"have a side longer than max_seq_len {self._max_seq_len:,}"),
            (num_same, "differ in nothing that the chat template shows the model"),
        ):
            if count:
                self.report("warning", f"{count:,} of {len(rows):,} {purpose} pairs {why} and are left out.")
        return pairs

    def _pair(self, row: Row, number: int, tokenizer: Any) -> Pair | None:
        """None when a side is too long. Raises DataError for a row that is no pair, or that cannot be rendered."""
        parsed = parse(row, RowFormat.PREFERENCE, line=number, place="row")
        sides = []
        for sequence in sequences_of(parsed, RowFormat.PREFERENCE):
            try:
                rendered = render_sequences(
                    sequence.messages,
                    tokenizer,
                    enable_thinking=self.cfg.enable_thinking,
                    max_seq_len=self._max_seq_len,
                    tools=parsed.get("tools"),
                    first_turn=sequence.first_turn,
                )
            except RenderingError as error:
                raise DataError(f"Row {number:,}, {sequence.title}: {error}", line=number, field=sequence.title) from error
            if any(each.truncated for each in rendered):
                return None
            sides.append([datum_of(each) for each in rendered])
        return Pair(*sides)

    async def _reference(self, ctx: RunContext) -> Array:
        """Log-probabilities (P, 2) under the weights that the run began from: of the training pairs, then of those held out."""
        path, pairs = ctx.output_dir / REFERENCE_FILE, [*self._pairs, *self._held_out]
        if ctx.resume_from is not None:
            return _read_reference(path, len(pairs))
        self.report("info", f"Taking the reference of {len(pairs):,} pairs: how likely both replies are before training.")
        reference_P_2 = await self.measure(pairs, "reference")
        lines = (json.dumps({"chosen": chosen, "rejected": rejected}) + "\n" for chosen, rejected in reference_P_2.tolist())
        write_atomically(path, "".join(lines))
        return reference_P_2


class Compared(NamedTuple):
    """Per pair: its loss, the loss's slope by lp_chosen (by lp_rejected it is the negative), and both rewards β·(lp − ref)."""

    losses_P: Array
    slopes_P: Array
    rewards_P_2: Array

    @property
    def margins_P(self) -> Array:
        margins: Array = self.rewards_P_2[:, 0] - self.rewards_P_2[:, 1]
        return margins


class HeldOutPairs:
    """How well pairs that are never trained on are told apart, without a gradient."""

    name = "validation"
    needs_sampler = False

    def __init__(self, algorithm: DPO, pairs: Sequence[Pair], reference_P_2: Array, *, run_every: int) -> None:
        self.run_every = run_every
        self._algorithm, self._pairs, self._reference_P_2 = algorithm, pairs, reference_P_2

    async def evaluate(self, backend: Backend, sampler: SamplingClient | None, *, step: int) -> Mapping[str, float]:
        found = self._algorithm.compare(await self._algorithm.measure(self._pairs), self._reference_P_2)
        return {
            "eval/validation_loss": float(found.losses_P.mean()),
            "eval/validation_accuracy": float((found.margins_P > 0).mean()),
            "eval/validation_margin": float(found.margins_P.mean()),
        }


def preference_loss(
    drifts_P: Array, *, beta: float, loss: str = PreferenceLoss.SIGMOID, label_smoothing: float = 0.0
) -> tuple[Array, Array]:
    """The loss of each pair and its derivative by h = `drifts_P`, both (P,), by the formulas at the top."""
    if loss == PreferenceLoss.IPO:
        distance_P = drifts_P - 1 / (2 * beta)
        return distance_P**2, 2 * distance_P
    log_right_P, log_wrong_P = -np.logaddexp(0, -beta * drifts_P), -np.logaddexp(0, beta * drifts_P)
    losses_P = -(1 - label_smoothing) * log_right_P - label_smoothing * log_wrong_P
    slopes_P = -beta * ((1 - label_smoothing) * np.exp(log_wrong_P) - label_smoothing * np.exp(log_right_P))
    return losses_P, slopes_P


def datums_of(pairs: Sequence[Pair]) -> list[Datum]:
    """In the order in which `reply_logprobs` reads the results."""
    return [datum for pair in pairs for side in pair for datum in side]


def reply_logprobs(pairs: Sequence[Pair], result: ForwardBackwardResult) -> Array:
    """(P, 2): log-probabilities of both replies, summed over their tokens in float64.

    Raises BackendError where the backend gives none, or what is no number.
    """
    outputs = result.loss_fn_outputs
    if len(outputs) != len(datums_of(pairs)) or not all("logprobs" in output for output in outputs):
        raise BackendError("The backend gives no log-probabilities, which preferences are learnt from.", permanent=True)
    left = iter(outputs)
    sums_P_2 = np.array([[sum(_reply_logprob(datum, next(left)) for datum in side) for side in pair] for pair in pairs])
    if not np.isfinite(sums_P_2).all():
        raise BackendError(
            "The log-probability of a reply is no number any more. Lower the learning rate, or set grad_clip_norm, and start from"
            " an earlier checkpoint.",
            permanent=True,
        )
    return sums_P_2


def _reply_logprob(datum: Datum, output: Mapping[str, Array]) -> float:
    logprobs = np.asarray(output["logprobs"], dtype=np.float64)
    return float(logprobs[datum.loss_fn_inputs["weights"] != 0].sum())


def _weighted(datum: Datum, weight: float) -> Datum:
    inputs = datum.loss_fn_inputs
    return replace(datum, loss_fn_inputs={**inputs, "weights": float_array(inputs["weights"] * weight)})


def _same(pair: Pair) -> bool:
    """Both sides are the same tokens."""
    chosen, rejected = ([datum.loss_fn_inputs["target_tokens"] for datum in side] for side in pair)
    return len(chosen) == len(rejected) and all(map(np.array_equal, chosen, rejected))


def _read_reference(path: Path, num_pairs: int) -> Array:
    """What `_reference` wrote. Raises DataError when it is gone or damaged: the weights it was taken from are trained by now."""
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        reference_P_2 = np.array([[row["chosen"], row["rejected"]] for row in rows], dtype=np.float64)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(f"This run cannot go on: {path.name} of its folder, the reference, cannot be read: {error}.") from error
    if reference_P_2.shape != (num_pairs, 2):
        raise DataError(
            f"This run cannot go on: {path.name} of its folder holds the reference of {len(rows):,} pairs, not of {num_pairs:,}."
        )
    return reference_P_2
