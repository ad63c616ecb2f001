"""How long rows are in a model's own tokens, and how much of them is trained: counts and a histogram, before any run."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from recipes.errors import DataError
from recipes.estimate import TokenSample
from recipes.rendering import Finding, Rendered, hard_checks, render_prompt, render_sequences
from recipes.rows import RowFormat
from recipes.token_use import Range
from recipes.types import Row


class Sequence(NamedTuple):
    """A conversation that a row shows a model, with a name for people. A task's is not trained: the model writes the reply.
    first_turn: index of the first message that may be trained; those before it are context."""

    title: str
    messages: list[Row]
    first_turn: int = 0


def sequences_of(row: Row, format: RowFormat) -> list[Sequence]:
    """What a parsed row shows a model: one conversation, for a preference two."""
    if format is RowFormat.PREFERENCE:
        return [Sequence(key, [*row["prompt"], *row[key]], len(row["prompt"])) for key in ("chosen", "rejected")]
    return [Sequence("prompt" if format is RowFormat.TASK else "", row["messages"])]


def rendered_sequences(row: Row, format: RowFormat, tokenizer: Any, **options: Any) -> list[Rendered]:
    """Token ids and weights of a parsed row. `options` as for `recipes.rendering.render`. Raises RenderingError."""
    tools = row.get("tools")
    if format is RowFormat.TASK:
        thinking = options.get("enable_thinking")
        ids = render_prompt(row["messages"], tokenizer, enable_thinking=thinking, tools=tools)
        return [Rendered(ids, [0.0] * len(ids))]
    return [
        rendered
        for sequence in sequences_of(row, format)
        for rendered in render_sequences(sequence.messages, tokenizer, tools=tools, first_turn=sequence.first_turn, **options)
    ]


BYTES_PER_TOKEN, SPREAD_OF_BYTES = 3.5, 1.45
"""Of UTF-8, in the vocabularies of current models: from 2.4 to 5 for prose, code and most scripts."""
TOKENS_PER_MESSAGE = 5
"""What a chat template puts around one."""


def by_length(rows: Iterable[Row], format: RowFormat) -> TokenSample | None:
    """A guess without the model's tokenizer, from the length of the texts; None without rows. trained: of replies."""
    totals, trained = [], []
    for row in rows:
        said = [
            (message, index >= each.first_turn)
            for each in sequences_of(row, format)
            for index, message in enumerate(each.messages)
        ]
        lengths = [(_num_bytes(message) / BYTES_PER_TOKEN, message["role"] == "assistant" and counts) for message, counts in said]
        totals.append(sum(length + TOKENS_PER_MESSAGE for length, _ in lengths))
        trained.append(sum(length for length, is_reply in lengths if is_reply))
    return TokenSample(totals, trained, SPREAD_OF_BYTES) if totals else None


def guessed(text: str) -> Range:
    """Tokens of a text, without the model's tokenizer."""
    tokens = len(text.encode(errors="replace")) / BYTES_PER_TOKEN
    return Range(tokens / SPREAD_OF_BYTES, tokens * SPREAD_OF_BYTES)


def _num_bytes(message: Row) -> int:
    content = message.get("content") or ""
    text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
    return len(text.encode(errors="replace"))


@dataclass
class TokenCounts:
    """`lengths` and `trained`: tokens per counted row, in order. `refused`: rows that the chat template refuses, the first reason
    in `refusal`. `findings`: what `hard_checks` says of all counted sequences."""

    lengths: list[int] = field(default_factory=list)
    trained: list[int] = field(default_factory=list)
    refused: int = 0
    refusal: str = ""
    findings: list[Finding] = field(default_factory=list)

    @property
    def total(self) -> int:
        return sum(self.lengths)

    @property
    def total_trained(self) -> int:
        return sum(self.trained)

    def quantile(self, share: float) -> int:
        """The length that `share` of the counted rows do not exceed; 0 when none was counted."""
        ordered = sorted(self.lengths)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0


def count_tokens(
    rows: Iterable[Row], format: RowFormat, tokenizer: Any, *, max_seconds: float = 5.0, **options: Any
) -> TokenCounts:
    """Render rows and count, for at most `max_seconds`. `options` as for `recipes.rendering.render`."""
    counts = TokenCounts()
    rendered_all: list[Rendered] = []
    deadline = time.monotonic() + max_seconds
    for row in rows:
        try:
            rendered = rendered_sequences(row, format, tokenizer, **options)
        except DataError as error:
            counts.refused += 1
            counts.refusal = counts.refusal or str(error)
        else:
            counts.lengths.append(sum(len(each.token_ids) for each in rendered))
            counts.trained.append(sum(each.num_trained for each in rendered))
            rendered_all += rendered
        if time.monotonic() > deadline:
            break
    if rendered_all and format is not RowFormat.TASK:
        counts.findings = hard_checks(rendered_all, tokenizer)
    return counts


class Bin(NamedTuple):
    """Rows of start … stop - 1 tokens."""

    start: int
    stop: int
    num_rows: int


def histogram(lengths: list[int], *, max_bins: int = 32) -> list[Bin]:
    """Bins of one round width (1, 2 or 5 times a power of ten) from the shortest to the longest; empty for no lengths."""
    if not lengths:
        return []
    span = max(lengths) - min(lengths) + 1
    width = next(factor * 10**power for power in range(12) for factor in (1, 2, 5) if span <= (max_bins - 1) * factor * 10**power)
    first = min(lengths) // width
    counts = [0] * (max(lengths) // width - first + 1)
    for length in lengths:
        counts[length // width - first] += 1
    return [Bin((first + index) * width, (first + index + 1) * width, count) for index, count in enumerate(counts)]
