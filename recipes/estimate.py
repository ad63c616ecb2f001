"""What a Config will cost before anything is spent: steps, tokens, time, dollars. Arithmetic only; no model, no tokenizer.

Every figure that is not certain is a range, and says what it rests on. Time is the weakest of them: it comes from a measured
speed of the same model when there is one, else from floating-point operations and what such hardware usually reaches.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from recipes.config import Planned, RunConfig
from recipes.prices import Weights, is_billed, rate_of

FLOPS_PER_TOKEN = (4, 6)
"""Per parameter: two forward, two for gradients of activations, two more for gradients of weights (not for frozen ones)."""
SPREAD_OF_MEASURED = 1.3
STEP_OVERHEAD_SECONDS = (0.002, 0.05)
STARTUP_SECONDS = (1.0, 5.0)


class Range(NamedTuple):
    low: float
    high: float


class TokenSample(NamedTuple):
    """Tokens and trained tokens of some rows, taken evenly over the dataset. The same order; at least one row."""

    total: Sequence[int]
    trained: Sequence[int]


class Hardware(NamedTuple):
    """Floating-point operations a second that training really reaches: from what is poor to what is good."""

    words: str
    flops: Range


def processor(cores: int) -> Hardware:
    return Hardware(f"{cores} processor core{'s' * (cores != 1)}", Range(4e9 * cores, 4e10 * cores))


GPU = Hardware("one GPU", Range(1e13, 2.5e14))


@dataclass(frozen=True)
class Estimate:
    """None is "not known". tokens are those that will be processed over all epochs; seconds are of training alone; dollars are
    what the host bills for them."""

    num_rows: int
    steps: int | None = None
    rows_seen: int | None = None
    tokens: Range | None = None
    trained_tokens: Range | None = None
    seconds: Range | None = None
    dollars: Range | None = None
    notes: list[str] = field(default_factory=list)


def estimate(
    config: RunConfig,
    *,
    num_rows: int,
    sample: TokenSample | None = None,
    num_parameters: int | None = None,
    hardware: Hardware | None = None,
    measured_tokens_per_second: float | None = None,
) -> Estimate:
    """Raises ConfigError when the algorithm's settings are wrong. `measured_tokens_per_second` wins over the hardware's guess."""
    settings = config.algorithm_config()
    if not isinstance(settings, Planned):
        return Estimate(num_rows, notes=["This algorithm decides by itself how many steps it takes."])
    notes = []
    steps_per_epoch = math.ceil(num_rows / settings.batch_size)
    steps = settings.total_steps(steps_per_epoch)
    rows_seen = _rows_seen(steps, num_rows, settings.batch_size)
    if settings.batch_size > num_rows:
        notes.append(f"The batch is larger than the data: every step sees all {num_rows:,} rows.")
    if steps < steps_per_epoch:
        notes.append(f"The cap ends the run before the first pass over the data is done: {rows_seen:,} of {num_rows:,} rows.")
    if sample is None or not sample.total:
        notes.append("Tokens are not known before the model's tokenizer is here.")
        notes += _no_price(config, "without tokens")
        return Estimate(num_rows, steps, rows_seen, notes=notes)
    tokens = _scaled(sample.total, rows_seen, num_rows)
    seconds = None
    if measured_tokens_per_second:
        speed = Range(measured_tokens_per_second / SPREAD_OF_MEASURED, measured_tokens_per_second * SPREAD_OF_MEASURED)
        seconds = _seconds(tokens, speed, steps)
        notes.append(f"Time from the last run of this model here: {measured_tokens_per_second:,.0f} tokens a second.")
    elif num_parameters and hardware:
        low, high = FLOPS_PER_TOKEN
        speed = Range(hardware.flops.low / (high * num_parameters), hardware.flops.high / (low * num_parameters))
        seconds = _seconds(tokens, speed, steps)
        notes.append(f"Time guessed from {num_parameters:,} parameters on {hardware.words}; the first run will tell better.")
    else:
        notes.append("No time is given: neither the model's size nor an earlier run of it is known here.")
    dollars, price_notes = _dollars(config, tokens)
    trained = _scaled(sample.trained, rows_seen, num_rows)
    return Estimate(num_rows, steps, rows_seen, tokens, trained, seconds, dollars, [*notes, *price_notes])


def _dollars(config: RunConfig, tokens: Range) -> tuple[Range | None, list[str]]:
    """What the host bills for training on these tokens, and on what the figure rests; None where nothing is billed or known."""
    settings, kind = config.algorithm_config(), config.backend.kind
    weights = Weights.ALL if getattr(settings, "lora_rank", 1) == 0 else Weights.ADAPTER
    rate = rate_of(kind, config.algorithm.kind, config.model.name, weights=weights)
    if rate is None or rate.per_million.train is None:
        return None, _no_price(config, "for this model")
    per_token = rate.per_million.train / 1e6
    note = f"Price at ${rate.per_million.train:g} per million trained tokens, {rate.said}. The host's bill decides."
    return Range(tokens.low * per_token, tokens.high * per_token), [note]


def _no_price(config: RunConfig, why: str) -> list[str]:
    kind = config.backend.kind
    return [f"The price is not known {why}: {kind} bills what it trains."] if is_billed(kind) else []


def count_parameters(folder: Path) -> int | None:
    """From the headers of the folder's safetensors files, without reading weights; None when there are none to read."""
    total = 0
    for path in folder.glob("*.safetensors"):
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length < 100_000_000:
                return None
            try:
                header = json.loads(file.read(length))
            except ValueError:
                return None
        total += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return total or None


def _rows_seen(steps: int, num_rows: int, batch_size: int) -> int:
    """The last batch of an epoch may be a partial one."""
    epochs, rest = divmod(steps, math.ceil(num_rows / batch_size)) if num_rows else (0, 0)
    return epochs * num_rows + min(rest * batch_size, num_rows)


def _scaled(counts: Sequence[int], rows_seen: int, num_rows: int) -> Range:
    """The sample's mean, two standard errors to each side; exact when the sample is the whole dataset."""
    mean = sum(counts) / len(counts)
    if len(counts) >= num_rows:
        return Range(mean * rows_seen, mean * rows_seen)
    if len(counts) == 1:
        return Range(0.5 * mean * rows_seen, 2 * mean * rows_seen)
    variance = sum((count - mean) ** 2 for count in counts) / (len(counts) - 1)
    margin = 2 * math.sqrt(variance / len(counts))
    return Range(max(0.0, mean - margin) * rows_seen, (mean + margin) * rows_seen)


def _seconds(tokens: Range, speed: Range, steps: int) -> Range:
    return Range(
        STARTUP_SECONDS[0] + tokens.low / speed.high + STEP_OVERHEAD_SECONDS[0] * steps,
        STARTUP_SECONDS[1] + tokens.high / speed.low + STEP_OVERHEAD_SECONDS[1] * steps,
    )
