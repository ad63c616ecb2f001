"""Attempts that were made elsewhere, whatever wrote them: recognise the file, stream it, check it whole before any of it is used.

Formats: plain JSONL (`import_jsonl`), lm-evaluation-harness sample files (`import_lm_eval`), rLLM run folders
(`import_rllm`), Inspect AI logs (`import_inspect`). Memory holds one attempt at a time, and which ones were seen.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Literal, NamedTuple

from recipes.errors import ConfigError, DataError
from recipes.evals import import_inspect, import_jsonl, import_lm_eval, import_rllm
from recipes.evals.imported import MAX_ATTEMPT, Found, ImportedAttempt
from recipes.jsonl import At, Words, refuse_unstorable, scan_jsonl
from recipes.rows import MAX_LISTED_ERRORS
from recipes.sources import sniff

__all__ = ["Found", "ImportFormat", "ImportReport", "ImportedAttempt", "Source", "check", "read_attempts", "recognise", "scan"]

EXPECTED = "attempts as JSONL, lm-evaluation-harness samples, an rLLM run as zip, or an Inspect log"
INSPECT_JSON = re.compile(rb'\A\s*\{\s*"version"\s*:\s*\d+\s*,\s*"(status|eval)"')
HEAD_BYTES = 4096


class ImportFormat(StrEnum):
    JSONL = "jsonl"
    LM_EVAL = "lm_eval"
    RLLM = "rllm"
    INSPECT = "inspect"


class Source(NamedTuple):
    """A file or folder to read, under the name that its owner knows it by. only_model: pass over the attempts of others.
    trajectory: of an rLLM run, the name of the trajectory whose conversation is the attempt's; "" is the first."""

    path: Path
    filename: str
    format: ImportFormat
    only_model: str = ""
    trajectory: str = ""


@dataclass
class ImportReport:
    """What a whole reading found. num_refused attempts cannot be used; the first are listed. passed_over: reason → how many
    entries were left aside because another one speaks for them. models: label → attempts; other_models: those passed over;
    clashing_models: those refused because another model made the same attempt.
    tasks: task_id → attempts, in the order of the file."""

    format: ImportFormat
    num_attempts: int = 0
    num_errors: int = 0
    num_refused: int = 0
    refused: list[DataError] = field(default_factory=list)
    passed_over: dict[str, int] = field(default_factory=dict)
    models: dict[str, int] = field(default_factory=dict)
    other_models: dict[str, int] = field(default_factory=dict)
    clashing_models: dict[str, int] = field(default_factory=dict)
    tasks: dict[str, int] = field(default_factory=dict)

    @property
    def num_tasks(self) -> int:
        return len(self.tasks)

    @property
    def attempts_per_task(self) -> int:
        return max(self.tasks.values(), default=0)


def recognise(path: Path, filename: str = "") -> Source:
    """Raises DataError for what holds no attempts that can be read."""
    filename = filename or path.name
    if path.is_dir():
        return Source(path, filename, ImportFormat.RLLM)
    with path.open("rb") as stream:
        head = stream.read(HEAD_BYTES)
    if head.startswith(b"PK\x03\x04"):
        return Source(path, filename, _kind_of_zip(path))
    if INSPECT_JSON.match(head):
        return Source(path, filename, ImportFormat.INSPECT)
    sniff(path, filename)  # says what a gzip archive, a picture or an empty file is
    at = At(1)
    with path.open("rb") as stream:
        for line, row, place in scan_jsonl(stream):
            if isinstance(row, DataError):
                raise row
            if "doc_id" in row and ("resps" in row or "filtered_resps" in row):
                return Source(path, filename, ImportFormat.LM_EVAL)
            if "task_id" in row:
                return Source(path, filename, ImportFormat.JSONL)
            At(line, place).refuse("", row, EXPECTED)
    at.refuse("", Words("no attempts"), EXPECTED)


def _kind_of_zip(path: Path) -> ImportFormat:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError) as error:
        At(1).refuse("", Words(f"a zip file that cannot be read ({error})"), "a whole zip file")
    if any(name in ("header.json", "_journal/start.json") for name in names):
        return ImportFormat.INSPECT
    if any(name.endswith("results.json") or import_rllm.EPISODE.search(name) for name in names):
        return ImportFormat.RLLM
    At(1).refuse("", Words(f"a zip file of {len(names)} other files"), "an rLLM run (results.json, episodes/) or an Inspect log")


