"""Is it better, or is it noise? Intervals for proportions measured on the same problems."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
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
