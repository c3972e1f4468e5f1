"""Which problems are held out, and which come next: pure functions of a seed, so resume is exact.

Held-out problems are told apart by the text of their question, not by their row: a question that
occurs twice can't be learned on one side and examined on the other. Choosing problems by how hard
they are is left out; it would need more state than a cursor.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha256

from ..records import Problem, TrainState, UserError


def split(problems: Sequence[Problem], held_out: int, seed: int) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
    """(train, held), with exactly `held_out` different questions held.

    The choice depends on the seed and the texts, not on the order of the rows, and a larger
    `held_out` only adds to a smaller one. Duplicates of a held question are in neither part.
    """
    first = {}
    for problem in problems:
        first.setdefault(text_key(problem), problem)
    if not 0 <= held_out < len(first):
        raise UserError(
            f"held_out={held_out}, but there are {len(first)} different questions; "
            f"give 0 to {max(0, len(first) - 1)}, so that something is left to train on"
        )
    chosen = sorted(first, key=lambda text: _keyed_hash(seed, text))[:held_out]
    held = set(chosen)
    train = tuple(p for p in problems if text_key(p) not in held)
    return train, tuple(first[text] for text in chosen)


def overlap(train: Sequence[Problem], held: Sequence[Problem]) -> int:
    """How many held problems have a question that occurs in training."""
    seen = {text_key(p) for p in train}
    return sum(text_key(p) in seen for p in held)


def draw(problems: Sequence[Problem], count: int, state: TrainState) -> list[tuple[int, Problem]]:
    """The next `count` problems, each with its draw index, counted from the start of the run.

    Every epoch is a fresh order and holds each problem once; a draw may reach into the next epoch.
    """
    if not problems:
        raise UserError("there are no problems to draw from; the training part of the data is empty")
    return [(i, _drawn(problems, i, state.seed)) for i in range(state.cursor, state.cursor + count)]


def text_key(problem: Problem) -> str:
    """What makes two questions the same: their text, apart from case and spacing."""
    return " ".join(problem.question.casefold().split())


def _drawn(problems: Sequence[Problem], index: int, seed: int) -> Problem:
    epoch, place = divmod(index, len(problems))
    return problems[_order(seed, epoch, len(problems))[place]]


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, size: int) -> tuple[int, ...]:
    # Python promises the same random() for the same seed in every version, but not the same shuffle().
    rng = random.Random(f"draw/{seed}/{epoch}")
    return tuple(sorted(range(size), key=lambda _: rng.random()))


def _keyed_hash(seed: int, text: str) -> bytes:
    return sha256(f"{seed}/{text}".encode("utf-8", "surrogatepass")).digest()
