"""What the length of a response costs. No tensors: it is a part of the reward."""

from __future__ import annotations


def overlong_penalty(length: int, max_new_tokens: int, buffer: int) -> float:
    """The soft over-long punishment of DAPO (arXiv 2503.14476, eq. 13): 0 up to the buffer, then linear down to -1.

    The paper has max_new_tokens 20480 with a buffer of 4096. A buffer of 0 switches it off.

    >>> [overlong_penalty(length, max_new_tokens=100, buffer=20) for length in (80, 90, 100)]
    [0.0, -0.5, -1.0]
    """
    if buffer == 0:
        return 0.0
    over = length - (max_new_tokens - buffer)
    return -min(max(over / buffer, 0.0), 1.0) + 0.0  # + 0.0: a zero without a sign
