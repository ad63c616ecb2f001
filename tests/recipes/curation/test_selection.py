from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import recipes
from recipes.curation import Curated, CurationSettings, Pool, PooledAttempt, columns_of, compile_filter, curate, preview
from recipes.curation.conversations import read_conversation
from recipes.curation.filters import score_of
from recipes.errors import ConfigError, DataError
from tests.recipes.curation.attempts import SIGNAL, attempt, pools, said


def curated(attempts: list[PooledAttempt], **values: Any) -> Curated:
    return curate(attempts, CurationSettings.model_validate({"filter": "true"} | values))


def numbers(found: Curated) -> list[int]:
    return [row["metadata"]["attempt"] for row in found.rows]


def expected_rows(attempts: list[PooledAttempt], chosen: CurationSettings) -> list[tuple[str, str, str, int]]:
    """The contract in the plainest words: one task after the other, one attempt after the other."""
    runs = {name: place for place, name in enumerate(dict.fromkeys(item.run for item in attempts))}
    tasks: dict[tuple[str, str], list[PooledAttempt]] = defaultdict(list)
    for run in runs:
        for item in attempts:
            if item.run == run:
                tasks[item.benchmark, item.task_id].append(item)
    found = []
    for (benchmark, task_id), pooled in tasks.items():
        if not compile_filter(chosen.filter).matches(pooled, metric=chosen.metric, include_errors=chosen.include_errors):
            continue
        candidates = []
        for item in pooled:
            score = score_of(item, chosen.metric, include_errors=chosen.include_errors)
            if score is None or read_conversation(item.messages).unusable:
                continue
            passes = score.is_correct if chosen.min_reward is None else score.value >= chosen.min_reward
            if passes or chosen.select == "all":
                candidates.append((score.value, item))
        candidates.sort(key=lambda pair: (-pair[0], pair[1].attempt, runs[pair[1].run]))
        if chosen.select == "shortest":
            has_tokens = all(item.num_tokens for _, item in candidates)
            candidates.sort(key=lambda pair: pair[1].num_tokens if has_tokens else len(pair[1].messages[-1]["content"]))
        if chosen.dedup:
            seen: list[Any] = []
            candidates = [pair for pair in candidates if pair[1].messages not in seen and not seen.append(pair[1].messages)]  # type: ignore[func-returns-value]
        cap = 1 if chosen.select == "best" else chosen.max_per_task
        found += [(item.run, benchmark, task_id, item.attempt) for _, item in candidates[:cap]]
    return found


chosen_settings = st.fixed_dictionaries(
    {
        "metric": st.sampled_from(["is_correct", "reward"]),
        "filter": st.sampled_from(["true", "solved", "0 < avg < 1", "n >= 2", "pass@2 > 0.5", "best > worst"]),
        "select": st.sampled_from(["correct", "best", "best-n", "shortest", "all"]),
        "max_per_task": st.integers(1, 4),
        "min_reward": st.none() | st.sampled_from([0.0, 0.5, 1.0]),
        "dedup": st.booleans(),
        "include_errors": st.booleans(),
    }
).filter(lambda values: values["select"] != "all" or values["min_reward"] is None)


@given(pools(), chosen_settings)
@settings(max_examples=200, deadline=None)
def test_rows_are_what_the_contract_says_in_its_order(attempts: list[PooledAttempt], values: dict[str, Any]) -> None:
    chosen = CurationSettings.model_validate(values)
    found = curate(attempts, chosen)
    wanted = expected_rows(attempts, chosen)
    metadata = [row["metadata"] for row in found.rows]
    assert [(row["run"], row["benchmark"], row["task_id"], row["attempt"]) for row in metadata] == wanted
    counts = found.counts
    assert counts["num_rows"] == len(wanted) and counts["num_skipped"] == len(found.skipped)
    assert counts["num_tasks"] == counts["num_kept"] + counts["num_dropped"] + counts["num_without_attempts"]
    assert sum(found.selection.preview.skipped.values()) == len(found.skipped)
    histogram = found.selection.preview.histogram
    assert sum(bin.num_tasks for bin in histogram) == counts["num_tasks"] - counts["num_without_attempts"]
    assert sum(bin.num_kept for bin in histogram) == counts["num_kept"]


