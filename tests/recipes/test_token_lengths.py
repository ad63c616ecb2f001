from __future__ import annotations

import pytest

from recipes.rendering import load_tokenizer
from recipes.rows import RowFormat
from recipes.token_lengths import count_tokens, histogram, sequences_of

ASK = {"role": "user", "content": "2 + 2?"}
SAY = {"role": "assistant", "content": "4"}


def test_counts_tell_trained_tokens_from_read_ones() -> None:
    counts = count_tokens([{"messages": [ASK, SAY]}] * 3, RowFormat.MESSAGES, load_tokenizer("starter"))
    assert len(counts.lengths) == 3
    assert 0 < counts.total_trained < counts.total
    assert counts.findings == []


def test_a_preference_counts_both_replies_and_a_task_trains_nothing() -> None:
    tokenizer = load_tokenizer("starter")
    pair = {"prompt": [ASK], "chosen": [SAY], "rejected": [SAY | {"content": "five"}]}
    assert [sequence.title for sequence in sequences_of(pair, RowFormat.PREFERENCE)] == ["chosen", "rejected"]
    both = count_tokens([pair], RowFormat.PREFERENCE, tokenizer)
    one = count_tokens([{"messages": [ASK, SAY]}], RowFormat.MESSAGES, tokenizer)
    assert both.total > one.total
    task = count_tokens([{"task_id": "a", "messages": [ASK], "answer": "4"}], RowFormat.TASK, tokenizer)
    assert task.total > 0
    assert task.total_trained == 0


def test_assistant_turns_within_a_prompt_are_context() -> None:
    pair = {"prompt": [ASK], "chosen": [SAY], "rejected": [SAY | {"content": "five"}]}
    longer = pair | {"prompt": [ASK, SAY, ASK]}
    short, long = (count_tokens([row], RowFormat.PREFERENCE, load_tokenizer("starter")) for row in (pair, longer))
    assert long.total > short.total and long.total_trained == short.total_trained


def test_rows_the_template_refuses_are_counted_with_a_reason() -> None:
    counts = count_tokens([{"messages": [ASK]}, {"messages": [ASK, SAY]}], RowFormat.MESSAGES, load_tokenizer("starter"))
    assert counts.refused == 1
    assert "no assistant turn" in counts.refusal
    assert len(counts.lengths) == 1


@pytest.mark.parametrize("lengths", [[], [5], [1, 1, 2], list(range(1, 1000)), [3, 100_000], [0, 31], [10, 41]])
def test_a_histogram_counts_every_row_once_in_few_bins(lengths: list[int]) -> None:
    bins = histogram(lengths)
    assert sum(each.num_rows for each in bins) == len(lengths)
    assert len(bins) <= 32
    for each in bins:
        assert each.num_rows == sum(each.start <= length < each.stop for length in lengths)
