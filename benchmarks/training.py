"""Training speed of the local engine against TRL's SFTTrainer: same model, rows, batches, LoRA, optimizer, precision, threads.

    python benchmarks/training.py [--quick]

Trials of the two alternate within one process and the medians are compared, so that a busy machine slows both alike. Tokens are
the rows' own, padding not counted. TRL's settings are its best for this work: no gradient checkpointing, no evaluation, no
saving, no reporting, labels made beforehand, loss on the reply only, all of a step's rows in one forward pass.
"""

from __future__ import annotations

import argparse
import asyncio
import copy
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
import transformers
from datasets import Dataset  # type: ignore[import-untyped]
from datasets import logging as datasets_logging
from peft import LoraConfig
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM, TrainerCallback
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from recipes.backends.local import LocalBackend, LocalConfig
from recipes.backends.local.engine import Engine
from recipes.backends.local.models import resolve
from recipes.rendering import load_tokenizer, render
from recipes.types import AdamParams, Datum, float_array, int_array

ADAM = AdamParams(learning_rate=1e-3, beta1=0.9, beta2=0.95, eps=1e-8, weight_decay=0.0, grad_clip_norm=1.0)
GOAL = 1.5


@dataclass(frozen=True)
class Row:
    """One rendered conversation: token ids, and which of them are trained."""

    token_ids: list[int]
    trained: list[bool]


@dataclass(frozen=True)
class Case:
    title: str
    model: Any
    batches: list[list[Row]]
    lora_rank: int
    num_threads: int

    @property
    def num_tokens(self) -> int:
        return sum(len(row.token_ids) for batch in self.batches for row in batch)


class Trial(NamedTuple):
    """Seconds for all steps, and the loss per trained token, averaged over the steps: it shows that both did the same work."""

    seconds: float
    mean_loss: float


def starter_case(num_steps: int) -> Case:
    folder = resolve("starter")
    tokenizer = load_tokenizer("starter")
    text = (Path(folder).parent / "rows" / "train.jsonl").read_text(encoding="utf-8")
    batch_size = 32
    rows = []
    for line in text.splitlines()[: num_steps * batch_size]:
        rendered = render(json.loads(line)["messages"], tokenizer)
        rows.append(Row(rendered.token_ids, [weight > 0 for weight in rendered.weights]))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False)
    return Case("starter model (0.3 M)", model, _batches(rows, batch_size), lora_rank=8, num_threads=1)


def medium_case(num_steps: int, num_threads: int) -> Case:
    """About 95 M random weights, a vocabulary of 32k, and rows as chats have them: of very different lengths, 70 % prompt."""
    torch.manual_seed(0)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=32_000,
            hidden_size=640,
            intermediate_size=1792,
            num_hidden_layers=16,
            num_attention_heads=10,
            num_key_value_heads=5,
            head_dim=64,
            tie_word_embeddings=True,
            max_position_embeddings=1024,
        )
    )
    rng = np.random.default_rng(0)
    batch_size = 8
    rows = []
    for _ in range(num_steps * batch_size):
        length = int(np.clip(rng.lognormal(np.log(140), 0.5), 24, 512))
        prompt = int(length * np.clip(rng.normal(0.7, 0.1), 0.3, 0.95))
        rows.append(Row(rng.integers(0, 32_000, length).tolist(), [at >= prompt for at in range(length)]))
    return Case("random Qwen3 (95 M, 32k vocabulary)", model, _batches(rows, batch_size), lora_rank=16, num_threads=num_threads)


def _batches(rows: Sequence[Row], batch_size: int) -> list[list[Row]]:
    return [list(rows[at : at + batch_size]) for at in range(0, len(rows), batch_size)]


def train_locally(case: Case) -> Trial:
    torch.set_num_threads(case.num_threads)
    config = LocalConfig(num_threads=case.num_threads)
    engine = Engine(
        copy.deepcopy(case.model).eval(),
        config,
        model_name="benchmark",
        output_dir=Path(tempfile.gettempdir()),
        lora_rank=case.lora_rank,
    )
    steps = [_datums(batch) for batch in case.batches]

    async def run() -> Trial:
        backend = LocalBackend.around(engine)
        await backend.forward_async(steps[0], loss_fn="cross_entropy")  # warm
        losses = []
        started = time.perf_counter()
        for data in steps:
            computed = backend.forward_backward_async(data, loss_fn="cross_entropy")
            stepped = backend.optim_step_async(ADAM)
            losses.append((await computed).metrics["loss:sum"])
            await stepped
        seconds = time.perf_counter() - started
        await backend.close()
        return Trial(seconds, statistics.fmean(losses))

    return asyncio.run(run())


