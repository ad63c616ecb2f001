"""Self-distillation: the model learns, on replies of its own, what it would have said had it seen a demonstration.

For a question x with a demonstration g, a reply y ~ π(· | x) of the student, and the teacher's K likeliest tokens at each of its
positions, with p = their probabilities under the teacher, which reads g besides, renormalised to 1, a step minimises

    Σ_t Σ_j −p_tj · log π(j | x, y_<t)

which is the forward KL(teacher ‖ student) up to the teacher's entropy (after Shenfeld et al. 2026, arXiv:2601.19897; on the
student's own prefixes as in Agarwal et al. 2023, arXiv:2306.13649). No gradient goes through the sampling.

1. The teacher is frozen: the base model, or the weights that the run begins from. The paper lets it follow the student.
2. Weights are divided by the number of positions in the batch, so that the loss is a mean and the learning rate does not scale
   with the length of replies.
3. The first skip_first_n_tokens of a reply are not trained on: there a teacher tends to remark on what it was shown.
4. A reply for which the teacher's context has no room is cut for both, and counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from enum import StrEnum
from time import perf_counter
from typing import Any, ClassVar, NamedTuple

import numpy as np
from pydantic import BaseModel, field_validator, model_validator

from recipes.algorithms.base import BaseAlgorithm
from recipes.chat import opens_reasoning, said
from recipes.chat_templates import decode
from recipes.config import BaseAlgorithmConfig, knob
from recipes.demonstrations import DEMONSTRATION, Lesson, check_template, lesson_of
from recipes.errors import BackendError, ConfigError, DataError, RenderingError
from recipes.protocols import Backend, Evaluator, SamplingClient
from recipes.registry import register_algorithm
from recipes.rendering import check_renderer, render_prompt, with_renderer
from recipes.rollout_log import RolloutsFile
from recipes.row_order import num_batches, rows_of_step, split_off
from recipes.rows import RowFormat
from recipes.token_use import Range, TokenUse
from recipes.types import (
    Array,
    Datum,
    ForwardBackwardResult,
    Headline,
    Metrics,
    Row,
    RunContext,
    SampledSequence,
    SamplingParams,
    StopReason,
    TrainingBatch,
    Trajectory,
    Turn,
    float_array,
    int_array,
)

REPLY_SEED, HELD_OUT_SEED = 4, 5
"""Keep the draws of training and of held-out replies apart, and both from the shuffles."""


class Teacher(StrEnum):
    BASE = "base"
    START = "start"


class SDFTConfig(BaseAlgorithmConfig):
    batch_size: int = knob(8, "Rows per step, each answered once.", unit="rows", ge=1, le=65536, essential=True)
    topk: int = knob(
        20, "Likeliest tokens of the teacher that are learnt from, at each position.", unit="tokens", ge=1, le=128, essential=True
    )
    demo_template: str = knob(
        DEMONSTRATION,
        "What the teacher reads in place of the question: {question}, {golden_answer} and texts of the row's metadata are filled"
        " in. Empty, it reads what the student reads.",
        max_length=100_000,
        essential=True,
    )
    teacher: Teacher = knob(
        Teacher.BASE, "Who teaches: the base model, or the weights that the run begins from, which never change either."
    )
    max_tokens: int = knob(256, "Longest reply of the student.", unit="tokens", ge=1, le=1_000_000, essential=True)
    temperature: float = knob(1.0, "How freely the student's replies are drawn.", gt=0, le=10)
    skip_first_n_tokens: int = knob(
        3, "Tokens at the beginning of each reply that are not trained on.", unit="tokens", ge=0, le=1_000_000
    )
    max_context_length: int = knob(
        2048,
        "What the teacher reads at most, reply included; never more than the model can read.",
        unit="tokens",
        ge=2,
        le=1_048_576,
        essential=True,
    )
    system_prompt: str | None = knob(
        None, "Put before every conversation that has no system message, for both.", max_length=100_000
    )
    validation_fraction: float = knob(0.0, "Share of the rows held out to measure the KL on; 0 holds out none.", ge=0, le=0.5)
    validation_every: int = knob(
        0, "Measure held-out rows every so many steps; 0 measures them once per epoch.", unit="steps", ge=0, le=10_000_000
    )
    rollouts_kept: int = knob(
        32, "Replies of each step that are written to rollouts.jsonl; 0 writes none.", unit="replies", ge=0, le=1024
    )

    _renderer_exists = field_validator("renderer_name")(check_renderer)
    _template_is_readable = field_validator("demo_template")(check_template)

    @model_validator(mode="after")
    def _parts_fit(self) -> SDFTConfig:
        if self.skip_first_n_tokens >= self.max_tokens:
            raise ValueError(
                f"skip_first_n_tokens ({self.skip_first_n_tokens}) must be less than max_tokens ({self.max_tokens}): no token"
                " would be trained on"
            )
        return self

    def token_use(self, row: Range, trained: Range, reply: Range | None) -> TokenUse:
        """The student reads the question, says a reply and learns on both; the teacher reads the row and the reply besides."""
        said = reply or Range(1, self.max_tokens)
        question = row.minus(trained)
        return TokenUse(train=question.plus(said), prefill=question.plus(row).plus(said), sample=said)


class Prompts(NamedTuple):
    """Token ids that the student and the teacher read before the reply. number: the row's among those given, from 1."""

    student: list[int]
    teacher: list[int]
    number: int


