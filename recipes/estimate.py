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

from pydantic import BaseModel

from recipes.config import Planned, RunConfig, TellsTokenUse
from recipes.effects import effectless
from recipes.prices import Weights, is_billed, rate_of
from recipes.registry import algorithms, uses_backend
from recipes.token_use import NONE as NO_TOKENS
from recipes.token_use import Range as Range
from recipes.token_use import TokenUse

FLOPS_PER_TOKEN = (4, 6)
"""Per parameter: two forward, two for gradients of activations, two more for gradients of weights (not for frozen ones)."""
SPREAD_OF_MEASURED = 1.3
STEP_OVERHEAD_SECONDS = (0.002, 0.05)
STARTUP_SECONDS = (1.0, 5.0)


class TokenSample(NamedTuple):
    """Tokens and trained tokens of some rows, taken evenly over the dataset. The same order; at least one row. spread: how far
    each count may be from the truth, as a factor; 1 is counted exactly."""

    total: Sequence[float]
    trained: Sequence[float]
    spread: float = 1.0


class Measured(NamedTuple):
    """What the last run like this one did here; None: it did not say. tokens: a second, those that were trained on.
    seconds_per_attempt: of a whole step, sampling included, per reply that was sampled. reply_tokens: a reply's, on average."""

    tokens_per_second: float | None = None
    seconds_per_attempt: float | None = None
    reply_tokens: float | None = None


class Hardware(NamedTuple):
    """Floating-point operations a second that training really reaches: from what is poor to what is good."""

    words: str
    flops: Range


def processor(cores: int) -> Hardware:
    return Hardware(f"{cores} processor core{'s' * (cores != 1)}", Range(4e9 * cores, 4e10 * cores))


GPU = Hardware("one GPU", Range(1e13, 2.5e14))


