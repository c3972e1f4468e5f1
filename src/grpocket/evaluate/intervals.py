"""Is it better, or is it noise? Intervals and a test for what was measured on the same problems."""

from __future__ import annotations

import random
from collections.abc import Sequence
from math import comb, fsum, sqrt
from statistics import NormalDist, fmean
from typing import NamedTuple

Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""


class Interval(NamedTuple):
    """An estimate with its 95 % confidence interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def wilson(successes: int, total: int) -> Interval:
    """A proportion with Wilson's score interval (Wilson 1927), which stays inside [0, 1]."""
    if total == 0:
        return Interval(float("nan"), 0.0, 1.0)
    p, z2 = successes / total, Z95**2
    centre = (p + z2 / (2 * total)) / (1 + z2 / total)
    half = Z95 / (1 + z2 / total) * sqrt(p * (1 - p) / total + z2 / (4 * total**2))
    return Interval(p, max(0.0, centre - half), min(1.0, centre + half))


def paired_difference(before: Sequence[bool], after: Sequence[bool]) -> Interval:
    """after - before on the same problems, with Newcombe's interval for paired proportions.

    Newcombe 1998 (Statistics in Medicine 17, 2635-2650), method 10. Unlike the bootstrap it does not
    collapse to a point when few problems changed sides.
    """
    pairs = list(zip(after, before, strict=True))
    n = len(pairs)
    if n == 0:
        return Interval(float("nan"), -1.0, 1.0)
    both, gained, lost, neither = (pairs.count(p) for p in ((True, True), (True, False), (False, True), (False, False)))
    p_after, p_before = wilson(both + gained, n), wilson(both + lost, n)
    value = (gained - lost) / n
    phi = _correlation(both, gained, lost, neither)
    return Interval(
        value,
        value - _distance(p_after.value - p_after.low, p_before.high - p_before.value, phi),
        value + _distance(p_after.high - p_after.value, p_before.value - p_before.low, phi),
    )


def mcnemar(before: Sequence[bool], after: Sequence[bool]) -> float:
    """The two-sided p-value of McNemar's exact test (1947): did as many problems turn wrong as turned right?

    Only those that changed sides count; each is a fair coin when the model is neither better nor worse.
    """
    changed = [now for was, now in zip(before, after, strict=True) if was != now]
    fewer, total = min(sum(changed), len(changed) - sum(changed)), len(changed)
    return min(1.0, 2 * sum(comb(total, count) for count in range(fewer + 1)) / 2**total)


def bootstrap_difference(
    before_P: Sequence[float], after_P: Sequence[float], resamples: int = 2000, seed: int = 0
) -> Interval:
    """The mean of after - before with its bootstrap interval, problems being what is drawn again.

    The expanded percentile interval (Hesterberg 2015, The American Statistician 69, 371-386): plain percentiles
    are too narrow for few problems, so they are moved out by what Student's t has over the normal distribution.
    """
    differences = [b - a for a, b in zip(before_P, after_P, strict=True)]
    n = len(differences)
    if n < 2:
        return Interval(fmean(differences) if differences else float("nan"), -1.0, 1.0)
    draw = random.Random(seed).choices
    means = sorted(fsum(draw(differences, k=n)) / n for _ in range(resamples))
    outside = round(resamples * NormalDist().cdf(-_student(n - 1) * sqrt(n / (n - 1))))
    return Interval(fmean(differences), means[outside], means[-1 - outside])


def _student(freedom: int) -> float:
    """97.5 % quantile of Student's t, by the first terms of its expansion (Fisher and Cornish 1960)."""
    z = Z95
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def _distance(a: float, b: float, phi: float) -> float:
    return sqrt(max(0.0, a * a - 2 * phi * a * b + b * b))


def _correlation(both: int, gained: int, lost: int, neither: int) -> float:
    """phi of the 2x2 table, with Newcombe's continuity correction where it is positive."""
    margins = (both + gained) * (lost + neither) * (both + lost) * (gained + neither)
    if margins == 0:
        return 0.0
    cross = both * neither - gained * lost
    if cross > 0:
        cross = max(0.0, cross - (both + gained + lost + neither) / 2)
    return cross / sqrt(margins)