class Answered(NamedTuple):
    """A reply of the student. num_taught: how many of its tokens the teacher read. target_ids, probabilities (num_taught, K):
    what the teacher expected at each; unused places hold id 0 and probability 0."""

    prompt: list[int]
    reply: SampledSequence
    num_taught: int
    target_ids: Array
    probabilities: Array


@register_algorithm("sdft")
class SDFT(BaseAlgorithm):
    """Rows are `{"messages": […], "tools"?, "metadata"?}`: the last reply is the demonstration."""

    name: ClassVar[str] = "sdft"
    summary: ClassVar[str] = (
        "Self-distillation: the model answers by itself and learns what it would have said had it read the row's reply."
    )
    Config: ClassVar[type[BaseModel]] = SDFTConfig
    row_format: ClassVar[RowFormat | None] = RowFormat.MESSAGES
    needs_sampler: ClassVar[bool] = True
    headline: ClassVar[Headline] = Headline("kl/teacher", "KL to the teacher")
    gives_rollouts: ClassVar[bool] = True

    @classmethod
    def check_backend(cls, config: SDFTConfig, backend: type[Backend]) -> None:
        """Raises ConfigError for a backend that does not tell the teacher's likeliest tokens."""
        if not getattr(backend, "gives_topk_prompt_logprobs", False):
            raise ConfigError(
                f"sdft learns from the likeliest tokens of its teacher, which the backend {backend.name} does not tell. Choose"
                " another backend.",
                path=("backend", "kind"),
            )

    def __init__(self, **params: Any) -> None:
        super().__init__(**params)
        self.callbacks.append(RolloutsFile(self.cfg.rollouts_kept))
        self._prompts: list[Prompts] = []
        self._held_out: list[Prompts] = []
        self._train_rows: list[Row] = []

    async def setup(self, ctx: RunContext, backend: Backend) -> None:
        """Render the prompts and open the teacher. Raises DataError for a row that is none, or when no row is left."""
        self._backend = backend
        self._tokenizer = with_renderer(backend.get_tokenizer(), self.cfg.renderer_name)
        self._max_context = self.readable_length(self._tokenizer, backend, self.cfg.max_context_length)
        self._train_rows, held_out = self._split(ctx)
        self._prompts = await self._render(self._train_rows, "training")
        if not self._prompts:
            raise DataError(
                f"No row is left to train on: what the teacher reads of each of the {len(self._train_rows):,} rows leaves no room"
                f" for a reply within max_context_length {self._max_context:,}. Raise it, or choose other rows."
            )
        self._held_out = await self._render(held_out, "validation")
        # Also on a resume: setup comes before the checkpoint is loaded.
        begins_at_base = self.cfg.teacher is Teacher.BASE or ctx.config.model.init_from_checkpoint is None
        self._teacher = await (
            backend.reference_sampling_client() if begins_at_base else backend.snapshot_sampling_client("teacher")
        )
        self._steps_per_epoch = num_batches(len(self._prompts), self.cfg.batch_size)
        self.report("info", f"Training on {len(self._prompts):,} rows; {len(self._held_out):,} rows are held out.")

    async def build_batch(self, step_index: int) -> TrainingBatch:
        """Replies of the weights as they are, with what the teacher expected at each of their positions."""
        chosen = rows_of_step(step_index, num_rows=len(self._prompts), batch_size=self.cfg.batch_size, seed=self.cfg.seed)
        began = perf_counter()
        student = await self._backend.snapshot_sampling_client(f"sdft_{step_index + 1}")
        answered = await self.answer([self._prompts[index] for index in chosen], student, (REPLY_SEED, step_index))
        metrics = reply_metrics(answered) | {"time/rollouts": perf_counter() - began}
        data = datums_of(answered, self.cfg.skip_first_n_tokens)
        rollouts = [
            self._rollout(self._prompts[index], each, place)
            for place, (index, each) in enumerate(zip(chosen, answered, strict=True))
        ]
        return TrainingBatch(data, "cross_entropy", metrics=metrics, rollouts=rollouts)

    def step_metrics(self, step_index: int, batch: TrainingBatch, fb_result: ForwardBackwardResult) -> Metrics:
        found = distance(batch.data, fb_result)
        return {
            "train/loss": -found.mean_logprob,
            "train/mean_logprob": found.mean_logprob,
            "train/teacher_entropy": found.entropy,
            "kl/teacher": found.kl,
        }

    def evaluators(self, ctx: RunContext) -> Sequence[Evaluator]:
        if not self._held_out:
            return ()
        return (HeldOutKL(self, self._held_out, run_every=self.cfg.validation_every or self._steps_per_epoch),)

    def train_rows(self, ctx: RunContext) -> Sequence[Row]:
        return self._train_rows

    async def answer(self, prompts: Sequence[Prompts], student: SamplingClient, draw: tuple[int, ...]) -> list[Answered]:
        """A reply to each prompt, and what the teacher expected in it. Drawn by the run's seed, `draw` and the place in the list:
        a step that is made again is the same."""
        seeds = np.random.SeedSequence([self.cfg.seed, *draw]).generate_state(len(prompts)).tolist()
        replies = await asyncio.gather(
            *(
                student.sample_async(
                    prompt=each.student,
                    params=SamplingParams(max_tokens=self.cfg.max_tokens, temperature=self.cfg.temperature, seed=seed % 2**31),
                )
                for each, seed in zip(prompts, seeds, strict=True)
            )
        )
        pairs = zip(prompts, replies, strict=True)
        return list(await asyncio.gather(*(self._taught(each, found.sequences[0]) for each, found in pairs)))

    async def _taught(self, prompts: Prompts, reply: SampledSequence) -> Answered:
        tokens = reply.tokens[: self._room(prompts.teacher)]
        found = await self._teacher.sample_async(
            prompt=[*prompts.teacher, *tokens],
            params=SamplingParams(max_tokens=1, temperature=0.0, seed=0),
            topk_prompt_logprobs=self.cfg.topk,
        )
        likeliest = (found.topk_prompt_logprobs or [])[len(prompts.teacher) :]
        if len(likeliest) != len(tokens) or not all(likeliest):
            raise BackendError(
                "The teacher told no likeliest tokens at some position of a reply, and these are what is learnt from. Choose a"
                " backend that gives topk_prompt_logprobs.",
                permanent=True,
            )
        target_ids = np.zeros((len(tokens), self.cfg.topk), dtype=np.int64)
        probabilities = np.zeros((len(tokens), self.cfg.topk))
        for place, entries in enumerate(likeliest):
            best = sorted(entries or (), key=lambda entry: -entry[1])[: self.cfg.topk]
            logprobs = np.array([logprob for _, logprob in best], dtype=np.float64)
            target_ids[place, : len(best)] = [token for token, _ in best]
            probabilities[place, : len(best)] = np.exp(logprobs - np.logaddexp.reduce(logprobs))
        return Answered(prompts.student, reply, len(tokens), target_ids, probabilities)

    def _rollout(self, prompts: Prompts, answered: Answered, place: int) -> Trajectory:
        """A reply as people read it. teacher_agrees: share of its tokens that the teacher would have said as the likeliest."""
        lesson = self._lesson(self._train_rows[prompts.number - 1], prompts.number)
        pairs = zip(lesson.student, lesson.teacher, strict=True)
        shown = next((teachers["content"] for students, teachers in pairs if students != teachers), "")
        tokens, logprobs = answered.reply.tokens, answered.reply.logprobs
        text = decode(self._tokenizer, tokens)
        asked = decode(self._tokenizer, prompts.student[-8:], skip_special_tokens=False)
        reply = said(text, thinks=opens_reasoning(asked))
        agreed = answered.target_ids[:, 0] == np.asarray(tokens[: answered.num_taught], dtype=np.int64)
        return Trajectory(
            f"row {prompts.number}",
            [Turn(prompts.student, tokens, logprobs, text)],
            0.0,
            {"teacher_agrees": float(agreed.mean())} if len(agreed) else {},
            [*lesson.student, reply],
            group=place,
            stop_reason=answered.reply.stop_reason,
            is_rewarded=False,
            demonstration=shown,
        )

    def _room(self, teacher_prompt: Sequence[int]) -> int:
        """Tokens of a reply that the teacher can read: it must be able to say one more, which is how it is asked."""
        return self._max_context - len(teacher_prompt) - 1

    def _split(self, ctx: RunContext) -> tuple[list[Row], list[Row]]:
        rows, held_out = list(ctx.extras.get("train_rows", [])), ctx.extras.get("validation_rows")
        share = self.cfg.validation_fraction
        if not rows:
            raise DataError("There are no rows to train on. Choose a dataset with at least one conversation.")
        if held_out is not None:
            if share:
                self.report("warning", "The rows to measure on are given, so validation_fraction holds out no others.")
            return rows, list(held_out)
        split = split_off(rows, share, self.cfg.seed)
        if share and not split.held_out:
            self.report("warning", f"{len(rows)} rows are too few to hold out {share:.0%} of them.")
        return split.train, split.held_out

    async def _render(self, rows: Sequence[Row], purpose: str) -> list[Prompts]:
        rendered = []
        for number, row in enumerate(rows, 1):
            if number % 64 == 0:
                await asyncio.sleep(0)  # a stop is seen while a large dataset is rendered
            prompts = self._prompts_of(self._lesson(row, number), number)
            if self._room(prompts.teacher) > self.cfg.skip_first_n_tokens and len(prompts.student) < self._max_context:
                rendered.append(prompts)
        if left_out := len(rows) - len(rendered):
            self.report(
                "warning",
                f"{left_out:,} of {len(rows):,} {purpose} rows leave no room for a reply within max_context_length"
                f" {self._max_context:,} and are left out.",
            )
        return rendered

    def _lesson(self, row: Row, number: int) -> Lesson:
        return lesson_of(row, number, template=self.cfg.demo_template, system_prompt=self.cfg.system_prompt)

    def _prompts_of(self, lesson: Lesson, number: int) -> Prompts:
        try:
            student, teacher = (
                render_prompt(messages, self._tokenizer, enable_thinking=self.cfg.enable_thinking, tools=lesson.tools)
                for messages in (lesson.student, lesson.teacher)
            )
            return Prompts(student, teacher, number)
        except RenderingError as error:
            raise DataError(f"Row {number:,}, {error.field}: {error}", line=number, field=error.field) from error


