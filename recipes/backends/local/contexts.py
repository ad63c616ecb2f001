"""What a batch of rows has read so far: keys and values, advanced one token at a time.

PaddedContext keeps rows of any lengths in one buffer, aligned on the right, so that rows can join and leave between two tokens
and a prompt that was read once can be spread over many samples. It serves models whose every layer sees all that came before.
UniformContext keeps rows of one length in transformers' own cache, without any padding, and serves every model.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor
from transformers import Cache, DynamicCache
from transformers.cache_utils import CacheLayerMixin

from recipes.types import Array

_LEAST_GROWTH = 32

Index = Array
ContextT = TypeVar("ContextT", bound="Context")


class Context(Protocol):
    """Rows that a model has read, `lengths` (R,) tokens each."""

    lengths: Array

    @property
    def is_full(self) -> bool:
        """There is no space for another token: gather first."""
        ...

    @classmethod
    def read(cls: type[ContextT], model: Any, prompts: Sequence[Sequence[int]]) -> tuple[ContextT, Tensor]:
        """Read P prompts; returns them, and the (P, V) float32 logits of what comes next."""
        ...

    def feed(self, tokens: Tensor) -> Tensor:
        """Read one more token per row, (R,) → (R, V) float32 logits of what comes next."""
        ...

    @classmethod
    def gather(cls: type[ContextT], parts: Sequence[tuple[ContextT, Index]], *, growth: int) -> ContextT:
        """A new context of the rows named in each part, repetitions allowed, with space for `growth` tokens or a share of it."""
        ...


class _BufferLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of one layer: buffers (R, H, C, D) of which the first `filled` columns are in use."""

    is_sliding = False
    keys: Tensor
    values: Tensor

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.filled = 0

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.keys, self.values, self.filled, self.is_initialized = key_states, value_states, key_states.shape[2], True
            return key_states, value_states
        stop = self.filled + key_states.shape[2]
        self.keys[:, :, self.filled : stop] = key_states
        self.values[:, :, self.filled : stop] = value_states
        self.filled = stop
        return self.keys[:, :, :stop], self.values[:, :, :stop]

    @classmethod
    def gather(cls, parts: Sequence[tuple[_BufferLayer, Array, Index]], filled: int, capacity: int) -> _BufferLayer:
        """The chosen rows of several layers, of those lengths, below each other; a layer that holds nothing gives such a one."""
        layer = cls()
        if parts[0][0].is_initialized:
            layer.keys = _stack([(part.keys, part.filled, own, index) for part, own, index in parts], filled, capacity)
            layer.values = _stack([(part.values, part.filled, own, index) for part, own, index in parts], filled, capacity)
            layer.filled, layer.is_initialized = filled, True
        return layer

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.filled + query_length, 0

    def get_seq_length(self) -> int:
        return self.filled

    def get_max_length(self) -> int:
        return -1


class PaddedContext:
    """R rows, aligned on the right: row i occupies the last `lengths[i]` of the `filled` columns, what lies left is masked."""

    def __init__(self, model: Any, layers: list[_BufferLayer], lengths: Array, *, capacity: int) -> None:
        self.lengths = lengths
        self._model = model
        self._layers = layers
        self._cache = Cache(layers=list(layers))
        self._filled = int(lengths.max())
        self._capacity = capacity
        self._positions = torch.from_numpy(lengths).to(model.device)[:, None].clone()
        self._mask = _left_mask(self._filled - lengths, capacity, model)[:, None, None, :]

    @classmethod
    def read(cls, model: Any, prompts: Sequence[Sequence[int]]) -> tuple[PaddedContext, Tensor]:
        lengths = np.array([len(prompt) for prompt in prompts], dtype=np.int64)
        width = int(lengths.max())
        ids = np.zeros((len(prompts), width), dtype=np.int64)
        for line, prompt in zip(ids, prompts, strict=True):
            line[width - len(prompt) :] = prompt
        positions = np.maximum(np.arange(width)[None] - (width - lengths)[:, None], 0)
        layers = [_BufferLayer() for _ in range(model.config.get_text_config().num_hidden_layers)]
        output = model(
            input_ids=torch.from_numpy(ids).to(model.device),
            position_ids=torch.from_numpy(positions).to(model.device),
            attention_mask=None if (lengths == width).all() else _causal_mask(width - lengths, width, model),
            past_key_values=Cache(layers=list(layers)),
            use_cache=True,
            logits_to_keep=1,
        )
        return cls(model, layers, lengths, capacity=width), output.logits[:, -1].float()

    @property
    def is_full(self) -> bool:
        return self._filled == self._capacity

    def feed(self, tokens: Tensor) -> Tensor:
        self._filled += 1
        output = self._model(
            input_ids=tokens[:, None],
            position_ids=self._positions,
            attention_mask=self._mask[..., : self._filled],
            past_key_values=self._cache,
            use_cache=True,
        )
        self._positions += 1
        self.lengths += 1
        logits: Tensor = output.logits[:, -1].float()
        return logits

    @classmethod
    def gather(cls, parts: Sequence[tuple[PaddedContext, Index]], *, growth: int) -> PaddedContext:
        model = parts[0][0]._model
        lengths = np.concatenate([context.lengths[index] for context, index in parts])
        filled = int(lengths.max())
        capacity = filled + min(growth, max(_LEAST_GROWTH, filled))
        layers = [
            _BufferLayer.gather([(context._layers[at], context.lengths, index) for context, index in parts], filled, capacity)
            for at in range(len(parts[0][0]._layers))
        ]
        return cls(model, layers, lengths, capacity=capacity)