@dataclass(frozen=True)
class Estimate:
    """None is "not known". tokens: those that a gradient is taken over, all epochs together; trained_tokens: those of them whose
    likelihood is moved; prefill_tokens: read without a gradient; sampled_tokens: drawn. seconds are of training alone;
    dollars are what the host bills."""

    num_rows: int
    steps: int | None = None
    rows_seen: int | None = None
    tokens: Range | None = None
    trained_tokens: Range | None = None
    prefill_tokens: Range | None = None
    sampled_tokens: Range | None = None
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
    measured: Measured | None = None,
) -> Estimate:
    """Raises ConfigError when the algorithm's settings are wrong. hardware: what the backend computes on; None where that is not
    this machine. `measured` wins over the hardware's guess."""
    settings = config.algorithm_config()
    if not isinstance(settings, Planned):
        return Estimate(num_rows, notes=["This algorithm decides by itself how many steps it takes.", *effectless(config)])
    measured = measured or Measured()
    notes = effectless(config)
    left_out = getattr(settings, "drops_last_batch", False)  # an installed algorithm need not know the word
    steps_per_epoch = max(1, num_rows // settings.batch_size) if left_out else math.ceil(num_rows / settings.batch_size)
    steps = settings.total_steps(steps_per_epoch)
    rows_seen = _rows_seen(steps, steps_per_epoch, num_rows, settings.batch_size)
    if settings.batch_size > num_rows:
        notes.append(f"The batch is larger than the data: every step sees all {num_rows:,} rows.")
    if steps < steps_per_epoch:
        notes.append(f"The cap ends the run before the first pass over the data is done: {rows_seen:,} of {num_rows:,} rows.")
    used = None if sample is None or not sample.total else _used(settings, sample, num_rows, rows_seen, measured)
    if used is None:
        reason = "before the model's tokenizer is here" if sample is None else "for this algorithm with these settings"
        notes += [f"Tokens are not known {reason}.", *_no_price(config, "without tokens")]
        return Estimate(num_rows, steps, rows_seen, notes=notes)
    assert sample is not None
    if sample.spread > 1:
        notes.append("Tokens guessed from the length of the texts: the model's tokenizer is not here.")
    if used.sample.high and measured.reply_tokens:
        notes.append(f"Replies as in the last run like this one here: {measured.reply_tokens:,.0f} tokens on average.")
    elif used.sample.high:
        notes.append("Replies may have any length up to the cap; the first run will tell better.")
    seconds, note = _time(settings, used, measured, num_parameters, hardware, steps=steps, rows_seen=rows_seen)
    dollars, price_notes = _dollars(config, used)
    return Estimate(
        num_rows,
        steps,
        rows_seen,
        tokens=used.train,
        trained_tokens=used.sample if used.sample.high else per_row(sample.trained, num_rows, sample.spread).times(rows_seen),
        prefill_tokens=used.prefill if used.prefill.high else None,
        sampled_tokens=used.sample if used.sample.high else None,
        seconds=seconds,
        dollars=dollars,
        notes=[*notes, note, *price_notes],
    )


def _used(settings: Planned, sample: TokenSample, num_rows: int, rows_seen: int, measured: Measured) -> TokenUse | None:
    """Tokens of the whole run. An algorithm that does not say what it does with a row learns from its replies."""
    row, trained = (per_row(counts, num_rows, sample.spread) for counts in (sample.total, sample.trained))
    spread = SPREAD_OF_MEASURED
    reply = Range(measured.reply_tokens, measured.reply_tokens).times(1 / spread, spread) if measured.reply_tokens else None
    if isinstance(settings, TellsTokenUse):
        use = settings.token_use(row, trained, reply)
    else:
        use = TokenUse(train=row) if trained.high else None
    if use is None:
        return None
    read = use.prefill.times(rows_seen).plus(use.prefill_once.times(min(rows_seen, num_rows)))
    return TokenUse(use.train.times(rows_seen), read, use.sample.times(rows_seen))


def _time(
    settings: Planned,
    used: TokenUse,
    measured: Measured,
    num_parameters: int | None,
    hardware: Hardware | None,
    *,
    steps: int,
    rows_seen: int,
) -> tuple[Range | None, str]:
    """Seconds, and what they rest on."""
    if used.sample.high:
        if measured.seconds_per_attempt is None:
            return None, "No time is given: most of it is sampling, and no earlier run like this one is known here."
        attempts = rows_seen * getattr(settings, "num_samples", 1)
        seconds = Range(measured.seconds_per_attempt, measured.seconds_per_attempt).times(attempts)
        note = (
            f"Time from the last run like this one here: {measured.seconds_per_attempt:.3g} seconds per reply and its training."
        )
        return seconds.times(1 / SPREAD_OF_MEASURED, SPREAD_OF_MEASURED).plus(Range(*STARTUP_SECONDS)), note
    if rate := measured.tokens_per_second:
        speed = Range(rate / SPREAD_OF_MEASURED, rate * SPREAD_OF_MEASURED)
        return _seconds(used.train, speed, steps), f"Time from the last run like this one here: {rate:,.0f} tokens a second."
    if num_parameters and hardware:
        low, high = FLOPS_PER_TOKEN
        speed = Range(hardware.flops.low / (high * num_parameters), hardware.flops.high / (low * num_parameters))
        guess = f"Time guessed from {num_parameters:,} parameters on {hardware.words}; the first run will tell better."
        return _seconds(used.train, speed, steps), guess
    why = "the model's size is not known here" if hardware else "it is not computed on this machine"
    return None, f"No time is given: {why}, and neither is an earlier run like this one."


def _dollars(config: RunConfig, used: TokenUse) -> tuple[Range | None, list[str]]:
    """What the host bills for these tokens, and on what the figure rests; None where nothing is billed or known."""
    settings, kind = config.algorithm_config(), config.backend.kind
    if not _bills(config):
        return None, []
    if said := price_of_time(config):
        return None, [said]
    weights = Weights.ALL if getattr(settings, "lora_rank", 1) == 0 else Weights.ADAPTER
    rate = rate_of(kind, config.algorithm.kind, config.model.name, weights=weights)
    if rate is None:
        return None, _no_price(config, "for this model")
    kinds = (("train", "trained"), ("prefill", "read"), ("sample", "sampled"))
    needed = [(getattr(used, name), getattr(rate.per_million, name), word) for name, word in kinds if getattr(used, name).high]
    if unknown := [word for _, price, word in needed if price is None]:
        return None, _no_price(config, f"of {' and '.join(unknown)} tokens")
    dollars = NO_TOKENS
    for tokens, price, _ in needed:
        dollars = dollars.plus(tokens.times(price / 1e6))
    prices = ", ".join(f"${price:g} per million {word} tokens" for _, price, word in needed)
    return dollars, [f"Price at {prices}, {rate.said}. The host's bill decides."]


def bills(kind: str, settings: BaseModel) -> bool:
    """Whether a backend costs money, by its own settings too: one of a billed kind may be pointed at somebody's own server."""
    return is_billed(kind) and bool(getattr(settings, "is_billed", True))


def _no_price(config: RunConfig, why: str) -> list[str]:
    if not _bills(config):
        return []
    return [price_of_time(config) or f"The price is not known {why}: {config.backend.kind} bills what it trains."]


def price_of_time(config: RunConfig) -> str:
    """What a backend says that bills hours and not tokens; an installed one need not know the word."""
    tell = getattr(config.backend_config(), "price_of_time", None)
    return str(tell(config.backend.kind, config.algorithm_config(), config.model.name)) if tell is not None else ""


def _bills(config: RunConfig) -> bool:
    return uses_backend(algorithms.get(config.algorithm.kind)) and bills(config.backend.kind, config.backend_config())


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


def _rows_seen(steps: int, steps_per_epoch: int, num_rows: int, batch_size: int) -> int:
    """The last batch of an epoch may be a partial one."""
    epochs, rest = divmod(steps, steps_per_epoch) if num_rows else (0, 0)
    return epochs * min(steps_per_epoch * batch_size, num_rows) + min(rest * batch_size, num_rows)


def per_row(counts: Sequence[float], num_rows: int, spread: float) -> Range:
    """The sample's mean, two standard errors to each side; exact when the sample is the whole dataset."""
    mean = sum(counts) / len(counts)
    if len(counts) >= num_rows:
        found = Range(mean, mean)
    elif len(counts) == 1:
        found = Range(0.5 * mean, 2 * mean)
    else:
        variance = sum((count - mean) ** 2 for count in counts) / (len(counts) - 1)
        margin = 2 * math.sqrt(variance / len(counts))
        found = Range(max(0.0, mean - margin), mean + margin)
    return found.times(1 / spread, spread)


def _seconds(tokens: Range, speed: Range, steps: int) -> Range:
    return Range(
        STARTUP_SECONDS[0] + tokens.low / speed.high + STEP_OVERHEAD_SECONDS[0] * steps,
        STARTUP_SECONDS[1] + tokens.high / speed.low + STEP_OVERHEAD_SECONDS[1] * steps,
    )
