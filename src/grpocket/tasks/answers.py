"""Find an answer in a text, and compare it with the known one: exactly, and whatever the text is.

Two answers are equal when they are the same number (units by the rule of `quantities.same`), the same
list or set of those, or the same text apart from case and spacing. Nothing else: no substring, no
rounding (0.33 is not 1/3), no evaluation (2^3 is text). Answers come from a model that is paid for
fooling this module, so the work is bounded: beyond `MAX_LENGTH` characters only text is compared.
Symbolic equality is left out; it needs an algebra system that can be killed.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

from . import quantities
from .quantities import Number

MAX_LENGTH = 1000
MAX_ITEMS = 64

_OPEN, _CLOSE = "<answer>", "</answer>"
_FRACTION = re.compile(r"\\[dt]?frac\{([0-9]+)\}\{([0-9]+)\}")
_LATEX = {
    **dict.fromkeys(("\\(", "\\)", "\\left", "\\right", "\\!", "\\,"), ""),
    **{"\\" + sign: sign for sign in "$%{} "},
    **dict.fromkeys(("^\\circ", "^{\\circ}", "\\degree"), "°"),
    "{,}": ",",
}
_MINUS = dict.fromkeys(map(ord, "\u2212\u2013\ufe63\uff0d"), "-")
"""Minus sign, en dash, small and full-width hyphen-minus."""


@dataclass(frozen=True, slots=True)
class Series:
    """Several values. Order counts unless the brackets are braces.

    >>> Series("[]", (Number(Fraction(1)), Number(Fraction(2))))
    """

    brackets: str
    """The opening and the closing one, so that [0, 1] and [0, 1) differ; "" for a bare list."""
    items: tuple[Number | str, ...]


Value = Number | Series | str


def extract(text: str) -> str | None:
    """What stands in the last <answer>; None when there is none, or it is not closed."""
    start = text.rfind(_OPEN)
    end = text.find(_CLOSE, start)
    return None if start < 0 or end < 0 else text[start + len(_OPEN) : end].strip()


def gold(text: str) -> str:
    """The final answer of a worked solution: tagged, boxed or after ####; else the whole text.

    >>> gold("40 + 2 = 42, so she has 42.\\n#### 42")
    '42'
    """
    last_line = text.strip().rpartition("\n")[2]
    marked = last_line[4:].strip() if last_line.startswith("####") else None
    return extract(text) or _boxed(text) or marked or text.strip()


def equal(given: str, known: str) -> bool | None:
    """Whether `given` is the `known` answer. None when nothing is known: an empty gold is no one's hit."""
    given, known = _tidy(given), _tidy(known)
    if not known:
        return None
    return given == known or _same(_value(given), _value(known))


def _boxed(text: str) -> str | None:
    start = text.rfind("\\boxed{")
    depth = 0
    for i in range(start + len("\\boxed"), len(text) if start >= 0 else 0):
        depth += (text[i] == "{") - (text[i] == "}")
        if depth == 0:
            return text[start + len("\\boxed{") : i].strip()
    return None


def _tidy(text: str) -> str:
    """One spelling for signs, digits and LaTeX."""
    text = text.strip()
    if len(text) > MAX_LENGTH:
        return text
    if not text.isascii():
        text = unicodedata.normalize("NFC", text).translate(_MINUS)
        text = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)
    if text.startswith("$") and text.endswith("$"):
        text = text.strip("$").strip()
    if "\\" in text or "{,}" in text:
        text = _FRACTION.sub(r"\1/\2", text)
        for latex, sign in _LATEX.items():
            text = text.replace(latex, sign)
    return text.removesuffix(".").strip() if len(text) > 1 else text


def _value(text: str) -> Value:
    if len(text) > MAX_LENGTH:
        return _folded(text)
    text = _unwrapped(text)
    number = quantities.parse(text)
    return number or _series(text) or _folded(text)


def _unwrapped(text: str) -> str:
    """(B), B) and B are one choice, and (5) is 5; (1, 2) keeps its brackets."""
    inner = text.removesuffix(")").removeprefix("(").strip()
    return inner if text.endswith(")") and inner and not set(inner) & set("(),[]{}") else text


def _series(text: str) -> Series | None:
    brackets, inside = "", text
    if len(text) >= 2 and text[0] + text[-1] in ("()", "[]", "[)", "(]", "{}"):
        brackets, inside = text[0] + text[-1], text[1:-1]
    items = re.split(r",\s+" if re.search(r",\s", inside) else ",", inside)
    if len(items) > MAX_ITEMS or (len(items) < 2 and not brackets) or set(inside) & set("()[]{}"):
        return None
    return Series(brackets, tuple(_item(item.strip()) for item in items))


def _item(text: str) -> Number | str:
    return quantities.parse(text) or _folded(text)


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _same(a: Value, b: Value) -> bool:
    if isinstance(a, Number) and isinstance(b, Number):
        return quantities.same(a, b)
    if isinstance(a, Series) and isinstance(b, Series):
        return _same_series(a, b)
    return a == b


def _same_series(a: Series, b: Series) -> bool:
    if a.brackets and b.brackets and a.brackets != b.brackets:
        return False
    if "{}" in (a.brackets, b.brackets):
        return _covers(a, b) and _covers(b, a)
    return len(a.items) == len(b.items) and all(map(_same, a.items, b.items))


def _covers(a: Series, b: Series) -> bool:
    return all(any(_same(x, y) for y in a.items) for x in b.items)