def _stack(parts: Sequence[tuple[Tensor, int, Array, Index]], filled: int, capacity: int) -> Tensor:
    """The chosen rows of each buffer below each other, the last column of each at `filled` - 1."""
    first = parts[0][0]
    num_rows = sum(len(index) for *_, index in parts)
    stacked = first.new_empty((num_rows, first.shape[1], capacity, first.shape[3]))
    start = 0
    for buffer, own_filled, lengths, index in parts:
        if not len(index):
            continue
        width = int(lengths[index].max())
        rows = torch.from_numpy(index).to(buffer.device)
        target = stacked[start : start + len(index)]
        target[:, :, : filled - width] = 0.0  # masked, but a NaN left over there would survive a weight of 0
        target[:, :, filled - width : filled] = buffer[:, :, own_filled - width : own_filled].index_select(0, rows)
        start += len(index)
    return stacked


def _left_mask(num_padding: Array, width: int, model: Any) -> Tensor:
    """(R, width): 0, and the lowest number where padding lies."""
    padded = torch.from_numpy(np.arange(width)[None] < num_padding[:, None]).to(model.device)
    return torch.zeros(padded.shape, dtype=model.dtype, device=model.device).masked_fill_(padded, torch.finfo(model.dtype).min)


def _causal_mask(num_padding: Array, width: int, model: Any) -> Tensor:
    """(P, 1, width, width) additive: each place sees itself and the real tokens before it."""
    columns = np.arange(width)
    visible = (columns[None, :] <= columns[:, None])[None] & (columns[None, None, :] >= num_padding[:, None, None])
    visible |= np.eye(width, dtype=bool)[None]
    hidden = torch.from_numpy(~visible).to(model.device)
    mask = torch.zeros(hidden.shape, dtype=model.dtype, device=model.device)
    return mask.masked_fill_(hidden, torch.finfo(model.dtype).min)[:, None]


class UniformContext:
    """R rows of the same length, in the cache that transformers makes for the model."""

    is_full = False

    def __init__(self, model: Any, cache: Cache, lengths: Array) -> None:
        self.lengths = lengths
        self._model = model
        self._cache = cache

    @classmethod
    def read(cls, model: Any, prompts: Sequence[Sequence[int]]) -> tuple[UniformContext, Tensor]:
        context = cls(model, DynamicCache(config=model.config), np.zeros(len(prompts), dtype=np.int64))
        return context, context._read_on(torch.tensor([list(prompt) for prompt in prompts], device=model.device))

    def feed(self, tokens: Tensor) -> Tensor:
        return self._read_on(tokens[:, None])

    def _read_on(self, ids: Tensor) -> Tensor:
        knows = inspect.signature(self._model.forward).parameters
        inputs: dict[str, Any] = {"input_ids": ids, "use_cache": True}
        inputs["past_key_values" if "past_key_values" in knows else "cache_params"] = self._cache
        if "position_ids" in knows:
            inputs["position_ids"] = torch.from_numpy(self.lengths[:, None] + np.arange(ids.shape[1])).to(ids.device)
        if "logits_to_keep" in knows:
            inputs["logits_to_keep"] = 1
        logits: Tensor = self._model(**inputs).logits[:, -1].float()
        self.lengths += ids.shape[1]
        return logits

    @classmethod
    def gather(cls, parts: Sequence[tuple[UniformContext, Index]], *, growth: int) -> UniformContext:
        """Of one context only: its rows are reordered in place."""
        ((context, index),) = parts
        rows: Any = torch.from_numpy(index).to(context._model.device)
        context._cache.reorder_cache(rows)
        return cls(context._model, context._cache, context.lengths[index])
