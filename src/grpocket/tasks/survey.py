"""What a data set is like before anything is spent on it: lengths, duplicates, prompts that don't fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from ..records import Problem, UserError
from .answers import equal
from .draw import text_key

NAMED = 5
"""How many rows a message names."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found in a data set.

    >>> Survey(lengths=(131, 136.0, 139), repeated=(), contradicted=())
    """

    lengths: tuple[int, float, int]
    """Tokens of the shortest, the median and the longest prompt."""
    repeated: tuple[str, ...]
    """Ids of problems whose question occurred before."""
    contradicted: tuple[str, ...]
    """Those of them whose answer differs from the one before."""

    def lines(self) -> list[str]:
        """What is to be said, the warnings last."""
        low, middle, high = self.lengths
        found = [f"data      prompts of {low} to {high} tokens, median {middle:g}; {len(self.repeated)} repeated"]
        if self.contradicted:
            found.append(
                f"warning: {len(self.contradicted)} questions are repeated with another answer "
                f"({', '.join(self.contradicted[:NAMED])}): no model can learn both; remove one of each"
            )
        return found


def survey(problems: Sequence[Problem], lengths: Sequence[int], room: int) -> Survey:
    """Look at every problem; `lengths` are the tokens of their prompts, `room` is what a prompt may take.

    Raises:
        UserError: prompts that don't fit, by their lines.
    """
    rows = zip(problems, lengths, strict=True)
    if long := [f"{problem.id} ({length} tokens)" for problem, length in rows if length > room]:
        named = ", ".join(long[:NAMED]) + (", ..." if len(long) > NAMED else "")
        raise UserError(
            f"{len(long)} prompt{'s' * (len(long) != 1)} longer than the {room} tokens that max_new_tokens leaves of "
            f"the model's context: {named}; shorten or remove them, or lower max_new_tokens"
        )
    first: dict[str, Problem] = {}
    again = [p for p in problems if first.setdefault(text_key(p), p) is not p]
    contradicted = [p.id for p in again if not equal(p.answer, first[text_key(p)].answer)]
    spread = (min(lengths), float(median(lengths)), max(lengths))
    return Survey(spread, tuple(p.id for p in again), tuple(contradicted))
