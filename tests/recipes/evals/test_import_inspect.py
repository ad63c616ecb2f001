from __future__ import annotations

import sys
import zipfile
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from recipes.errors import ConfigError, DataError
from recipes.evals.import_inspect import parse
from recipes.evals.imports import ImportFormat, check, read_attempts, recognise
from recipes.jsonl import At

SAMPLE: dict[str, Any] = {  # as inspect-ai 0.3.285 dumps one
    "id": "q1",
    "epoch": 2,
    "input": "1+1?",
    "target": "2",
    "messages": [
        {"id": "x", "content": "1+1?", "source": "input", "metadata": None, "role": "user", "tool_call_id": None},
        {"id": "y", "content": "The answer is 2", "source": "generate", "role": "assistant", "tool_calls": None, "model": "m"},
    ],
    "output": {"choices": [{"stop_reason": "stop"}], "usage": {"input_tokens": 3, "output_tokens": 5}},
    "scores": {
        "match": {"value": "I", "answer": "2", "explanation": "The answer is 2"},
        "includes": {"value": "C", "answer": None, "explanation": None},
    },
    "total_time": 0.25,
    "error": None,
    "limit": None,
    "metadata": {},
}
AT = At(1, "sample")


def test_a_sample_is_one_attempt_judged_by_the_first_scorer() -> None:
    found = parse(SAMPLE, AT, "m", "match")
    result = found.result
    assert (result.task_id, result.attempt, result.is_correct, result.reward) == ("q1", 1, False, 0.0)
    assert result.signals == {"match": 0.0, "includes": 1.0}
    assert (result.num_tokens, result.seconds, result.stop_reason) == (5, 0.25, "stop")
    assert result.messages == [{"role": "user", "content": "1+1?"}, {"role": "assistant", "content": "The answer is 2"}]
    assert (found.answer, found.model, result.info["answer"]) == ("2", "m", "2")
    assert parse(SAMPLE, AT, "m", "includes").result.is_correct


@pytest.mark.parametrize(
    ("value", "reward", "is_correct"),
    [
        ("C", 1.0, True),
        ("P", 0.5, False),
        ("N", 0.0, False),
        (True, 1.0, True),
        (0.25, 0.25, False),
        ("0.9", 0.9, False),
        (1, 1.0, True),
    ],
)
def test_values_of_scores_are_read_as_inspect_means_them(value: Any, reward: float, is_correct: bool) -> None:
    result = parse(SAMPLE | {"scores": {"match": {"value": value}}}, AT).result
    assert (result.reward, result.is_correct) == (reward, is_correct)


def test_a_sample_that_failed_is_an_error() -> None:
    result = parse(SAMPLE | {"scores": None, "error": {"message": "rate limit", "traceback": "…"}}, AT).result
    assert (result.error, result.error_kind, result.is_correct) == ("rate limit", "imported", None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"scores": None}, "no score"),
        ({"scores": {"match": {"value": {"a": 1}}}}, r"scores\.match\.value"),
        ({"scores": {"match": {"value": "good"}}}, "found 'good'"),
        ({"epoch": 0}, "epoch"),
        ({"id": ""}, "task_id"),
    ],
)
def test_samples_that_cannot_be_judged_are_refused(change: dict[str, Any], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        parse(SAMPLE | change, AT, "m", "match")


def log_file(folder: Path) -> Path:
    path = folder / "log.eval"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.json", "{}")
    return path


def test_without_the_library_a_sentence_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "inspect_ai", None)
    monkeypatch.setitem(sys.modules, "inspect_ai.log", None)
    source = recognise(log_file(tmp_path))
    assert source.format is ImportFormat.INSPECT
    with pytest.raises(ConfigError, match="pip install inspect-ai"):
        check(source)


class LibraryStandIn(ModuleType):
    """The two calls of inspect_ai.log that are used, over the samples it is given; an exception among them is raised."""

    def __init__(self, samples: list[Any]) -> None:
        super().__init__("inspect_ai.log")
        self.samples = samples

    def read_eval_log(self, stream: Any, *, header_only: bool = False, format: str = "auto", **_: Any) -> Any:
        scorers = [SimpleNamespace(name="inspect_ai/match")]
        return SimpleNamespace(eval=SimpleNamespace(model="m", scorers=scorers), samples=list(self.read_eval_log_samples(stream)))

    def read_eval_log_samples(self, path: Any, **_: Any) -> Any:
        for given in self.samples:
            if isinstance(given, Exception):
                raise given
            yield SimpleNamespace(model_dump=lambda mode, given=given: given)


def install(monkeypatch: pytest.MonkeyPatch, samples: list[Any]) -> None:
    monkeypatch.setitem(sys.modules, "inspect_ai", ModuleType("inspect_ai"))
    monkeypatch.setitem(sys.modules, "inspect_ai.log", LibraryStandIn(samples))


def test_logs_are_read_through_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(monkeypatch, [SAMPLE, SAMPLE | {"epoch": 1}])
    json_log = tmp_path / "log.json"
    json_log.write_text('{\n  "version": 2,\n  "status": "success",\n  "eval": {}}')
    for path in (log_file(tmp_path), json_log):
        found = list(read_attempts(recognise(path)))
        assert [(item.result.attempt, item.model, item.result.is_correct) for item in found] == [(1, "m", False), (0, "m", False)]


def test_a_log_that_breaks_off_is_refused_where_it_breaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = log_file(tmp_path)
    monkeypatch.setattr(
        LibraryStandIn, "read_eval_log", lambda self, stream, **_: SimpleNamespace(eval=SimpleNamespace(model="", scorers=None))
    )
    install(monkeypatch, [SAMPLE, ValueError("truncated")])
    report = check(recognise(path))
    assert (report.num_attempts, report.num_refused) == (1, 1)
    assert str(report.refused[0]).startswith("Sample 2: found a log that cannot be read ('truncated')")
