"""Datums into padded micro-batches: which rows are computed together, and the tensors of one such group.

Padding lies on the right. A causal model's real positions never look at what follows them, so no attention mask is needed and
the fast causal kernels apply; results at real positions are those of each row alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from recipes.losses import TARGETS, Loss
from recipes.types import Array, Datum


def plan(lengths: Sequence[int], max_tokens: int, overhead_tokens: int = 0) -> list[list[int]]:
    """Indices of the rows computed together, longest first: the split of the rows, sorted by length, that costs least.

    A group costs its rows times its longest one, plus `overhead_tokens` for being one more. Its tokens, padding included, stay
    within `max_tokens`; a row longer than that is a group of its own.
    """
    order = sorted(range(len(lengths)), key=lambda index: (-lengths[index], index))
    widths = np.array([lengths[index] for index in order], dtype=np.int64)
    costs = np.zeros(len(order) + 1, dtype=np.int64)
    starts = np.zeros(len(order) + 1, dtype=np.int64)
    first = 0
    for stop in range(1, len(order) + 1):
        while first < stop - 1 and (stop - first) * widths[first] > max_tokens:
            first += 1
        candidates = costs[first:stop] + np.arange(stop - first, 0, -1) * widths[first:stop]
        best = int(candidates.argmin())
        costs[stop] = candidates[best] + overhead_tokens
        starts[stop] = first + best
    groups: list[list[int]] = []
    stop = len(order)
    while stop:
        start = int(starts[stop])
        groups.append(order[start:stop])
        stop = start
    return groups[::-1]


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """B rows of at most L tokens, with P real positions between them, each with up to K targets.

    input_ids (B, L); positions (P,) of the real tokens among the B·L; targets (P, K); inputs (P, K) each, padded with 0.
    The first `num_gated` positions are those that can have a gradient; `order` (P,) says where each position stood when the
    rows were laid end to end, and `shapes` how the targets of each row were shaped.
    """

    indices: list[int]
    input_ids: Tensor
    positions: Tensor
    targets: Tensor
    inputs: dict[str, Tensor]
    num_gated: int
    order: Array
    shapes: list[tuple[int, ...]]

    def split(self, values: Tensor) -> list[Array]:
        """(P, K) values of the positions → one float32 array per row, in the shape of its targets."""
        flat = np.empty(tuple(values.shape), dtype=np.float32)
        flat[self.order] = values.detach().float().cpu().numpy()
        rows = []
        start = 0
        for shape in self.shapes:
            row = flat[start : start + shape[0]]
            rows.append(row[:, 0].copy() if len(shape) == 1 else row[:, : shape[1]].copy())
            start += shape[0]
        return rows


def collate(data: Sequence[Datum], indices: list[int], loss: Loss | None, device: torch.device, dtype: torch.dtype) -> MicroBatch:
    """The tensors of one group. `loss` None is a custom loss: every position may have a gradient, and rows stay in order."""
    rows = [data[index] for index in indices]
    lengths = [row.num_tokens for row in rows]
    width = max(lengths)
    input_ids = np.zeros((len(rows), width), dtype=np.int64)
    for line, row in zip(input_ids, rows, strict=True):
        line[: row.num_tokens] = row.model_input
    positions = np.concatenate([np.arange(length) + at * width for at, length in enumerate(lengths)])
    targets = _stack([np.asarray(row.loss_fn_inputs[TARGETS], dtype=np.int64) for row in rows])
    inputs = {name: _stack([np.asarray(row.loss_fn_inputs[name]) for row in rows]) for name in (loss.inputs if loss else ())}
    order, num_gated = _gradient_first(inputs, loss, len(positions))
    return MicroBatch(
        indices=indices,
        input_ids=torch.from_numpy(input_ids).to(device),
        positions=torch.from_numpy(positions[order]).to(device),
        targets=torch.from_numpy(targets[order]).to(device),
        inputs={name: torch.from_numpy(values[order]).to(device, dtype) for name, values in inputs.items()},
        num_gated=num_gated,
        order=order,
        shapes=[tuple(row.loss_fn_inputs[TARGETS].shape) for row in rows],
    )


def _stack(arrays: list[Array]) -> Array:
    """Rows of (N,) or (N, K) laid end to end as (P, K), missing columns filled with 0."""
    if all(array.ndim == 1 for array in arrays):
        return np.concatenate(arrays)[:, None]
    columns = [array[:, None] if array.ndim == 1 else array for array in arrays]
    widest = max(array.shape[1] for array in columns)
    return np.concatenate([np.pad(array, ((0, 0), (0, widest - array.shape[1]))) for array in columns])


def _gradient_first(inputs: dict[str, Array], loss: Loss | None, num_positions: int) -> tuple[Array, int]:
    if loss is None or loss.gate is None:
        return np.arange(num_positions), num_positions
    gated = (inputs[loss.gate] != 0).any(axis=1)
    return np.argsort(~gated, kind="stable"), int(gated.sum())