def scan(source: Source) -> Iterator[Found]:
    """Every attempt once, numbered, or why it is refused. Raises DataError when nothing can be read, ConfigError for a missing
    extra, or for a trajectory where there are none. Where the source does not number attempts they are numbered as they come,
    beside the numbers that are taken."""
    seen = _Seen()
    first_model = ""
    for found in _scan(source):
        if source.only_model and isinstance(found.attempt, ImportedAttempt) and found.attempt.model != source.only_model:
            reason = f"Attempts by other models than {source.only_model}"
            yield found._replace(attempt=None, passed_over=reason, model=found.attempt.model)
            continue
        if not isinstance(found.attempt, ImportedAttempt):
            yield found
            continue
        at = At(found.line, found.place)
        try:
            refuse_unstorable(found.attempt.answer, at)
        except DataError as error:
            yield found._replace(attempt=error)
            continue
        result, model = found.attempt.result, found.attempt.model
        first_model = first_model or model
        number = seen.take(result.task_id, result.attempt)
        if number is None:
            what = f"attempt {result.attempt} of task {result.task_id[:80]!r}" if result.attempt >= 0 else "more attempts"
            other = model if model != first_model else ""
            what, wanted = f"{what}{other and f', now by {other[:80]},'} a second time", "every attempt once"
            yield found._replace(attempt=at.error("attempt", Words(what), wanted), model=other)
        elif number == result.attempt:
            yield found
        else:
            yield found._replace(attempt=replace(found.attempt, result=replace(result, attempt=number)))


def _scan(source: Source) -> Iterator[Found]:
    if source.trajectory and source.format is not ImportFormat.RLLM:
        raise ConfigError("Only the episodes of an rLLM run have trajectories: leave trajectory away.", path=("trajectory",))
    if source.format is ImportFormat.JSONL:
        return import_jsonl.scan(source.path)
    if source.format is ImportFormat.LM_EVAL:
        return import_lm_eval.scan(source.path, source.filename)
    if source.format is ImportFormat.RLLM:
        return import_rllm.scan(source.path, source.trajectory)
    return import_inspect.scan(source.path, ".json" if _is_text(source.path) else ".eval")


def _is_text(path: Path) -> bool:
    with path.open("rb") as stream:
        return not stream.read(4).startswith(b"PK")


class _Seen:
    """Which attempts of which tasks came before. Small numbers are bits of one integer per task."""

    BITS = 1024

    def __init__(self) -> None:
        self.low: dict[str, int] = {}
        self.high: set[tuple[str, int]] = set()

    def take(self, task_id: str, number: int) -> int | None:
        """The number, or the lowest that is free for −1; None when it was taken before."""
        bits = self.low.get(task_id, 0)
        if number < 0:
            number = (~bits & (bits + 1)).bit_length() - 1
            while (task_id, number) in self.high:
                number += 1
            if number >= MAX_ATTEMPT:
                return None
        if number >= self.BITS:
            if (task_id, number) in self.high:
                return None
            self.high.add((task_id, number))
            return number
        if bits >> number & 1:
            return None
        self.low[task_id] = bits | 1 << number
        return number


def check(source: Source) -> ImportReport:
    """Read everything once, keep nothing but counts. Raises as `scan`."""
    report = ImportReport(source.format)
    for found in scan(source):
        if isinstance(found.attempt, DataError):
            report.num_refused += 1
            if len(report.refused) < MAX_LISTED_ERRORS:
                report.refused.append(found.attempt)
            if found.model:
                _count(report.clashing_models, found.model)
        elif found.attempt is None:
            report.passed_over[found.passed_over] = report.passed_over.get(found.passed_over, 0) + 1
            _count(report.other_models, found.model)
        else:
            result, model = found.attempt.result, found.attempt.model
            report.num_attempts += 1
            report.num_errors += result.error is not None
            report.tasks[result.task_id] = report.tasks.get(result.task_id, 0) + 1
            _count(report.models, model)
    return report


def _count(models: dict[str, int], model: str) -> None:
    """A hostile file may name as many as it has lines."""
    if model in models or len(models) < MAX_LISTED_ERRORS:
        models[model] = models.get(model, 0) + 1


def read_attempts(source: Source, *, on_error: Literal["refuse", "skip"] = "refuse") -> Iterator[ImportedAttempt]:
    """The attempts of a source. refuse: raises the first refusal; to have nothing of a bad file, `check` it first."""
    for found in scan(source):
        if isinstance(found.attempt, ImportedAttempt):
            yield found.attempt
        elif found.attempt is not None and on_error == "refuse":
            raise found.attempt
