"""The README.md of a model on the hub: what it is, what it was made from, how good it is and how sure that is.

Names of runs, datasets and evals are what people typed. In the front matter they are YAML strings, below it their marks mean
nothing; nothing is told that only this server knows, such as its folders."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import yaml

from evsys_web.checkpoints.models import Weights
from evsys_web.evals.models import EvalRun
from evsys_web.evals.templatetags.eval_numbers import interval, percent
from evsys_web.runs.models import Checkpoint
from recipes.backends.local.models import STARTER_NAME

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_MARKS = re.compile(r"([\\`*_{}\[\]<>()#+\-!|&~$])")
SETTINGS_SHOWN = ("learning_rate", "num_epochs", "max_steps", "batch_size", "lora_rank", "lr_schedule", "seed")


def model_card(checkpoint: Checkpoint, evals: Iterable[EvalRun], *, weights: str) -> str:
    """Front matter and text. evals: completed ones."""
    run = checkpoint.run
    base = public_name(run.model_name)
    matter: dict[str, Any] = {
        "library_name": "transformers" if weights == Weights.MERGED else "peft",
        "tags": ["evsys", run.algorithm],
    }
    if _HUB_ID.fullmatch(base):
        matter["base_model"] = base
    config = run.load_config()
    settings = config.algorithm_config().model_dump(mode="json")
    whole = "All weights" if weights == Weights.MERGED else "A LoRA adapter in PEFT's format"
    lines = [
        "---",
        yaml.safe_dump(matter, sort_keys=False, allow_unicode=True).strip(),
        "---",
        f"# {inert(run.name)}",
        f"{whole}, after step {checkpoint.step:,} of a fine-tune of {inert(base)} by {inert(run.algorithm)}.",
        "## Training",
        *_table(("Setting", "Value"), [("dataset", run.dataset_reference), *_shown(settings)]),
        "## Evaluation",
        *(_scores(evals) or ["Not evaluated yet."]),
        "Made with EvSys Web.",
    ]
    return "\n\n".join(line for line in lines if line) + "\n"


def public_name(model_name: str) -> str:
    """The hub id as it is; of a folder on this server only its last part."""
    return (
        model_name if model_name == STARTER_NAME or _HUB_ID.fullmatch(model_name) else model_name.rstrip("/").rsplit("/", 1)[-1]
    )


def inert(text: object) -> str:
    """On one line, no character of it a mark of Markdown or HTML."""
    return _MARKS.sub(r"\\\1", " ".join(str(text).split()))


def _shown(settings: dict[str, Any]) -> list[tuple[str, object]]:
    return [(name, settings[name]) for name in SETTINGS_SHOWN if settings.get(name) is not None]


def _scores(evals: Iterable[EvalRun]) -> list[str]:
    rows = [
        (
            run.benchmark.name if run.benchmark else run.dataset_reference,
            percent(run.summary["avg"]["value"]),
            interval(run.summary["avg"]),
            run.k,
            run.num_tasks,
        )
        for run in evals
        if run.summary.get("avg")
    ]
    return _table(("Benchmark", "Accuracy", "95 % interval", "Attempts per task", "Tasks"), rows) if rows else []


def _table(head: tuple[str, ...], rows: list[Any]) -> list[str]:
    lines = [head, tuple("---" for _ in head), *(tuple(inert(cell) for cell in row) for row in rows)]
    return ["\n".join(f"| {' | '.join(line)} |" for line in lines)]
