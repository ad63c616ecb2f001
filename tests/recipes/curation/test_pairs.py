"""Preference pairs: held to the contract in plain words, and every task that cannot give one."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.curation import Curated, CurationSettings, PooledAttempt, compile_filter, curate, pair_row
from recipes.curation.filters import has_verdict, score_of
from recipes.errors import DataError
from recipes.rows import RowFormat, parse
from recipes.types import Row
from tests.recipes.curation.attempts import attempt, pools, said


def paired(attempts: list[PooledAttempt], **values: Any) -> Curated:
    return curate(attempts, CurationSettings.model_validate({"filter": "true", "rows": "pairs"} | values))


def numbers(found: Curated) -> list[tuple[int, int]]:
    return [(row["metadata"]["attempt"], row["metadata"]["rejected_attempt"]) for row in found.rows]


def texts(found: Curated) -> list[tuple[str, str]]:
    return [(row["chosen"][-1]["content"], row["rejected"][-1]["content"]) for row in found.rows]


def of_one_task(**replies: list[str]) -> list[PooledAttempt]:
    """right=…, wrong=… in the order of their numbers: the right ones first."""
    told = [(text, value) for value, key in ((1.0, "right"), (0.0, "wrong")) for text in replies.get(key, [])]
    return [attempt("t", number, value, messages=said(text)) for number, (text, value) in enumerate(told)]


chosen_settings = st.fixed_dictionaries(
    {
        "metric": st.sampled_from(["is_correct", "reward"]),
        "filter": st.sampled_from(["true", "0 < avg < 1", "n >= 2"]),
        "select": st.sampled_from(["correct", "best", "best-n", "shortest"]),
        "max_per_task": st.integers(1, 3),
        "max_pairs": st.integers(1, 6),
        "min_reward": st.none() | st.sampled_from([0.0, 0.5, 1.0]),
        "include_errors": st.booleans(),
    }
)


def sides_of(
    attempts: list[PooledAttempt], chosen: CurationSettings
) -> dict[tuple[str, str], tuple[list[PooledAttempt], list[PooledAttempt]]]:
    """What the contract lets stand on either side, by task, in plain words."""
    tasks: dict[tuple[str, str], list[PooledAttempt]] = defaultdict(list)
    for item in attempts:
        tasks[item.benchmark, item.task_id].append(item)
    found = {}
    for key, pooled in tasks.items():
        if not compile_filter(chosen.filter).matches(pooled, metric=chosen.metric, include_errors=chosen.include_errors):
            continue
        good: list[PooledAttempt] = []
        bad: list[PooledAttempt] = []
        for item in pooled:
            score = score_of(item, chosen.metric)
            if score is None or not has_verdict(item) or len(item.messages) != 2 or not item.messages[1]["content"].strip():
                continue
            passes = score.is_correct if chosen.min_reward is None else score.value >= chosen.min_reward
            (good if passes else bad).append(item)
        both = [item.messages for item in good if any(item.messages == other.messages for other in bad)]
        found[key] = tuple([item for item in side if item.messages not in both] for side in (good, bad))
    return found  # type: ignore[return-value]


@given(pools(), chosen_settings)
@settings(max_examples=150, deadline=None)
def test_every_pair_is_one_that_the_contract_allows_and_as_many_as_it_allows(
    attempts: list[PooledAttempt], values: dict[str, Any]
) -> None:
    chosen = CurationSettings.model_validate(values | {"rows": "pairs"})
    found = curate(attempts, chosen)
    sides = sides_of(attempts, chosen)
    per_task: Counter[tuple[str, str]] = Counter()
    seen = set()
    for number, row in enumerate(found.rows, 1):
        told = row["metadata"]
        key = (told["benchmark"], told["task_id"])
        good, bad = sides[key]
        one = next(item for item in good if (item.run, item.attempt) == (told["run"], told["attempt"]))
        other = next(item for item in bad if (item.run, item.attempt) == (told["rejected_run"], told["rejected_attempt"]))
        assert [*row["prompt"], *row["chosen"]] == one.messages and [*row["prompt"], *row["rejected"]] == other.messages
        assert parse(row, RowFormat.PREFERENCE, line=number) == row
        pair = (key, str(one.messages), str(other.messages))
        assert pair not in seen, "different replies only"
        seen.add(pair)
        per_task[key] += 1
    for key, (good, bad) in sides.items():
        cap = 1 if chosen.select == "best" else chosen.max_per_task or len(good)
        different = [len({str(item.messages) for item in side}) for side in (good, bad)]
        assert per_task[key] == min(chosen.max_pairs, min(different[0], cap) * different[1])
    assert found.counts["num_rows"] == len(found.rows)
    assert curate(attempts, chosen).rows == found.rows, "nothing is drawn"


@pytest.mark.parametrize(
    "replies",
    [{"right": ["2", "two"]}, {"wrong": ["3", "4"]}, {"right": ["2"], "wrong": []}, {"right": ["2", "2"], "wrong": ["2"]}],
)
def test_a_task_without_replies_on_both_sides_gives_none_and_is_counted(replies: dict[str, list[str]]) -> None:
    found = paired(of_one_task(**replies))
    assert found.rows == [] and found.counts["num_kept_without_rows"] == 1


def test_a_reply_that_was_judged_both_ways_is_neither_right_nor_wrong() -> None:
    found = paired(of_one_task(right=["2", "two"], wrong=["two", "3"]))
    assert texts(found) == [("2", "3")] and found.counts["num_contradicted"] == 2


def test_alike_replies_count_once_on_either_side() -> None:
    found = paired(of_one_task(right=["2", "2", "two"], wrong=["3", "3"]))
    assert texts(found) == [("2", "3"), ("two", "3")] and found.counts["num_duplicates"] == 2


def test_a_cap_takes_from_as_many_different_replies_as_it_can() -> None:
    attempts = of_one_task(right=["a", "b", "c"], wrong=["x", "y", "z"])
    assert texts(paired(attempts, max_pairs=3)) == [("a", "x"), ("b", "y"), ("c", "z")]
    whole = texts(paired(attempts, max_pairs=9))
    assert whole[:6] == [("a", "x"), ("b", "y"), ("c", "z"), ("a", "y"), ("b", "z"), ("c", "x")]
    assert len(set(whole)) == 9 and paired(attempts, max_pairs=3).counts["num_over_cap"] == 6


def test_select_and_max_per_task_choose_the_right_side_and_the_worst_are_rejected_first() -> None:
    attempts = [
        attempt("t", number, value, messages=said(text))
        for number, (value, text) in enumerate([(1.0, "fair"), (0.2, "weak"), (1.5, "good"), (-1.0, "awful"), (0.9, "near")])
    ]
    assert texts(paired(attempts, metric="reward", select="best", max_pairs=2)) == [("good", "awful"), ("good", "weak")]
    assert texts(paired(attempts, metric="reward", max_per_task=1, max_pairs=1)) == [("good", "awful")]
    near = paired(attempts, metric="reward", min_reward=0.5, select="best-n", max_per_task=3, max_pairs=3)
    assert texts(near) == [("good", "awful"), ("fair", "weak"), ("near", "awful")]


def test_attempts_that_ended_in_an_error_are_no_wrong_replies_even_where_they_count_as_wrong() -> None:
    attempts = [*of_one_task(right=["2"]), PooledAttempt("t", 1, error="Lost.", messages=said("3"))]
    for include in (False, True):
        assert paired(attempts, include_errors=include).rows == []


def test_pairs_read_the_same_prompt() -> None:
    attempts = [
        attempt("t", 0, 1.0, messages=said("2", "1 + 1?")),
        attempt("t", 1, 0.0, messages=said("5", "2 + 2?")),
        attempt("t", 2, 0.0, messages=said("3", "1 + 1?")),
    ]
    assert numbers(paired(attempts)) == [(0, 2)]


def test_what_both_say_alike_is_context_and_a_conversation_without_a_last_reply_is_passed_over() -> None:
    def tool(answer: str, *rest: Row) -> list[Row]:
        call = {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {}}}],
        }
        return [{"role": "user", "content": "1 + 1?"}, call, {"role": "tool", "content": answer}, *rest]

    right, wrong = ({"role": "assistant", "content": text} for text in ("2", "3"))
    attempts = [
        attempt("t", 0, 1.0, messages=tool("2", right)),
        attempt("t", 1, 0.0, messages=tool("2", wrong)),
        attempt("t", 2, 0.0, messages=tool("?", wrong)),
        attempt("t", 3, 0.0, messages=tool("2")),
    ]
    found = paired(attempts)
    assert numbers(found) == [(0, 1), (0, 2)]
    assert [len(row["prompt"]) for row in found.rows] == [3, 1] and found.rows[0]["chosen"] == [right]
    assert [skip.attempt for skip in found.skipped] == [3] and "no side of a pair" in found.skipped[0].reason


def test_tasks_fall_on_the_sides_that_they_fall_on_as_attempts() -> None:
    attempts = [attempt(f"t{task}", number, float(number % 2)) for task in range(40) for number in range(4)]
    pairs, chats = paired(attempts, val_fraction=0.3, seed=5), curate(attempts, CurationSettings(val_fraction=0.3, seed=5))
    assert pairs.validation_task_ids == chats.validation_task_ids and pairs.validation_task_ids
    other = paired(attempts, val_fraction=0.3, seed=6)
    assert other.validation_task_ids != pairs.validation_task_ids and len(other.rows) == len(pairs.rows) == 40 * 4


def test_conversations_with_nothing_in_common_are_no_pair() -> None:
    with pytest.raises(DataError, match="no prompt in common"):
        pair_row(said("2", "1 + 1?"), said("3", "1 + 2?"))
    with pytest.raises(DataError, match="differs from chosen"):
        pair_row(said("2"), said("2"))


def test_pairs_of_everything_are_refused() -> None:
    with pytest.raises(ValueError, match="pairs need attempts that pass"):
        CurationSettings(rows="pairs", select="all")
