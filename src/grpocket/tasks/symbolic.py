"""Answers that are formulas: sqrt(18) is 3 sqrt(2), and (x+1)^2 is x^2 + 2x + 1.

The exact comparison of `answers` speaks first, and its word is final where the known answer is a number or
a word: "2^10" is no answer to a question whose answer is 1024. Two formulas go to the algebra system of
the extra `[math]`, one expression each, within `SECONDS`. Without the extra they are compared as text.
Numbers are exact fractions on the way: math-verify alone would take 1.414214 for the root of 2.
"""

from __future__ import annotations

import re
import warnings
from fractions import Fraction
from functools import lru_cache
from importlib.util import find_spec

from . import answers
from .sandbox import Worker

SECONDS = 1.0
"""For one comparison; what takes longer is not equal."""
MAX_LENGTH = 200

_SIGN = re.compile(r"[-+*/^=<>_!|√∪≤≥\\]|\d[a-zπ]|\w\(")
_COMMAND = re.compile(r"\\[A-Za-z]+")
_FUNCTION = re.compile(r"(?<![\\a-z])(sin|cos|tan|log|ln|exp)(?![a-z])")
_WORD = re.compile(r"[^\W\d_]{3,}|(?<!\S)[^\W\d_]{2}(?!\S)")
_ROOT = re.compile(r"√\s*(\d+|\w)")
_DECIMAL = re.compile(r"\d+\.\d+|\.\d+")
_NAME = re.compile(r"^[a-z]=")


def equal(given: str, known: str) -> bool | None:
    """Whether `given` is the `known` answer; None when nothing is known."""
    return answers.equal(given, known, same_formula)


@lru_cache(maxsize=4096)
def same_formula(given: str, known: str) -> bool:
    """Whether two folded texts are equal formulas. The known one must be a formula, not a word or a number."""
    if not _SIGN.search(known) or not _is_formula(known) or not _is_formula(given):
        return False
    given, known = _latex(given), _latex(known)
    if any(given.count(sign) != known.count(sign) for sign in "=<>,"):  # x + 1 = x + 2 is not x + 2
        return False
    worker = _worker()
    if worker is None:
        return False
    call = {"arguments": {"given": given, "known": known}, "extras": [], "step": 0, "rows": None}
    return worker.run([call])[0][0].get("value") == 1.0


def _is_formula(text: str) -> bool:
    """Without words, which algebra would read as products of letters, and without a second formula."""
    bare = _FUNCTION.sub("", _COMMAND.sub("", text).replace("sqrt", ""))
    return 0 < len(text) <= MAX_LENGTH and not _WORD.search(bare) and not set(text) & set("$?;\n")


def _latex(text: str) -> str:
    text = _ROOT.sub(r"\\sqrt{\1}", _FUNCTION.sub(r"\\\1", _NAME.sub("", text)))
    return _DECIMAL.sub(lambda match: f"({Fraction(match[0])})", text)


@lru_cache(maxsize=1)
def _worker() -> Worker | None:
    if find_spec("math_verify"):
        return Worker("grpocket.tasks.algebra", "same_formula", SECONDS)
    warnings.warn(
        "answers that are formulas are compared as text; pip install math-verify[antlr4_13_2] compares what they mean",
        stacklevel=1,
    )
    return None
