"""Quantiles that intervals are made of, without scipy (it is checked against it in the tests)."""

from __future__ import annotations

import math
from functools import lru_cache
from statistics import NormalDist

import numpy as np


@lru_cache(maxsize=4096)
def student_quantile(probability: float, degrees: int) -> float:
    """t with P(T ≤ t) = probability, for T of Student's distribution with `degrees` ≥ 1 degrees of freedom; 0 < probability < 1.

    Newton's method on the distribution function; from 1,000 degrees the expansion of Abramowitz & Stegun 26.7.5, whose error
    is then below 1e-13.
    """
    if probability < 0.5:
        return -student_quantile(1.0 - probability, degrees)
    t = _expansion(NormalDist().inv_cdf(probability), degrees)
    if degrees >= 1000:
        return t
    if degrees == 1:
        return math.tan(math.pi * (probability - 0.5))
    if degrees == 2:
        return (2 * probability - 1) / math.sqrt(2 * probability * (1 - probability))
    log_peak = math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2) - 0.5 * math.log(degrees * math.pi)
    for _ in range(50):
        density = math.exp(log_peak - (degrees + 1) / 2 * math.log1p(t * t / degrees))
        step = (_student_cdf(t, degrees) - probability) / density
        t -= step
        if abs(step) < 1e-14 * abs(t):
            break
    return t


def _student_cdf(t: float, degrees: int) -> float:
    """P(T ≤ t) for t ≥ 0: the finite series of Abramowitz & Stegun 26.7.3 and 26.7.4."""
    angle = math.atan2(t, math.sqrt(degrees))
    cosine, sine = math.cos(angle), math.sin(angle)
    odd = degrees % 2
    index = np.arange(1, (degrees - 1) // 2 + (1 - odd) if odd else degrees // 2, dtype=np.float64)
    ratios = (2 * index / (2 * index + 1) if odd else (2 * index - 1) / (2 * index)) * cosine * cosine
    series = 1.0 + float(np.cumprod(ratios).sum())
    inside = 2 / math.pi * (angle + sine * cosine * series) if odd else sine * series
    return 0.5 + inside / 2


def _expansion(z: float, degrees: int) -> float:
    """The quantile as a series in 1/degrees about the normal one, z."""
    terms = (
        z,
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return math.fsum(term / float(degrees) ** power for power, term in enumerate(terms))
