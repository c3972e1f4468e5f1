"""What an answer earns: correctness, format, language consistency.

A reward is a plain function of one completion and its gold answer; what else of the row it wants it
names, and gets by that name: any column of the data set, or `question`. It gives 0 for a miss and up
to 1 for a hit, or None when it has nothing to say about this row, which neither pays nor costs.

The completion that is graded begins where the model's answer begins: when the prompt already ends
with <think>, the caller puts that in front (`prompts.opening`). An exception goes through to the
caller: a reward that fails must not look like an answer that is wrong.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

from ..records import Problem, Reward, UserError
from . import gym, symbolic
from .formats import TAGS, Form
from .language import consistency, detect

RewardCallable = Callable[..., float | None]


def correctness(completion: str, answer: str, *, form: Form = TAGS) -> float | None:
    """1 when the last answer is the gold answer, by the rules of `answers` and, for formulas, of `symbolic`."""
    given = form.last_answer(completion)
    return 0.0 if given is None else _score(symbolic.equal(given, answer))


def answer_format(completion: str, answer: str, *, form: Form = TAGS) -> float:
    """1 for one thought and one answer in the form asked for, with something in both and nothing around them.

    A list of guesses is not an answer: what is far longer than the gold one earns nothing.
    """
    found = form.read(completion)
    if found is None:
        return 0.0
    thought, given = found
    short = len(given) <= 50 + 2 * len(answer)
    thinks = any(map(str.isalnum, thought)) or "think" not in form.pattern
    return float(short and thinks and any(c.isprintable() and c != " " for c in given))


def language_consistency(
    completion: str, answer: str, *, question: str = "", language: str | None = None
) -> float | None:
    """The share of letters in the wanted language: that of the column `language`, or else the question's.

    None for too few letters, so a bare formula costs nothing and an empty completion earns nothing.
    """
    return consistency(completion, language or detect(question))


def reasoning_gym(
    completion: str, answer: str, *, reasoning_gym: Mapping[str, Any] | None = None, form: Form = TAGS
) -> float:
    """1 when the last answer is the gold one, or another that the problem's own scorer takes.

    Raises:
        UserError: the problem was not made by reasoning-gym.
    """
    if reasoning_gym is None:
        raise UserError("reward 'reasoning_gym' is for data from reasoning_gym:TASK; use the reward correctness")
    given = form.last_answer(completion)
    return float(given is not None and gym.solves(given, answer, reasoning_gym))


REWARDS: dict[str, RewardCallable] = {
    "correctness": correctness,
    "format": answer_format,
    "language": language_consistency,
    "reasoning_gym": reasoning_gym,
}
WEIGHTS: dict[str, float] = {"correctness": 1.0, "format": 0.25, "language": 0.10}


class Rewards:
    """Several weighted rewards as one.

    >>> Rewards({"length": (lambda completion, answer: float(len(completion) < 80), 0.5)})
    """

    def __init__(self, functions: Mapping[str, tuple[RewardCallable, float]]):
        if not functions:
            raise UserError("there are no rewards; name at least one")
        self._rewards = [(name, f, weight, _wanted(f)) for name, (f, weight) in functions.items()]

    @classmethod
    def built_in(
        cls, weights: Mapping[str, float] = WEIGHTS, language: str | None = None, form: Form = TAGS
    ) -> Rewards:
        """The rewards of `REWARDS` that `weights` names; answers keep to `language`, or to the question's."""
        unknown = [name for name in weights if name not in REWARDS]
        if unknown:
            raise UserError(f"reward {unknown[0]!r} is not known; use one of {', '.join(REWARDS)}")
        return cls({name: (settled(REWARDS[name], language, form), weight) for name, weight in weights.items()})

    def score(self, problem: Problem, completion_text: str) -> Reward:
        """The weighted parts and their sum; a value of None when no reward had anything to say."""
        offered = {**problem.columns, "question": problem.question}
        parts: dict[str, float | None] = {}
        for name, function, weight, wanted in self._rewards:
            columns = {k: v for k, v in offered.items() if k not in ("completion", "answer") and wanted(k)}
            score = function(completion=completion_text, answer=problem.answer, **columns)
            parts[name] = None if score is None else weight * _finite(name, score)
        earned = [part for part in parts.values() if part is not None]
        return Reward(value=math.fsum(earned) if earned else None, parts=parts)


def settled(reward: RewardCallable, language: str | None, form: Form) -> RewardCallable:
    """A built-in reward with what the run settles, so that no column of that name changes it."""
    values = {"form": form} if language is None else {"form": form, "language": language}
    return functools.partial(reward, **{k: v for k, v in values.items() if k in inspect.signature(reward).parameters})


def _score(hit: bool | None) -> float | None:
    return None if hit is None else float(hit)


def _wanted(function: RewardCallable) -> Callable[[str], bool]:
    """Which columns a function takes: those it names, or all when it has **columns; not what a partial has settled."""
    parameters = inspect.signature(function).parameters
    takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    settled = getattr(function, "keywords", {})
    return lambda name: (takes_all or name in parameters) and name not in settled


def _finite(name: str, score: Any) -> float:
    if not isinstance(score, (int, float)) or not math.isfinite(score):
        raise UserError(f"reward {name!r} gave {score!r}; return a finite number, or None when it does not apply")
    return float(score)
