"""Numbers as the pages say them."""

from __future__ import annotations

import math

import pytest

from evsys_web.runs.templatetags.run_numbers import count_range, dollar_range, duration, duration_range, short_number
from recipes.estimate import Range


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (0.43219, "0.4322"),
        (1234.5, "1,234"),
        (2e-7, "2.00e-7"),
        (3.2e9, "3.20e9"),
        (math.nan, "NaN"),
        (-math.inf, "-∞"),
        (None, "–"),
    ],
)
def test_a_metric_has_four_digits(value, text):
    assert short_number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (200_000, "2 d 7 h"),
        (-3, "0 s"),
        (None, "–"),
    ],
)
def test_a_time_has_two_units(seconds, text):
    assert duration(seconds) == text


def test_an_estimate_claims_no_more_than_it_knows():
    assert count_range(Range(123_456, 125_000)) == "123,000 to 125,000"
    assert count_range(Range(180, 180)) == "180"
    assert duration_range(Range(5.2, 64)) == "5 s to 1 min 4 s"
    assert duration_range(Range(130, 200)) == "2 min to 3 min"
    assert duration_range(Range(130, 131)) == "about 2 min"


def test_a_price_has_cents_and_no_more():
    assert dollar_range(Range(1.234, 3.5)) == "$1.23 to $3.50"
    assert dollar_range(Range(2, 2.001)) == "about $2.00"
    assert dollar_range(Range(0.0001, 0.004)) == "under $0.01"
    assert dollar_range(Range(0, 12.5)) == "up to $12.50"