@given(pools(), chosen_settings)
@settings(max_examples=50, deadline=None)
def test_a_preview_after_others_says_what_a_fresh_one_says(attempts: list[PooledAttempt], values: dict[str, Any]) -> None:
    pool = Pool.of(columns_of(attempts))
    for text in ("solved", "n > 1", values["filter"]):
        chosen = CurationSettings.model_validate(values | {"filter": text, "seed": len(text)})
        warm, fresh = preview(pool, chosen), preview(Pool.of(columns_of(attempts)), chosen)
        assert warm.counts() == fresh.counts() and warm.histogram == fresh.histogram and (warm.kept == fresh.kept).all()


def test_candidates_stand_by_score_then_number_then_run() -> None:
    made = [
        attempt("t", 2, 1.0, run="first"),
        attempt("t", 1, 3.0, run="second"),
        attempt("t", 1, 3.0, run="first"),
        attempt("t", 0, 2.0, run="second"),
    ]
    found = curated(made, metric="reward")
    places = [(row["metadata"]["attempt"], row["metadata"]["run"]) for row in found.rows]
    assert places == [(1, "first"), (1, "second"), (0, "second"), (2, "first")]
    assert [row["metadata"]["score"] for row in found.rows] == [3.0, 3.0, 2.0, 1.0]


def test_an_unusable_conversation_takes_no_slot_and_is_listed_with_its_reason() -> None:
    question = said("")[:1]
    made = [
        attempt("t", 0, messages=[]),
        attempt("t", 1, messages=question),
        attempt("t", 2, messages=[*question, {"role": "assistant", "content": None}]),
        attempt("t", 3, messages=[*question, {"role": "robot", "content": "2"}, {"role": "assistant", "content": "2"}]),
        attempt("t", 4, messages="no list"),
        attempt("t", 5),
        attempt("t", 6),
    ]
    found = curated(made, select="best-n", max_per_task=1)
    assert numbers(found) == [5] and found.counts["num_over_cap"] == 1
    assert [(skipped.attempt, skipped.reason) for skipped in found.skipped] == [
        (0, "the conversation is empty"),
        (1, "no assistant turn"),
        (2, "messages[1].content: found null, expected text that is not blank"),
        (3, "messages[1].role: found 'robot', expected one of system, user, assistant, tool"),
        (4, "messages: found 'no list', expected a list of messages, each with role and content"),
    ]
    assert found.counts["num_skipped"] == 5


def test_reasoning_and_tool_calls_are_kept() -> None:
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 1}}, "id": "1"}
    messages = [
        {"role": "user", "content": "1 + 1?"},
        {"role": "assistant", "content": "", "reasoning": "I had better count.", "tool_calls": [call]},
        {"role": "tool", "content": "2", "tool_call_id": "1"},
        {"role": "assistant", "content": "2"},
    ]
    assert curated([attempt("t", messages=messages)]).rows[0]["messages"] == messages


def test_dedup_compares_whole_conversations_within_a_task_before_the_cap() -> None:
    def thought(words: str) -> list[dict[str, Any]]:
        return [*said("")[:1], {"role": "assistant", "content": "2", "reasoning": words}]

    made = [
        attempt("t", 0, messages=thought("one")),
        attempt("t", 1, messages=thought("one")),
        attempt("t", 2, messages=thought("two")),
        attempt("u", 0, messages=thought("one")),
    ]
    found = curated(made, dedup=True, max_per_task=2)
    assert numbers(found) == [0, 2, 0] and found.counts["num_duplicates"] == 1 and found.counts["num_over_cap"] == 0
    assert numbers(curated(made, max_per_task=2)) == [0, 1, 0]