class HeldOutKL:
    """How far the student is from its teacher on rows that are never trained on; the same draws each time."""

    name = "validation"
    needs_sampler = True

    def __init__(self, algorithm: SDFT, prompts: Sequence[Prompts], *, run_every: int) -> None:
        self.run_every = run_every
        self._algorithm, self._prompts = algorithm, prompts

    async def evaluate(self, backend: Backend, sampler: SamplingClient | None, *, step: int) -> Mapping[str, float]:
        assert sampler is not None
        cfg = self._algorithm.cfg
        answered = await self._algorithm.answer(self._prompts, sampler, (HELD_OUT_SEED,))
        data = datums_of(answered, cfg.skip_first_n_tokens)
        if not data:
            return {}
        batches = [data[start : start + cfg.batch_size] for start in range(0, len(data), cfg.batch_size)]
        pending = [backend.forward_async(batch, loss_fn="cross_entropy") for batch in batches]
        outputs = [output for result in pending for output in (await result).loss_fn_outputs]
        return {"eval/validation_kl": distance(data, ForwardBackwardResult(outputs, {})).kl}


class Distance(NamedTuple):
    """mean_logprob: Σ w·lp / Σ w. entropy: of the teacher, and kl = KL(teacher ‖ student), both over its K likeliest tokens and
    in nats per position."""

    mean_logprob: float
    entropy: float
    kl: float


