"""TRL's SFTTrainer on rows that are tokens already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from datasets import Dataset  # type: ignore[import-untyped]
from datasets import logging as datasets_logging
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer

from recipes.algorithms.trl.model import OpenModel
from recipes.algorithms.trl.training import OwnTrainer, on_one_gpu
from recipes.types import Datum

NOT_TRAINED = -100


class _Trainer(OwnTrainer, SFTTrainer):
    """With the run's step sizes."""


def sft_trainer(opened: OpenModel, arguments: dict[str, Any], rows: Sequence[Datum], held_out: Sequence[Datum]) -> Any:
    """Ready to train on `rows`, to be measured on `held_out` where there are any."""
    datasets_logging.disable_progress_bar()
    return _Trainer(
        model=opened.model,
        args=on_one_gpu(SFTConfig(**arguments, max_length=None, dataset_kwargs={"skip_prepare_dataset": True})),
        train_dataset=_dataset(rows),
        eval_dataset=_dataset(held_out) if held_out else None,
        processing_class=opened.tokenizer,
    )


def _dataset(rows: Sequence[Datum]) -> Any:
    """A label per token: the token where it is trained. TRL shifts them itself; the first, which nothing predicts, has none."""
    return Dataset.from_list([_row(datum) for datum in rows])


def _row(datum: Datum) -> dict[str, list[int]]:
    targets, weights = datum.loss_fn_inputs["target_tokens"].tolist(), datum.loss_fn_inputs["weights"].tolist()
    labels = [token if weight else NOT_TRAINED for token, weight in zip(targets, weights, strict=True)]
    return {"input_ids": [int(datum.model_input[0]), *targets], "labels": [NOT_TRAINED, *labels]}
