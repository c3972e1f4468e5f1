"""Does the reward pay for what it should? Tried on texts whose worth is known, before any model writes one.

The right answer in the right form must earn everything. What takes no thought (nothing, the question again, empty
tags, every number there is, the answer to another question) must not earn as much, nor anything for correctness.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from ..records import Problem, Reward
from .answers import equal
from .formats import TAGS, Template

NUMBERS = " ".join(map(str, range(101)))
JUNK: dict[str, Callable[[Problem, str, Template], str]] = {
    "an empty text": lambda problem, other, form: "",
    "the question again": lambda problem, other, form: problem.question,
    "empty tags": lambda problem, other, form: form.write("", ""),
    "every number from 0 to 100": lambda problem, other, form: NUMBERS + form.write(NUMBERS, NUMBERS),
    "another row's answer": lambda problem, other, form: form.write(problem.question, other),
}
"""name -> (problem, an answer that is wrong, the form asked for) -> a text that deserves nothing for correctness."""


@dataclass
class Audit:
    """What a reward did with texts whose worth is known."""

    rows: int = 0
    calls: int = 0
    seconds: float = 0.0
    best: float = 0.0
    """The most that a right answer earned."""
    short: list[str] = field(default_factory=list)
    """Where the right answer earned less than everything: id and what it earned."""
    paid: dict[str, list[str]] = field(default_factory=dict)
    """By kind of junk: the ids where it was paid."""
    raised: list[str] = field(default_factory=list)
    """Where the reward raised: id and exception."""

    def lines(self) -> list[str]:
        """What is to be said, the warnings last."""
        each = 1000 * self.seconds / max(1, self.calls)
        found = [f"reward    the right answer earns {self.best:g}; tried on {self.rows} rows, {each:.2g} ms a call"]
        if self.short:
            found.append(
                f"warning: the right answer does not earn everything in {len(self.short)} of {self.rows} rows, first "
                f"{self.short[0]}; look at that answer and at the reward"
            )
        found += [
            f"warning: {kind} is paid like a right answer in {len(ids)} of {self.rows} rows, first {ids[0]}; "
            "a model will find that out"
            for kind, ids in self.paid.items()
        ]
        if self.raised:
            found.append(f"warning: the reward raised in {len(self.raised)} of {self.calls} calls, {self.raised[0]}")
        return found


def audit(
    problems: Sequence[Problem],
    score: Callable[[Problem, str], Reward],
    weights: Mapping[str, float],
    form: Template = TAGS,
    limit_seconds: float = 5.0,
) -> Audit:
    """Try `score` on every problem, or on as many as the time allows; `weights` tells the most each part can earn."""
    found = Audit()
    end = time.perf_counter() + limit_seconds
    for problem in problems:
        gold = _score(found, score, problem, form.write(problem.question, problem.answer))
        if gold is not None:
            _judge_gold(found, problem, gold, weights)
            _judge_junk(found, problem, gold, _another(problems, problem), score, form)
        found.rows += 1
        if time.perf_counter() > end:
            break
    return found


def _judge_gold(found: Audit, problem: Problem, gold: Reward, weights: Mapping[str, float]) -> None:
    earned = gold.value or 0.0
    full = sum(weights.get(name, 0.0) for name, part in gold.parts.items() if part is not None)
    found.best = max(found.best, earned)
    if gold.value is None or earned < full - 1e-9:
        found.short.append(f"{problem.id}: {earned:g} of {full:g}")


def _judge_junk(
    found: Audit,
    problem: Problem,
    gold: Reward,
    other: str | None,
    score: Callable[[Problem, str], Reward],
    form: Template,
) -> None:
    for kind, text in JUNK.items():
        if other is None and kind == "another row's answer":
            continue
        reward = _score(found, score, problem, text(problem, other or "", form))
        if reward is None or reward.value is None:
            continue
        if (reward.parts.get("correctness") or 0.0) > 0 or reward.value >= (gold.value or 0.0):
            found.paid.setdefault(kind, []).append(problem.id)


def _another(problems: Sequence[Problem], problem: Problem) -> str | None:
    """The first answer of the data set that is not this problem's."""
    return next((p.answer for p in problems if not equal(p.answer, problem.answer)), None)


def _score(found: Audit, score: Callable[[Problem, str], Reward], problem: Problem, text: str) -> Reward | None:
    start = time.perf_counter()
    reward = score(problem, text)
    found.calls += 1
    found.seconds += time.perf_counter() - start
    faults = [f"{problem.id}: reward {name}: {fault.text}" for name, fault in reward.faults.items() if fault]
    found.raised += faults
    return None if faults else reward
