from __future__ import annotations

import json
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from recipes.errors import DataError
from recipes.evals.imports import ImportedAttempt, ImportFormat, check, read_attempts, recognise, scan
from recipes.evals.metrics import count_attempts, summarise

GOOD = {
    "task_id": "t1",
    "attempt": 0,
    "reward": 1.0,
    "is_correct": True,
    "signals": {"length": 3},
    "messages": [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "4"}],
    "error": None,
}


def write(path: Path, rows: Iterable[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), encoding="utf-8")
    return path


def attempts(path: Path, filename: str = "") -> list[ImportedAttempt]:
    return list(read_attempts(recognise(path, filename)))


def refusals(path: Path) -> list[str]:
    return [str(found.attempt) for found in scan(recognise(path)) if isinstance(found.attempt, DataError)]


def test_plain_attempts_keep_everything_they_say(tmp_path: Path) -> None:
    row = GOOD | {"model": "m", "answer": "4", "num_tokens": 7, "seconds": 1.5, "stop_reason": "stop", "colour": "red"}
    (found,) = attempts(write(tmp_path / "a.jsonl", [row]))
    result = found.result
    assert (found.model, found.answer) == ("m", "4")
    assert (result.task_id, result.attempt, result.reward, result.is_correct) == ("t1", 0, 1.0, True)
    assert (result.signals, result.info) == ({"length": 3.0}, {"colour": "red"})
    assert (result.num_tokens, result.seconds, result.stop_reason) == (7, 1.5, "stop")
    assert result.messages == GOOD["messages"]


def test_verdicts_are_completed_and_errors_are_no_wrong_answers(tmp_path: Path) -> None:
    rows = [
        {"task_id": 7, "reward": 0.5},
        {"task_id": 7, "reward": 1},
        {"task_id": 7, "is_correct": True},
        {"task_id": 7, "is_correct": False, "reward": 0.0, "error": "server down", "error_kind": "server"},
    ]
    found = [item.result for item in attempts(write(tmp_path / "a.jsonl", rows))]
    assert [(r.attempt, r.reward, r.is_correct) for r in found] == [
        (0, 0.5, False),
        (1, 1.0, True),
        (2, 1.0, True),
        (3, None, None),
    ]
    assert (found[3].error, found[3].error_kind) == ("server down", "server")
    summary = summarise(count_attempts(found))
    assert (summary.num_attempts, summary.num_errors) == (3, 1)


def test_attempts_without_numbers_take_those_that_are_free(tmp_path: Path) -> None:
    rows = [
        GOOD | {"attempt": 1},
        GOOD | {"attempt": None},
        GOOD | {"attempt": None},
        GOOD | {"attempt": 5000},
        GOOD | {"task_id": "u"},
    ]
    found = attempts(write(tmp_path / "a.jsonl", rows))
    assert [(item.result.task_id, item.result.attempt) for item in found] == [
        ("t1", 1),
        ("t1", 0),
        ("t1", 2),
        ("t1", 5000),
        ("u", 0),
    ]


HOSTILE = [
    ("not json", "broken JSON"),
    ("[1, 2]", "expected one JSON object"),
    ('{"task_id": "t", "reward": NaN}', "NaN"),
    ('{"task_id": "t", "task_id": "u", "reward": 1}', "twice"),
    ({"reward": 1.0}, "task_id: found nothing"),
    ({"task_id": "  ", "reward": 1.0}, "task_id: found blank text"),
    ({"task_id": "x" * 301, "reward": 1.0}, "up to 300 characters"),
    ({"task_id": True, "reward": 1.0}, "task_id: found true"),
    ({"task_id": "t"}, "found no verdict"),
    ({"task_id": "t", "reward": "high"}, "reward: found 'high'; expected a number"),
    ({"task_id": "t", "reward": 10**400}, "expected a number"),
    ({"task_id": "t", "is_correct": "yes"}, "expected true or false"),
    ({"task_id": "t", "is_correct": True, "error": "down"}, "an attempt that failed has no verdict"),
    ({"task_id": "t", "is_correct": True, "attempt": -1}, "attempt: found -1"),
    ({"task_id": "t", "is_correct": True, "attempt": 10**30}, "expected a whole number from 0 to 99,999"),
    ({"task_id": "t", "is_correct": True, "signals": {"a": "b"}}, "signals.a"),
    ({"task_id": "t", "is_correct": True, "messages": "hello"}, "messages: found 'hello'"),
    ({"task_id": "t", "is_correct": True, "messages": [{"role": "robot", "content": ""}]}, "messages[0].role"),
    ({"task_id": "t", "is_correct": True, "num_tokens": -4}, "num_tokens"),
    ('{"task_id": "t", "is_correct": true, "why": "\\ud800"}', "half a surrogate pair"),
    ('{"task_id": "\\ud800", "is_correct": true}', "half a surrogate pair"),
    ('{"task_id": "t", "is_correct": true, "answer": ' + "[" * 300 + "]" * 300 + "}", "nesting deeper"),
]


@pytest.mark.parametrize(("row", "reason"), HOSTILE)
def test_a_bad_line_is_refused_with_its_number_and_the_reason(tmp_path: Path, row: Any, reason: str) -> None:
    path = write(tmp_path / "a.jsonl", [GOOD, row])
    (sentence,) = refusals(path)
    assert sentence.startswith("Line 2") and reason in sentence
    with pytest.raises(DataError, match="Line 2"):
        attempts(path)
    assert len(list(read_attempts(recognise(path), on_error="skip"))) == 1


