"""Rows through a model's own tokenizer and chat template: lengths, and what of them is trained."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from django import forms

from evsys_web.datasets.models import DatasetVersion
from recipes.errors import ConfigError, DataError
from recipes.rows import RowFormat
from recipes.types import Row

SAMPLE_ROWS = 2_000
CHECKED_ROWS = 200
PREVIEW_ROWS = 4
MAX_TOKENS_SHOWN = 3_000
MAX_PAGE_ROWS = 50


class TokenForm(forms.Form):
    """Through which template, and trained how: the same words as in a run's config."""

    model = forms.CharField(
        required=False,
        max_length=500,
        label="Model",
        help_text="starter, a model folder, or a hub id such as Qwen/Qwen3-0.6B.",
        widget=forms.TextInput(attrs={"placeholder": "starter", "spellcheck": "false"}),
    )
    supervise = forms.ChoiceField(
        choices=[("all_assistant", "all assistant turns"), ("last_assistant", "the last assistant turn")],
        required=False,
        label="Train",
    )
    max_seq_len = forms.IntegerField(
        required=False,
        min_value=2,
        max_value=10_000_000,
        label="Cut after",
        widget=forms.NumberInput(attrs={"placeholder": "no cut"}),
    )
    enable_thinking = forms.ChoiceField(
        choices=[("", "template's default"), ("true", "on"), ("false", "off")], required=False, label="Thinking"
    )
    row = forms.IntegerField(required=False, min_value=1, label="From row", widget=forms.NumberInput(attrs={"placeholder": "1"}))

    @property
    def model_name(self) -> str:
        return self._value("model") or "starter"

    def options(self) -> dict[str, Any]:
        """Keyword arguments of `recipes.rendering.render`. Raises ConfigError for values that are none."""
        if not self.is_valid():
            name, sentences = next(iter(self.errors.items()))
            raise ConfigError(f"{self.fields[name].label}: {sentences[0]}", path=(name,))
        return {
            "supervise": self._value("supervise") or "all_assistant",
            "max_seq_len": self._value("max_seq_len"),
            "enable_thinking": {"true": True, "false": False}.get(self._value("enable_thinking")),
        }

    def _value(self, name: str) -> Any:
        return self.cleaned_data.get(name) if self.is_valid() else None

    @property
    def shown_rows(self) -> str:
        """Numbers of the rows that the page shows, with commas, as they came."""
        return ",".join(str(number) for number in self.wanted_rows())

    def wanted_rows(self) -> list[int]:
        """The same as numbers from 1; what is none is passed over."""
        texts = str(self.data.get("shown", "")).split(",")[:MAX_PAGE_ROWS]
        return [int(text) for text in texts if text.isdecimal() and len(text) < 16]

    @property
    def first_row(self) -> int:
        """Counted from 0."""
        return (self._value("row") or 1) - 1


@dataclass
class Bar:
    """A bar of the histogram in units of its drawing: 100 wide, 40 high."""

    x: float
    y: float
    width: float
    height: float
    label: str


@dataclass
class TokenSample:
    """Counts of the first rows, and for the whole version a total: exact when all rows were counted, else scaled up."""

    model_name: str
    counts: Any
    num_counted: int
    is_whole: bool
    total: int
    bars: list[Bar] = field(default_factory=list)
    per_row: list[tuple[int, int, int]] = field(default_factory=list)

    @property
    def median(self) -> int:
        return int(self.counts.quantile(0.5))

    @property
    def p95(self) -> int:
        return int(self.counts.quantile(0.95))

    @property
    def longest(self) -> int:
        return max(self.counts.lengths, default=0)

    @property
    def shortest(self) -> int:
        return min(self.counts.lengths, default=0)


def count_sample(version: DatasetVersion, form: TokenForm) -> TokenSample:
    """Token counts of up to SAMPLE_ROWS rows, and of the rows the page shows. Raises ConfigError for a model that is none."""
    from recipes.rendering import load_tokenizer
    from recipes.token_lengths import count_tokens

    options = form.options()
    tokenizer = load_tokenizer(form.model_name, download=False)
    format = RowFormat(version.format)
    counts = count_tokens(version.rows.between(0, SAMPLE_ROWS), format, tokenizer, **options)
    num_counted = len(counts.lengths) + counts.refused
    is_whole = num_counted >= version.num_rows
    total = counts.total if is_whole else round(counts.total * version.num_rows / max(1, num_counted))
    shown = _page_counts(version, form, format, tokenizer, options)
    return TokenSample(form.model_name, counts, num_counted, is_whole, total, _bars(counts.lengths), shown)