def _datums(batch: Sequence[Row]) -> list[Datum]:
    """Shifted by one; weights that make the sum the mean over the step's trained tokens, as TRL's loss is."""
    num_trained = sum(sum(row.trained[1:]) for row in batch)
    return [
        Datum(
            int_array(row.token_ids[:-1]),
            {"target_tokens": int_array(row.token_ids[1:]), "weights": float_array(row.trained[1:]) / np.float32(num_trained)},
        )
        for row in batch
    ]


class Clock(TrainerCallback):
    """Times the steps alone: from the first step's begin to the last one's end, without what a Trainer does around them."""

    def __init__(self) -> None:
        self.started = 0.0
        self.seconds = 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.started = self.started or time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seconds = time.perf_counter() - self.started


def train_with_trl(case: Case) -> Trial:
    torch.set_num_threads(case.num_threads)
    rows = [row for batch in case.batches for row in batch]
    dataset = Dataset.from_dict(
        {
            "input_ids": [row.token_ids for row in rows],
            "labels": [[i if t else -100 for i, t in zip(row.token_ids, row.trained, strict=True)] for row in rows],
        }
    )
    clock = Clock()
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            output_dir=folder,
            per_device_train_batch_size=len(case.batches[0]),
            num_train_epochs=1,
            learning_rate=ADAM.learning_rate,
            lr_scheduler_type="constant",
            adam_beta1=ADAM.beta1,
            adam_beta2=ADAM.beta2,
            max_grad_norm=ADAM.grad_clip_norm,
            train_sampling_strategy="sequential",
            gradient_checkpointing=False,
            pad_to_multiple_of=None,
            max_length=None,
            bf16=False,
            use_cpu=True,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataloader_pin_memory=False,
            dataset_kwargs={"skip_prepare_dataset": True},
        )
        adapters = LoraConfig(
            r=case.lora_rank, lora_alpha=2 * case.lora_rank, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
        )
        trainer = SFTTrainer(
            model=copy.deepcopy(case.model),
            args=arguments,
            train_dataset=dataset,
            processing_class=load_tokenizer("starter"),
            peft_config=adapters,
            callbacks=[clock],
        )
        outcome = trainer.train()
    return Trial(clock.seconds, outcome.training_loss)


def compare(case: Case, repeats: int) -> float:
    """Print one line of the table; returns the ratio of the medians."""
    warm_up = replace(case, batches=case.batches[:1])
    train_locally(warm_up)
    train_with_trl(warm_up)
    ours, theirs = [], []
    for _ in range(repeats):
        ours.append(train_locally(case))
        theirs.append(train_with_trl(case))
    speeds = [case.num_tokens / statistics.median(trial.seconds for trial in trials) for trials in (ours, theirs)]
    ratio = speeds[0] / speeds[1]
    sys.stdout.write(
        f"| {case.title} | {case.num_threads} | {len(case.batches)} × {len(case.batches[0])} rows, {case.num_tokens} tokens "
        f"| {speeds[0]:,.0f} | {speeds[1]:,.0f} | {ratio:.2f} "
        f"| {ours[-1].mean_loss:.3f} / {theirs[-1].mean_loss:.3f} |\n"
    )
    sys.stdout.flush()
    return ratio


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="fewer steps and one trial of each: a smoke test, not a measurement")
    parser.add_argument("--repeats", type=int, default=3, help="trials of each engine; the medians are compared")
    parser.add_argument("--threads", type=int, default=min(2, torch.get_num_threads()), help="threads for the larger model")
    parser.add_argument("--only", choices=["starter", "medium"])
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    datasets_logging.disable_progress_bar()
    repeats = 1 if options.quick else options.repeats
    sys.stdout.write("| model | threads | work | local tokens/s | TRL tokens/s | ratio | mean loss |\n" + "|---" * 7 + "|\n")
    ratios = []
    if options.only != "medium":
        ratios.append(compare(starter_case(8 if options.quick else 40), repeats))
    if options.only != "starter":
        ratios.append(compare(medium_case(2 if options.quick else 3, options.threads), repeats))
    sys.stdout.write(f"goal: at least {GOAL} on each: {'met' if min(ratios) >= GOAL else 'NOT met'}\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