def test_the_same_attempt_twice_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [GOOD, GOOD, GOOD | {"attempt": 2000}, GOOD | {"attempt": 2000}])
    assert [sentence[:6] for sentence in refusals(path)] == ["Line 2", "Line 4"]
    assert "attempt 0 of task 't1' a second time" in refusals(path)[0]


def test_a_report_counts_everything_and_lists_the_first_fifty(tmp_path: Path) -> None:
    rows = [GOOD, GOOD | {"task_id": "t2", "model": "m", "error": "x", "is_correct": None}, *[{"task_id": "t"}] * 60]
    report = check(recognise(write(tmp_path / "a.jsonl", rows)))
    assert (report.num_attempts, report.num_tasks, report.num_errors, report.num_refused) == (2, 2, 1, 60)
    assert len(report.refused) == 50 and report.models == {"": 1, "m": 1}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "an empty file"),
        (b"\n \n", "blank|no attempts|empty"),
        (b"\x1f\x8b123", "gzip"),
        (b"\x00\x01", "binary"),
        (b'{"messages": []}', "expected attempts as JSONL"),
        (b"PK\x03\x04 broken", "zip file that cannot be read"),
        ("é".encode("latin-1"), "utf-8|UTF-8|text that begins"),
    ],
)
def test_files_without_attempts_are_refused_by_what_they_are(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(content)
    with pytest.raises(DataError, match=reason):
        recognise(path)


def test_a_zip_of_something_else_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("photo.png", b"")
    with pytest.raises(DataError, match="1 other files"):
        recognise(tmp_path / "a.zip")


def sample(doc_id: int, score: float, **more: Any) -> dict[str, Any]:
    return {
        "doc_id": doc_id,
        "doc": {"question": f"{doc_id}?"},
        "target": "7",
        "arguments": {"gen_args_0": {"arg_0": f"Q: {doc_id}?", "arg_1": {"until": []}}},
        "resps": [["It is 7."]],
        "filtered_resps": ["7"],
        "filter": "strict-match",
        "metrics": ["exact_match"],
        "exact_match": score,
    } | more


def test_harness_samples_are_one_attempt_per_document_of_the_first_filter(tmp_path: Path) -> None:
    name = "samples_gsm8k_cot_2026-01-02T03-04-05.678901.jsonl"
    rows = [sample(0, 1.0), sample(1, 0.0), sample(0, 0.0, filter="flexible-extract"), sample(1, 1.0, filter="flexible-extract")]
    path = write(tmp_path / name, rows)
    found = attempts(path)
    assert recognise(path).format is ImportFormat.LM_EVAL
    assert [(item.result.task_id, item.result.is_correct) for item in found] == [("gsm8k_cot/0", True), ("gsm8k_cot/1", False)]
    assert found[0].result.messages == [{"role": "user", "content": "Q: 0?"}, {"role": "assistant", "content": "It is 7."}]
    assert found[0].answer == "7" and found[0].result.info["score"] == "exact_match"
    assert check(recognise(path)).passed_over == {"Lines of filter flexible-extract beside strict-match": 2}


def test_harness_samples_of_older_shapes_are_read(tmp_path: Path) -> None:
    choice = {
        "doc_id": 3,
        "arguments": [["2+2=", " 3"], ["2+2=", " 4"]],
        "resps": [[[-5.0, False]], [[-0.1, True]]],
        "acc": 1.0,
        "acc_norm": 0.0,
    }
    chat = sample(4, 0.0, arguments=[['[{"role": "user", "content": "hi"}]', {}]], metrics=None, filter=None)
    found = attempts(write(tmp_path / "x.jsonl", [choice, chat]))
    assert found[0].result.messages[-1]["content"] == " 4" and found[0].result.is_correct
    assert found[0].result.signals == {"acc": 1.0, "acc_norm": 0.0} and found[0].result.task_id == "3"
    assert found[1].result.messages[0] == {"role": "user", "content": "hi"}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (sample(1, 0.0) | {"doc_id": None}, "doc_id"),
        ({"doc_id": 1, "filter": "strict-match", "resps": [], "perplexity": 31.0}, "no score between 0 and 1"),
        (sample(0, 1.0), "a second time"),
    ],
)
def test_harness_samples_without_id_or_score_are_refused(tmp_path: Path, row: Any, reason: str) -> None:
    (sentence,) = refusals(write(tmp_path / "x.jsonl", [sample(0, 1.0), row]))
    assert sentence.startswith("Line 2") and reason in sentence


def test_a_large_file_streams_in_bounded_memory(tmp_path: Path) -> None:
    """300 MB of attempts, made and read in a process of its own: the peak over idle stays far under the file's size."""
    program = f"""
        import json, resource
        from pathlib import Path
        from recipes.evals.imports import check, recognise
        path = Path({str(tmp_path / "large.jsonl")!r})
        text = "word " * 12_000
        with path.open("w") as stream:
            for task in range(1250):
                for attempt in range(4):
                    stream.write(json.dumps({{"task_id": f"t{{task}}", "attempt": attempt, "is_correct": attempt == 0,
                        "messages": [{{"role": "user", "content": "?"}}, {{"role": "assistant", "content": text}}]}}) + "\\n")
        idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        report = check(recognise(path))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(json.dumps([path.stat().st_size, report.num_attempts, (peak - idle) * 1024]))
        path.unlink()
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True, check=True, timeout=120
    )
    size, num_attempts, grown = json.loads(done.stdout)
    assert size > 300_000_000 and num_attempts == 5000
    assert grown < 60_000_000