def _page_counts(
    version: DatasetVersion, form: TokenForm, format: RowFormat, tokenizer: Any, options: dict[str, Any]
) -> list[tuple[int, int, int]]:
    """(number from 1, tokens, trained tokens) of the rows that the page names in `shown`."""
    from recipes.token_lengths import count_tokens

    found = []
    for number in form.wanted_rows():
        counts = count_tokens(version.rows_between(number - 1, number), format, tokenizer, **options)
        found += [(number, length, trained) for length, trained in zip(counts.lengths, counts.trained, strict=True)]
    return found


def _bars(lengths: list[int]) -> list[Bar]:
    from recipes.token_lengths import histogram

    bins = histogram(lengths)
    if not bins:
        return []
    width = 100 / len(bins)
    tallest = max(each.num_rows for each in bins)
    bars = []
    for index, each in enumerate(bins):
        height = 40 * each.num_rows / tallest
        span = f"{each.start:,} tokens" if each.stop - each.start == 1 else f"{each.start:,} to {each.stop - 1:,} tokens"
        label = f"{span}: {each.num_rows:,} {'row' if each.num_rows == 1 else 'rows'}"
        bars.append(Bar(round(index * width, 3), round(40 - height, 3), round(width * 0.92, 3), round(height, 3), label))
    return bars


@dataclass
class PreviewSequence:
    """Tokens as a person reads them. `num_hidden`: how many more there are."""

    title: str
    tokens: list[Any]
    num_tokens: int
    num_trained: int
    num_hidden: int


@dataclass
class PreviewRow:
    number: int
    sequences: list[PreviewSequence] = field(default_factory=list)
    error: str = ""


@dataclass
class Preview:
    """Some rows token by token, and the hard checks over CHECKED_ROWS from the first of them."""

    model_name: str
    rows: list[PreviewRow]
    counts: Any
    num_checked: int
    next_row: int | None
    previous_row: int | None


def preview_rows(version: DatasetVersion, form: TokenForm) -> Preview:
    """Exactly what training would read of a few rows. Raises ConfigError for a model that is none."""
    from recipes.rendering import load_tokenizer
    from recipes.token_lengths import count_tokens

    options = form.options()
    tokenizer = load_tokenizer(form.model_name, download=False)
    format = RowFormat(version.format)
    start = min(form.first_row, max(0, version.num_rows - 1))
    rows = version.rows_between(start, start + PREVIEW_ROWS)
    counts = count_tokens(version.rows.between(start, start + CHECKED_ROWS), format, tokenizer, **options)
    shown = [_preview_row(row, number, format, tokenizer, options) for number, row in enumerate(rows, start=start + 1)]
    stop = start + len(rows)
    return Preview(
        form.model_name,
        shown,
        counts,
        len(counts.lengths) + counts.refused,
        next_row=stop + 1 if stop < version.num_rows else None,
        previous_row=max(1, start - PREVIEW_ROWS + 1) if start else None,
    )


def _preview_row(row: Row, number: int, format: RowFormat, tokenizer: Any, options: dict[str, Any]) -> PreviewRow:
    from recipes.rendering import prompt_for_preview, tokens_for_preview
    from recipes.token_lengths import sequences_of

    shown = PreviewRow(number)
    try:
        for sequence in sequences_of(row, format):
            tools = row.get("tools")
            if format is RowFormat.TASK:
                thinking = options["enable_thinking"]
                tokens = prompt_for_preview(sequence.messages, tokenizer, enable_thinking=thinking, tools=tools)
            else:
                tokens = tokens_for_preview(sequence.messages, tokenizer, tools=tools, first_turn=sequence.first_turn, **options)
            num_trained = sum(token.trained for token in tokens)
            kept = list(islice(tokens, MAX_TOKENS_SHOWN))
            shown.sequences.append(
                PreviewSequence(sequence.title, kept, len(tokens), num_trained, max(0, len(tokens) - MAX_TOKENS_SHOWN))
            )
    except DataError as error:
        shown.error = str(error)
    return shown
