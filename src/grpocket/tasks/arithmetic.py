"""Seeded arithmetic problems: the data set that needs no download.

One row is a question such as "What is 7 + 5 - 3?", its exact answer, and tiny-grpo's two levels:
how many terms, and how many digits each of them has. Small numbers come up more often, since that
is where a small model starts. The same arguments give the same rows on every machine, and no
question twice. Parentheses, division and word problems are left out.

`data/math_tasks.jsonl` was made by

    grpocket data arithmetic --num 600 --seed 0 --terms 2-3 --digits 1-2 --operators "++--*" > math_tasks.jsonl
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product

from ..records import UserError

Range = tuple[int, int]
"""Lowest and highest, both included."""
MAX_TERMS = 20
MAX_DIGITS = 15
"""More digits than this and one random() no longer reaches every number."""


def generate(
    num: int, seed: int = 0, terms: Range = (2, 3), digits: Range = (1, 1), operators: str = "+-"
) -> Iterator[dict[str, str | int]]:
    """Yield `num` different rows {"question", "answer", "num_terms", "num_digits"}.

    Each operator is drawn from the characters of `operators`, so "++--*" makes products rarer.
    Raises `UserError` when the arguments make no sense, or when fewer than `num` different questions exist.
    """
    _check_range("terms", terms, 2, MAX_TERMS)
    _check_range("digits", digits, 1, MAX_DIGITS)
    if not operators or set(operators) - set("+-*"):
        raise UserError(f"operators={operators!r}: use one or more of + - *")
    space = count_questions(terms, digits, operators)
    if not 1 <= num <= space:
        raise UserError(f"num={num}: give 1 to {space}, the number of different questions, or allow more digits")
    return _rows(num, random.Random(f"arithmetic/{seed}"), terms, digits, operators)


def count_questions(terms: Range, digits: Range, operators: str) -> int:
    """How many different questions these levels hold."""
    levels = product(range(terms[0], terms[1] + 1), range(digits[0], digits[1] + 1))
    return sum(_span(d) ** t * len(set(operators)) ** (t - 1) for t, d in levels)


def solve(numbers: list[int], signs: list[str]) -> int:
    """The value of `numbers` joined by `signs`, products first.

    >>> solve([2, 3, 4], ["+", "*"])
    14
    """
    total, factor = 0, numbers[0]
    for sign, number in zip(signs, numbers[1:], strict=True):
        if sign == "*":
            factor *= number
        else:
            total, factor = total + factor, number if sign == "+" else -number
    return total + factor


def _rows(num: int, rng: random.Random, terms: Range, digits: Range, operators: str) -> Iterator[dict[str, str | int]]:
    seen: set[str] = set()
    while len(seen) < num:
        row = _row(rng, terms, digits, operators)
        if row["question"] not in seen:
            seen.add(str(row["question"]))
            yield row


def _row(rng: random.Random, terms: Range, digits: Range, operators: str) -> dict[str, str | int]:
    num_terms = _between(rng, *terms)
    num_digits = min(_between(rng, *digits), _between(rng, *digits))
    smallest = 10 ** (num_digits - 1) if num_digits > 1 else 0
    numbers = [_between(rng, smallest, smallest + _span(num_digits) - 1) for _ in range(num_terms)]
    signs = [operators[_between(rng, 0, len(operators) - 1)] for _ in range(num_terms - 1)]
    tail = "".join(f" {sign} {number}" for sign, number in zip(signs, numbers[1:], strict=True))
    return {
        "question": f"What is {numbers[0]}{tail}?",
        "answer": str(solve(numbers, signs)),
        "num_terms": num_terms,
        "num_digits": num_digits,
    }


def _span(num_digits: int) -> int:
    """How many numbers have so many digits; zero is a number of one digit."""
    return 10 if num_digits == 1 else 9 * 10 ** (num_digits - 1)


def _between(rng: random.Random, low: int, high: int) -> int:
    # Python promises the same random() for the same seed in every version, but not the same randint().
    return low + int(rng.random() * (high - low + 1))


def _check_range(name: str, value: Range, low: int, high: int) -> None:
    if not low <= value[0] <= value[1] <= high:
        raise UserError(f"{name}={value[0]}-{value[1]}: give a range within {low}-{high}, the lower end first")
