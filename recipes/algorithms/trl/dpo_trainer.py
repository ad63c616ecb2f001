"""TRL's DPOTrainer on pairs that are tokens already."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset  # type: ignore[import-untyped]
from datasets import logging as datasets_logging
from torch import Tensor
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from recipes.algorithms.dpo import Pair
from recipes.algorithms.trl.model import OpenModel
from recipes.algorithms.trl.training import OwnTrainer, on_one_gpu
from recipes.types import Datum


class _Trainer(OwnTrainer, DPOTrainer):
    """With the run's step sizes, on rows that need no preparing."""

    def _prepare_dataset(self, dataset: Any, *arguments: Any, **named: Any) -> Any:
        return dataset


@dataclass
class _Collator:
    """All chosen sides of a batch of B pairs, then all rejected ones: (2·B, T), padded on the right."""

    pad_token_id: int

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Tensor]:
        sides = [(row[f"{side}_ids"], row[f"{side}_mask"]) for side in ("chosen", "rejected") for row in rows]
        return {
            "input_ids": _padded([ids for ids, _ in sides], self.pad_token_id),
            "attention_mask": _padded([[1] * len(ids) for ids, _ in sides], 0),
            "completion_mask": _padded([mask for _, mask in sides], 0),
        }


def dpo_trainer(opened: OpenModel, arguments: dict[str, Any], pairs: Sequence[Pair], held_out: Sequence[Pair]) -> Any:
    """Ready to train on `pairs`, to be measured on `held_out` where there are any."""
    datasets_logging.disable_progress_bar()
    tokenizer = opened.tokenizer
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return _Trainer(
        model=opened.model,
        ref_model=None if opened.has_adapters else opened.untrained(),
        args=on_one_gpu(DPOConfig(**arguments, max_length=None, remove_unused_columns=False)),
        data_collator=_Collator(tokenizer.pad_token_id or 0),
        train_dataset=_dataset(pairs),
        eval_dataset=_dataset(held_out) if held_out else None,
        processing_class=tokenizer,
    )


def _dataset(pairs: Sequence[Pair]) -> Any:
    rows = []
    for pair in pairs:
        row: dict[str, list[int]] = {}
        for side, (datum,) in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            row[f"{side}_ids"], row[f"{side}_mask"] = _tokens(datum)
        rows.append(row)
    return Dataset.from_list(rows)


def _tokens(datum: Datum) -> tuple[list[int], list[int]]:
    """The ids of a side, and 1 where it is the reply's."""
    targets, weights = datum.loss_fn_inputs["target_tokens"].tolist(), datum.loss_fn_inputs["weights"]
    return [int(datum.model_input[0]), *targets], [0, *(weights != 0).astype(int).tolist()]


def _padded(rows: list[list[int]], value: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=value)
