"""Which rows are computed together, and that collating and splitting loses nothing."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from recipes import losses
from recipes.backends.local.batching import collate, plan
from recipes.types import Datum, float_array, int_array


def cost(groups: list[list[int]], lengths: list[int], overhead: int) -> int:
    return sum(len(group) * max(lengths[index] for index in group) + overhead for group in groups)


@pytest.mark.parametrize("max_tokens", [1, 40, 100, 5000])
def test_every_row_is_in_one_group_and_groups_keep_to_the_budget(max_tokens: int) -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 50).tolist()
    groups = plan(lengths, max_tokens, 20)
    assert sorted(itertools.chain(*groups)) == list(range(50))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[index] for index in group) <= max_tokens
    longest = [max(lengths[index] for index in group) for group in groups]
    assert longest == sorted(longest, reverse=True)


@pytest.mark.parametrize("overhead", [0, 5, 100])
def test_no_other_split_of_the_sorted_rows_costs_less(overhead: int) -> None:
    lengths = [3, 9, 4, 30, 29, 12, 5]
    ordered = sorted(range(7), key=lambda index: -lengths[index])
    found = cost(plan(lengths, 60, overhead), lengths, overhead)
    cheapest = 10**9
    for cuts in itertools.product([False, True], repeat=6):
        groups = [[ordered[0]]]
        for index, cut in zip(ordered[1:], cuts, strict=True):
            groups.append([index]) if cut else groups[-1].append(index)
        if all(len(group) * lengths[group[0]] <= 60 for group in groups):
            cheapest = min(cheapest, cost(groups, lengths, overhead))
    assert found == cheapest


def test_rows_of_one_length_stay_together() -> None:
    assert plan([7] * 10, 70) == [list(range(10))]
    assert plan([5], 1) == [[0]]
    assert plan([], 10) == []


def test_splitting_gives_back_rows_in_their_order_and_shape() -> None:
    data = [
        Datum(int_array([1, 2, 3]), {"target_tokens": int_array([2, 3, 4]), "weights": float_array([0, 1, 0])}),
        Datum(
            int_array([5, 6]),
            {"target_tokens": np.array([[6, 7], [8, 9]]), "weights": np.array([[0, 0], [0, 1]], dtype=np.float32)},
        ),
    ]
    batch = collate(data, [1, 0], losses.get("cross_entropy"), torch.device("cpu"), torch.float32)
    assert batch.num_gated == 2
    assert batch.input_ids.tolist() == [[5, 6, 0], [1, 2, 3]]
    assert batch.input_ids.reshape(-1)[batch.positions[:2]].tolist() == [6, 2], "positions with a gradient come first"
    second, first = batch.split(batch.targets.float())
    assert first.tolist() == [2, 3, 4]
    assert second.tolist() == [[6, 7], [8, 9]]
