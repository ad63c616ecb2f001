"""What an eval will take before it is started: attempts, tokens, time, dollars. Arithmetic only, as in `recipes.estimate`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

from recipes.config import BackendChoice
from recipes.estimate import SPREAD_OF_MEASURED, STARTUP_SECONDS, TokenSample, bills, per_row
from recipes.eval_config import EvalConfig
from recipes.prices import Rate, Served, machines_of, rate_at, rate_of
from recipes.registry import verifiers
from recipes.serving_bounds import ServingBound, bound_of
from recipes.token_lengths import guessed
from recipes.token_use import Range

EVAL = "eval"
"""Among the algorithms of a price."""


class MeasuredEval(NamedTuple):
    """What the last eval like this one did here; None: it did not say. Of a reply, and per attempt of the whole."""

    reply_tokens: float | None = None
    seconds_per_attempt: float | None = None


@dataclass(frozen=True)
class EvalEstimate:
    """None is "not known". prompt_tokens: read, where attempts at a task may share the reading of its prompt or not. seconds are
    of the eval alone; dollars are what the host bills."""

    num_tasks: int
    num_attempts: int
    prompt_tokens: Range | None
    sampled_tokens: Range
    seconds: Range | None = None
    dollars: Range | None = None
    notes: list[str] = field(default_factory=list)


def estimate_eval(
    config: EvalConfig,
    *,
    num_rows: int,
    sample: TokenSample | None = None,
    measured: MeasuredEval | None = None,
    num_evals: int = 1,
) -> EvalEstimate:
    """num_rows: tasks that there are, of which `sample` was taken. num_evals: how many there will be that each have a deployment
    made, for what is said of those; the rest is of this one. Raises ConfigError when the settings are wrong."""
    measured = measured or MeasuredEval()
    num_tasks = min(num_rows, config.max_tasks or num_rows)
    num_attempts = num_tasks * config.attempts
    notes: list[str] = []
    if config.endpoint is not None and config.backend.kind != BackendChoice().kind:
        notes.append(f"The endpoint answers: the backend {config.backend.kind} is not used.")
    prompts = None
    if sample is not None and sample.total:
        one = per_row(sample.total, num_rows + (num_tasks < num_rows), sample.spread)
        if config.sampling.system_prompt:
            one = Range(one.low, one.high + guessed(config.sampling.system_prompt).high)
        prompts = Range(one.low * num_tasks, one.high * num_attempts)
        if sample.spread > 1:
            notes.append("Tokens guessed from the length of the texts: the model's tokenizer is not here.")
    if measured.reply_tokens:
        reply = Range(measured.reply_tokens / SPREAD_OF_MEASURED, measured.reply_tokens * SPREAD_OF_MEASURED)
        notes.append(f"Replies as in the last eval like this one here: {measured.reply_tokens:,.0f} tokens on average.")
    else:
        reply = Range(1, config.sampling.max_tokens)
        notes.append("Replies may have any length up to the cap; the first eval will tell better.")
    said = reply.times(num_attempts)
    seconds, note = _time(measured, num_attempts)
    dollars, price_notes = _dollars(config, prompts, said, num_evals)
    if getattr(verifiers.get(config.verifier.kind), "asks_service", False):
        price_notes.append("The judge is asked about every reply besides: what it reads and says is not counted here.")
    return EvalEstimate(num_tasks, num_attempts, prompts, said, seconds, dollars, [*notes, note, *price_notes])


def _time(measured: MeasuredEval, num_attempts: int) -> tuple[Range | None, str]:
    each = measured.seconds_per_attempt
    if each is None:
        return None, "No time is given: no earlier eval like this one is known here."
    seconds = Range(each, each).times(num_attempts / SPREAD_OF_MEASURED, num_attempts * SPREAD_OF_MEASURED)
    return seconds.plus(Range(*STARTUP_SECONDS)), f"Time from the last eval like this one here: {each:.3g} seconds per attempt."


def _dollars(config: EvalConfig, read: Range | None, said: Range, num_evals: int) -> tuple[Range | None, list[str]]:
    """What the host bills, and on what the figure rests; None where nothing is billed or known."""
    if config.endpoint is not None:
        host = urlsplit(config.endpoint.base_url).hostname or ""
        rate: Rate | Served | None = rate_at(host, config.endpoint.model)
        unknown = f"there is no price of {config.endpoint.model} at {host} in the list, and whoever runs it may bill for it"
    else:
        assert config.model is not None
        if config.serving is not None:
            return None, [_serving_note(config.backend.kind, bound_of(config.serving, num_evals=num_evals))]
        if not bills(config.backend.kind, config.backend_config()):
            return None, []
        rate = rate_of(config.backend.kind, EVAL, config.model.name)
        unknown = f"{config.backend.kind} bills what it reads and says, and there is no price of {config.model.name} in the list"
    if rate is None or rate.per_million.prefill is None or rate.per_million.sample is None:
        return None, [f"The price is not known: {unknown}."]
    prices = rate.per_million
    assert prices.prefill is not None and prices.sample is not None
    of_list = f"${prices.prefill:g} per million tokens read, ${prices.sample:g} per million said, {rate.said}"
    if read is None:
        return None, [f"The price is not known without the tokens that are read. It would be at {of_list}."]
    dollars = read.times(prices.prefill / 1e6).plus(said.times(prices.sample / 1e6))
    return dollars, [f"Price at {of_list}. The host's bill decides."]


def _serving_note(backend: str, bound: ServingBound) -> str:
    """Which accelerators it takes is known once the service was asked, before it makes one."""
    rows = machines_of(backend)
    known = {
        said: ", ".join(f"{row.accelerator} ${row.per_hour:,.2f}" for row in rows if row.said == said)
        for said in dict.fromkeys(row.said for row in rows)
    }
    prices = "; ".join(f"{listed} an hour, {said}" for said, listed in known.items()) or "no price is known"
    return f"{bound.sentence()} Each accelerator of a replica: {prices}."
