"""Logs of Inspect AI (.eval and .json), read by its own library, which is an optional extra: pip install inspect-ai.

Epoch e of a sample is attempt e − 1. The score is the first scorer's; C and true are right, I and N wrong, P is half, and a
number is right from 1. Other scorers' numbers become signals. A sample that ended in an error is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

from recipes.errors import ConfigError, DataError
from recipes.evals.imported import Found, ImportedAttempt, attempt_from, messages_of, with_reply
from recipes.jsonl import NOTHING, At, Words, shown
from recipes.types import Row

MAX_JSON_BYTES = 32 * 1024 * 1024
LETTERS = {"C": 1.0, "P": 0.5, "I": 0.0, "N": 0.0}


def scan(path: Path, suffix: str) -> Iterator[Found]:
    """suffix: .eval or .json, as the library tells them apart by it. Raises ConfigError without the library."""
    try:
        log = import_module("inspect_ai.log")
    except ImportError:
        raise ConfigError(
            "Inspect logs are read by the inspect-ai package, which is not installed here. To install it: pip install inspect-ai"
        ) from None
    at = At(1, "sample")
    if suffix == ".json" and path.stat().st_size > MAX_JSON_BYTES:
        at.refuse(
            "",
            Words("a JSON log that cannot be read piece by piece"),
            f"at most {MAX_JSON_BYTES // 2**20} MiB of JSON, or the .eval form: inspect log convert --to eval",
        )
    kind = suffix.removeprefix(".")
    number = 0
    try:
        with path.open("rb") as stream:
            header = log.read_eval_log(stream, header_only=True, format=kind)
        model, scorer = str(header.eval.model or ""), first_scorer(header)
        for sample in _samples(log, path, kind):
            number += 1
            try:
                yield Found(number, parse(sample.model_dump(mode="json"), At(number, "sample"), model, scorer), "sample")
            except DataError as error:
                yield Found(number, error, "sample")
    except (ValueError, OSError, KeyError, EOFError, NotImplementedError) as error:
        if isinstance(error, DataError):
            raise
        at = At(number + 1, "sample")
        yield Found(
            at.line, at.error("", Words(f"a log that cannot be read ({shown(str(error))})"), "a whole Inspect log"), "sample"
        )


def _samples(log: Any, path: Path, kind: str) -> Iterator[Any]:
    """One at a time; samples that a log of a run that was cut off does not hold are no attempts."""
    if kind == "json":  # by single samples the library would parse the whole file for each
        with path.open("rb") as stream:
            return iter(log.read_eval_log(stream, format=kind, resolve_attachments=True).samples or [])
    found: Iterator[Any] = log.read_eval_log_samples(
        path, all_samples_required=False, resolve_attachments=True, format=kind, exclude_fields={"events", "store"}
    )
    return found


def first_scorer(header: Any) -> str:
    """ "" when the log names none."""
    scorers = header.eval.scorers or []
    return str(scorers[0].name).rpartition("/")[2] if scorers else ""


def parse(sample: Row, at: At, model: str = "", scorer: str = "") -> ImportedAttempt:
    """A sample as the library dumps it. Raises DataError."""
    epoch = sample.get("epoch", NOTHING)
    if isinstance(epoch, bool) or not isinstance(epoch, int) or epoch < 1:
        at.refuse("epoch", epoch, "a whole number from 1")
    values: dict[str, Any] = {"task_id": sample.get("id"), "attempt": epoch - 1, "seconds": sample.get("total_time")}
    output = sample.get("output") or {}
    usage = output.get("usage") or {}
    values["num_tokens"] = usage.get("output_tokens")
    choices = output.get("choices") or [{}]
    limit = (sample.get("limit") or {}).get("type")
    values["stop_reason"] = limit or choices[0].get("stop_reason")
    info: dict[str, Any] = {"target": sample.get("target"), "metadata": sample.get("metadata") or None}
    error = sample.get("error")
    if error:
        message = error.get("message") if isinstance(error, dict) else error
        values["error"] = str(message or "an error without words")[:2000]
    else:
        values |= _verdict(sample.get("scores"), scorer, info, at)
    messages = messages_of(sample.get("messages") or _shown(sample, output), "messages", at)
    info = {key: value for key, value in info.items() if value is not None}
    return ImportedAttempt(attempt_from(values, at, messages=messages, info=info), sample.get("target"), model)


def _shown(sample: Row, output: Row) -> list[Row]:
    """The conversation of a sample that kept no messages."""
    given = sample.get("input")
    prompt = [{"role": "user", "content": given}] if isinstance(given, str) else list(given or [])
    return with_reply(prompt, str(output.get("completion") or ""))


def _verdict(scores: Any, scorer: str, info: dict[str, Any], at: At) -> Row:
    """reward, is_correct and signals; what the scorer said goes into info."""
    if not isinstance(scores, dict) or not scores:
        at.refuse("scores", Words("no score"), "a log of a scored run: inspect score LOG")
    name = scorer if scorer in scores else next(iter(scores))
    numbers = {key: _number(score.get("value") if isinstance(score, dict) else score) for key, score in scores.items()}
    reward = numbers[name]
    if reward is None:
        at.refuse(f"scores.{name}.value", _value(scores[name]), "C, I, P, N, true, false or a number")
    info["scorer"] = name
    for key in ("answer", "explanation"):
        if isinstance(scores[name], dict) and scores[name].get(key) is not None:
            info[key] = scores[name][key]
    signals = {key: value for key, value in numbers.items() if value is not None}
    return {"reward": reward, "is_correct": reward >= 1.0, "signals": signals}


def _value(score: Any) -> Any:
    return score.get("value") if isinstance(score, dict) else score


def _number(value: Any) -> float | None:
    if isinstance(value, str):
        if value in LETTERS:
            return LETTERS[value]
        try:
            value = float(value)
        except ValueError:
            return None
    return float(value) if isinstance(value, int | float) and abs(value) < 1e300 else None
