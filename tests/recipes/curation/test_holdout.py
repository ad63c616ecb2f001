from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.curation import CurationSettings, curate
from recipes.curation.holdout import place_of, places_of
from tests.recipes.curation.attempts import attempt

PLACES = [0.8336885269740499, 0.03807261754850988, 0.8791072638569679]


def test_sides_are_the_same_for_ever() -> None:
    """Datasets in the field were split by these numbers."""
    assert [place_of(task_id, 0) for task_id in ("0", "gsm8k-test-0000", "ü")] == pytest.approx(PLACES, abs=1e-15)
    assert place_of("0", 1) != place_of("0", 0)


def test_half_a_character_has_a_side_too() -> None:
    assert 0 <= place_of("\ud800", 0) < 1


def test_the_share_held_out_is_the_fraction() -> None:
    places = places_of([f"task-{index}" for index in range(20_000)], 0)
    for fraction in (0.01, 0.1, 0.5):
        assert (places < fraction).mean() == pytest.approx(fraction, abs=0.012)


@given(st.permutations(range(30)), st.integers(10, 30), st.sampled_from(["true", "solved", "avg == 1"]))
@settings(max_examples=40, deadline=None)
def test_no_task_changes_sides_when_tasks_are_added_reordered_or_filtered(order: list[int], num: int, text: str) -> None:
    def sides(tasks: list[int], text: str) -> dict[str, bool]:
        attempts = [attempt(f"t{task}", number, float((task + number) % 3 > 0)) for task in tasks for number in range(3)]
        found = curate(attempts, CurationSettings(filter=text, val_fraction=0.4, select="all"))
        assert {row["metadata"]["task_id"] for row in found.validation_rows} == set(found.validation_task_ids)
        assert {row["metadata"]["task_id"] for row in found.train_rows} == set(found.train_task_ids)
        return dict.fromkeys(found.train_task_ids, False) | dict.fromkeys(found.validation_task_ids, True)

    every = sides(list(range(30)), "true")
    assert set(every.values()) == {True, False}
    some = sides(order[:num], "true") if len({every[f"t{task}"] for task in order[:num]}) == 2 else {}
    for task_id, side in some.items():
        assert every[task_id] is side