def test_shortest_goes_by_tokens_and_by_characters_where_a_candidate_has_none() -> None:
    made = [
        attempt("t", 0, messages=said("long enough"), num_tokens=2),
        attempt("t", 1, messages=said("short"), num_tokens=9),
        attempt("u", 0, messages=said("long enough"), num_tokens=2),
        attempt("u", 1, messages=said("short")),
    ]
    assert numbers(curated(made, select="shortest", max_per_task=1)) == [0, 1]


def test_min_reward_decides_what_passes_in_place_of_right_and_wrong() -> None:
    made = [attempt("t", 0, 0.5), attempt("t", 1, 0.4), attempt("t", 2, 1.0)]
    assert numbers(curated(made, metric="reward", min_reward=0.5)) == [2, 0]
    assert numbers(curated(made, metric="reward")) == [2]
    assert numbers(curated(made, select="all")) == [2, 0, 1]


def test_tasks_of_two_benchmarks_are_two_and_a_run_named_twice_counts_once() -> None:
    runs = columns_of([attempt("0", 0, 1.0, run="r", benchmark="a"), attempt("0", 0, 0.0, run="s", benchmark="b")])
    pool = Pool.of([*runs, runs[0]])
    assert pool.num_tasks == 2 and len(pool) == 2 and pool.num_repeated == 1
    assert preview(pool, CurationSettings(filter="n == 1")).num_kept == 2


def test_an_attempt_given_again_counts_once_and_a_retry_replaces_its_error() -> None:
    made = [attempt("t", 0, None), attempt("t", 1, 0.0), attempt("t", 0, 1.0), attempt("t", 1, 0.0)]
    found = curated(made, select="all")
    assert numbers(found) == [0, 1] and found.counts["num_repeated"] == 2 and found.counts["num_errors"] == 0


def test_two_runs_without_names_are_told_apart_or_refused() -> None:
    made = [attempt("t", 0, 1.0, messages=said("2")), attempt("t", 0, 1.0, messages=said("two"))]
    with pytest.raises(DataError, match="two different attempts with the number 0"):
        curated(made)


def test_a_task_without_attempts_that_count_is_listed() -> None:
    found = curated([attempt("t", 0, None), attempt("u", 0), attempt("v", 0, signals={SIGNAL: 1.0})])
    assert found.tasks_without_attempts == ["t"] and found.counts["num_without_attempts"] == 1
    assert curated([attempt("u", 0), attempt("v", 0, signals={SIGNAL: 1.0})], metric=SIGNAL).tasks_without_attempts == ["u"]


def test_nothing_at_all_gives_nothing() -> None:
    found = recipes.curate([])
    assert found.rows == [] and set(found.counts.values()) == {0}


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"select": "best-n"}, "best-n needs max_per_task"),
        ({"select": "all", "min_reward": 1.0}, "min_reward would do nothing"),
        ({"filter": "pass > 1"}, "Character 1: found pass without its k"),
        ({"filter": ""}, "The filter is empty"),
        ({"max_per_task": 0}, "greater than or equal to 1"),
        ({"val_fraction": 1.0}, "less than 1"),
        ({"select": "worst"}, "'correct', 'best', 'best-n', 'shortest' or 'all'"),
    ],
)
def test_settings_that_make_no_sense_are_refused_with_a_sentence(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        CurationSettings.model_validate(values)


def test_a_holdout_that_leaves_a_side_empty_is_an_error() -> None:
    with pytest.raises(ConfigError, match="leaves the validation split empty"):
        curated([attempt("t"), attempt("u")], val_fraction=1e-6)
    with pytest.raises(ConfigError, match="leaves the training split empty"):
        curated([attempt("t"), attempt("u")], val_fraction=1 - 1e-6)
    with pytest.raises(ConfigError, match="no rows"):
        curated([attempt("t", 0, 0.0)], val_fraction=0.5)
    shown = preview(Pool.of(columns_of([attempt("t")])), CurationSettings(val_fraction=0.1))
    assert "leaves the" in shown.holdout_error and "the only task with rows falls on the other side" in shown.holdout_error
