"""The rewards that are built in: correctness, format, language consistency, and a few to add.

A reward is a plain function of one completion and its gold answer; what else of the row it wants it
names, and gets by that name: any column of the data set, or `question`. It gives 0 for a miss and up
to 1 for a hit, or None when it has nothing to say about this row, which neither pays nor costs.

The completion that is graded begins where the model's answer begins: when the prompt already ends
with <think>, the caller puts that in front (`prompts.opening`). A regular expression of the user's is left out:
one that backtracks for ever has to be killed, so it belongs in a function of the user's own.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from ..records import UserError
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


def exact_match(completion: str, answer: str, *, form: Form = TAGS) -> float:
    """1 when the last <answer> is the gold answer as text, apart from case and spacing."""
    return float(_plain(form.last_answer(completion) or "") == _plain(answer))


def conciseness(completion: str, answer: str, *, form: Form = TAGS) -> float | None:
    """For a right answer 1, halved with every 200 characters; 0 for a wrong one, so brevity alone earns nothing."""
    right = correctness(completion, answer, form=form)
    return right and right * 0.5 ** (len(completion) / 200)


def repetition(completion: str) -> float:
    """Minus the share of the completion's 20-character stretches that it had written before: 0 to nearly -1."""
    stretches = [completion[at : at + 20] for at in range(len(completion) - 19)]
    return len(set(stretches)) / len(stretches) - 1 if stretches else 0.0


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
    "exact_match": exact_match,
    "conciseness": conciseness,
    "repetition": repetition,
    "reasoning_gym": reasoning_gym,
}
WEIGHTS: dict[str, float] = {"correctness": 1.0, "format": 0.25, "language": 0.10}
"""The rewards that are on by default."""


def settled(reward: RewardCallable, language: str | None, form: Form) -> RewardCallable:
    """A built-in reward with what the run settles, so that no column of that name changes it."""
    signature = inspect.signature(reward)
    values: dict[str, Any] = {"form": form} if language is None else {"form": form, "language": language}
    given = {name: value for name, value in values.items() if name in signature.parameters}
    settled: Any = functools.partial(reward, **given)
    settled.__signature__ = signature.replace(parameters=[p for n, p in signature.parameters.items() if n not in given])
    return settled


def _score(hit: bool | None) -> float | None:
    return None if hit is None else float(hit)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
