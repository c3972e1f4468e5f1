"""What a before and an after come to, in words: better, worse, or not to be told from noise."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil, log10, sqrt
from statistics import NormalDist

from .intervals import Z95, mcnemar, paired_difference

POWER = 0.8
"""The chance with which "would show" is meant."""
SMALL = 0.05
"""The difference in accuracy that one would not want to miss."""


def verdict(before: Sequence[bool], after: Sequence[bool]) -> str:
    """Whether `after` is better than `before`: which problems were solved, in the same order.

    A difference is claimed when Newcombe's 95 % interval leaves out 0 and McNemar's exact test agrees: the interval
    alone claims one a little too often where few problems changed sides.

    >>> verdict([False] * 50 + [True] * 50, [True] * 100)
    'better by 0.50 [0.40, 0.60]'
    """
    n = len(after)
    if n == 0:
        return "no verdict: nothing was held out"
    value, low, high = paired_difference(before, after)
    if (low > 0 or high < 0) and mcnemar(before, after) < 0.05:
        near, far = sorted((abs(low), abs(high)))
        return f"{'better' if value > 0 else 'worse'} by {abs(value):.2f} [{near:.2f}, {far:.2f}]"
    changed = sum(was != now for was, now in zip(before, after, strict=True))
    needed = problems_needed((changed + 1) / (n + 2), SMALL)  # as if two more had been seen, one of them changed
    noise = f"not distinguishable from noise with {n} problem{'s' * (n != 1)}"
    if needed <= n:
        return f"{noise}, enough to show a difference of {SMALL}"
    return f"{noise}; {_two_digits(needed)} would show a difference of {SMALL}"


def problems_needed(changed: float, difference: float) -> int:
    """How many problems show this difference in accuracy, when this share of them changes sides.

    (z_0.975 sqrt(changed) + z_power sqrt(changed - difference^2))^2 / difference^2: Connor 1987, Biometrics 43,
    207-211, for McNemar's test.
    """
    changed = max(changed, difference)
    spread = Z95 * sqrt(changed) + NormalDist().inv_cdf(POWER) * sqrt(changed - difference**2)
    return ceil((spread / difference) ** 2)


def _two_digits(number: int) -> int:
    """Rounded up to two digits that count: more would promise too much."""
    step = 10 ** max(0, int(log10(number)) - 1)
    return ceil(number / step) * step