def distance(data: Sequence[Datum], result: ForwardBackwardResult) -> Distance:
    """Of soft targets whose weights are the teacher's probabilities times one factor, the same for every position. Raises
    BackendError where the backend gives no log-probabilities."""
    outputs = result.loss_fn_outputs
    if len(outputs) != len(data) or not all("logprobs" in output for output in outputs):
        raise BackendError("The backend gives no log-probabilities of soft targets, which sdft is measured by.", permanent=True)
    weights = np.concatenate([datum.loss_fn_inputs["weights"] for datum in data]).astype(np.float64)
    logprobs = np.concatenate([np.asarray(output["logprobs"], dtype=np.float64) for output in outputs])
    taught = weights.sum(axis=1) > 0
    weights, logprobs = weights[taught], logprobs[taught]
    used = weights > 0
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    mean = float((weights[used] * logprobs[used]).sum() / weights.sum())
    entropy = -float((probabilities[used] * np.log(probabilities[used])).sum() / len(probabilities))
    return Distance(mean, entropy, -mean - entropy)


def datums_of(answered: Sequence[Answered], skip: int) -> list[Datum]:
    """Student's prompt and reply, with the teacher's probabilities as soft targets (N, K) from the reply's token `skip` on. All
    weights of the list sum to 1. A reply of which nothing is taught makes no datum."""
    taught = [each for each in answered if each.num_taught > skip]
    num_positions = sum(each.num_taught - skip for each in taught)
    data = []
    for each in taught:
        tokens = int_array([*each.prompt, *each.reply.tokens[: each.num_taught]])
        shape = (len(tokens) - 1, each.target_ids.shape[1])
        targets, weights = np.zeros(shape, dtype=np.int64), np.zeros(shape)
        first = len(each.prompt) - 1  # the position that predicts the reply's first token
        positions = slice(first + skip, first + each.num_taught)
        targets[positions], weights[positions] = each.target_ids[skip:], each.probabilities[skip:] / num_positions
        data.append(Datum(tokens[:-1], {"target_tokens": targets, "weights": float_array(weights)}))
    return data


def reply_metrics(answered: Sequence[Answered]) -> Metrics:
    """Of all replies. rollout/entropy: mean of −log q over the tokens said. rollout/truncated: share of replies cut off at
    max_tokens. rollout/teacher_cut: share of which the teacher had no room to read all."""
    logprobs = [logprob for each in answered for logprob in each.reply.logprobs]
    return {
        "rollout/completion_tokens": float(np.mean([len(each.reply.tokens) for each in answered])),
        "rollout/entropy": -float(np.mean(logprobs)) if logprobs else 0.0,
        "rollout/truncated": float(np.mean([each.reply.stop_reason is StopReason.LENGTH for each in answered])),
        "rollout/teacher_cut": float(np.mean([each.num_taught < len(each.reply.tokens) for each in answered])),
    }
