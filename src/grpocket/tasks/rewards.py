"""The rewards that are built in: correctness, format, language consistency, and a few to add.

A reward is a plain function of one completion and its gold answer; what else of the row it wants it
names, and gets by that name: any column of the data set, or `question`. It gives 0 for a miss and up
to 1 for a hit, or None when it has nothing to say about this row, which neither pays nor costs.

The completion that is graded begins where the model's answer begins: when the prompt already ends
with <think>, the caller puts that in front (`prompts.opening`). A regular expression of the user's is left out:
one that backtracks for ever has to be killed, so it belongs in a function of the user's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from . import answers
from .language import consistency, detect

RewardCallable = Callable[..., float | None]

_TAGS = ("<think>", "</think>", "<answer>", "</answer>")
_FORMAT = re.compile(r"\s*<think>(.*)</think>\s*<answer>(.*)</answer>\s*", re.DOTALL)


def correctness(completion: str, answer: str) -> float | None:
    """1 when the last <answer> is the gold answer, by the rules of `answers.equal`."""
    given = answers.extract(completion)
    return 0.0 if given is None else _score(answers.equal(given, answer))


def think_answer_format(completion: str, answer: str) -> float:
    """1 for one <think> and one <answer> in this order, with something in both and nothing around them.

    A list of guesses is not an answer: what is far longer than the gold one earns nothing.
    """
    match = _FORMAT.fullmatch(completion)
    if match is None or any(completion.count(tag) != 1 for tag in _TAGS):
        return 0.0
    thought, given = match.group(1), match.group(2).strip()
    short = len(given) <= 50 + 2 * len(answer)
    return float(short and any(map(str.isalnum, thought)) and any(c.isprintable() and c != " " for c in given))


def language_consistency(
    completion: str, answer: str, *, question: str = "", language: str | None = None
) -> float | None:
    """The share of letters in the wanted language: that of the column `language`, or else the question's.

    None for too few letters, so a bare formula costs nothing and an empty completion earns nothing.
    """
    return consistency(completion, language or detect(question))


def exact_match(completion: str, answer: str) -> float:
    """1 when the last <answer> is the gold answer as text, apart from case and spacing."""
    return float(_plain(answers.extract(completion) or "") == _plain(answer))


def conciseness(completion: str, answer: str) -> float | None:
    """For a right answer 1, halved with every 200 characters; 0 for a wrong one, so brevity alone earns nothing."""
    right = correctness(completion, answer)
    return right and right * 0.5 ** (len(completion) / 200)


def repetition(completion: str) -> float:
    """Minus the share of the completion's 20-character stretches that it had written before: 0 to nearly -1."""
    stretches = [completion[at : at + 20] for at in range(len(completion) - 19)]
    return len(set(stretches)) / len(stretches) - 1 if stretches else 0.0


REWARDS: dict[str, RewardCallable] = {
    "correctness": correctness,
    "format": think_answer_format,
    "language": language_consistency,
    "exact_match": exact_match,
    "conciseness": conciseness,
    "repetition": repetition,
}
WEIGHTS: dict[str, float] = {"correctness": 1.0, "format": 0.25, "language": 0.10}
"""The rewards that are on by default."""


def _score(hit: bool | None) -> float | None:
    return None if hit is None else float(hit)


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
