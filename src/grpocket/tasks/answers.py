"""Find an answer in a text, and compare it with the known one: exactly, and whatever the text is.

Two answers are equal when they are the same number (units by the rule of `quantities.same`), the same
list, set, tuple or interval of those, or the same text apart from case, spacing and wrapping such as
(B), **B** or \\boxed{B}. Nothing else: no substring, no rounding (0.33 is not 1/3), no evaluation (2^3
is text). Answers come from a model that is paid for fooling this module, so the work is bounded: beyond
`MAX_LENGTH` characters only text is compared. Symbolic equality is in `symbolic`.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass

from . import quantities
from .formats import TAGS, closing
from .quantities import Number

MAX_LENGTH = 1000
MAX_ITEMS = 64
MAX_DEPTH = 3
"""Brackets nested deeper than this are text."""

_FRACTION = re.compile(r"\\[dt]?frac\s*(?:\{(-?[0-9]+)\}\{([0-9]+)\}|([0-9])([0-9]))")
_WORDS = re.compile(r"\\(?:text|mathrm|mathbf|textbf|mbox)\{([^{}]*)\}")
_LATEX = {
    **dict.fromkeys(("\\(", "\\)", "\\[", "\\]", "\\left", "\\right", "\\!", "\\,"), ""),
    **{"\\" + sign: sign for sign in "$%{} "},
    **dict.fromkeys(("^\\circ", "^{\\circ}", "\\degree"), "°"),
    "\\infty": "∞",
    "\\emptyset": "{}",
    "\\cup": "∪",
    "\\pi": "π",
    "{,}": ",",
}
_SIGNS = {
    **dict.fromkeys(map(ord, "\u2212\u2013\ufe63\uff0d"), "-"),
    ord("∅"): "{}",
    **dict.fromkeys(map(ord, "\u2009\u202f\u200b"), ""),
}
"""Minus sign, en dash, small and full-width hyphen-minus; spaces that group digits; no space at all."""
_WRAPPERS = ("**", "`", "$")
_CHOICE = re.compile(r"(?:option|choice|answer)?:?\s*[(\[]?([a-j])[)\]]?[.:]?", re.IGNORECASE)
_VARIABLE = re.compile(r"[A-Za-z]\s*=\s*(?=[-+.$\d])")
_AROUND_SIGNS = re.compile(r"\s*([-+*/^=<>()\[\]{},:;|∪])\s*")
_SAME_WORD = {"true": "yes", "false": "no"}


@dataclass(frozen=True, slots=True)
class Series:
    """Several values. Order counts unless the brackets are braces.

    >>> Series("[]", (Number(Fraction(1)), Number(Fraction(2))))
    """

    brackets: str
    """The opening and the closing one, so that [0, 1] and [0, 1) differ; "" for a bare list."""
    items: tuple[Value, ...]


Value = Number | Series | str


def gold(text: str) -> str:
    """The final answer of a worked solution: tagged, boxed or after ####; else the whole text.

    >>> gold("40 + 2 = 42, so she has 42.\\n#### 42")
    '42'
    """
    last_line = text.strip().rpartition("\n")[2]
    marked = last_line[4:].strip() if last_line.startswith("####") else None
    return TAGS.last_answer(text) or _boxed(text) or marked or text.strip()


SameText = Callable[[str, str], bool]
"""Whether two texts that differ mean the same, the given one first."""


def equal(given: str, known: str, same_text: SameText = lambda given, known: False) -> bool | None:
    """Whether `given` is the `known` answer. None when nothing is known: an empty gold is no one's hit.

    `same_text` has the last word where the known answer, or an item of it, is neither a number nor the same text.
    """
    given, known = tidy(given), tidy(known)
    if not known:
        return None
    return given == known or _same(parse(given), parse(known), same_text)


def tidy(text: str) -> str:
    """One spelling for signs, digits, LaTeX and what people wrap an answer in."""
    text = text.strip()
    if len(text) > MAX_LENGTH:
        return text
    if not text.isascii():
        text = unicodedata.normalize("NFC", text).translate(_SIGNS)
        text = "".join(str(unicodedata.decimal(c)) if c.isdecimal() else c for c in text)
    for wrapper in _WRAPPERS:
        if text.startswith(wrapper) and text.endswith(wrapper):
            text = text.strip(wrapper).strip()
    if "\\" in text or "{,}" in text:
        if text.startswith("\\boxed{") and closing(text, "}", len("\\boxed{")) == len(text) - 1:
            text = text[len("\\boxed{") : -1]
        text = _WORDS.sub(r" \1", _FRACTION.sub(r" \1\3/\2\4 ", text))
        for latex, sign in _LATEX.items():
            text = text.replace(latex, sign)
        text = text.strip()
    return text.removesuffix(".").strip() if len(text) > 1 else text


def parse(text: str, depth: int = 0) -> Value:
    """What a tidied answer says."""
    if len(text) > MAX_LENGTH:
        return _folded(text)
    if number := quantities.parse(text):
        return number
    if choice := _CHOICE.fullmatch(text):
        return choice[1].casefold()
    text = _unwrapped(text)
    return quantities.parse(_VARIABLE.sub("", text, count=1)) or _series(text, depth) or _folded(text)


def _boxed(text: str) -> str | None:
    _, found, after = text.rpartition("\\boxed{")
    end = closing(after, "}", 0) if found else None
    return None if end is None else after[:end].strip()


def _unwrapped(text: str) -> str:
    """(5) is 5, and "yes" is yes; (1, 2) keeps its brackets, and 'a', 'b' its quotes."""
    if len(text) > 2 and text[0] + text[-1] in ('""', "''", "()") and not set(text[1:-1]) & set("\"'(),;[]{}"):
        return text[1:-1].strip()
    return text


def _series(text: str, depth: int) -> Series | None:
    brackets, inside = "", text
    if len(text) >= 2 and text[0] + text[-1] in ("()", "[]", "[)", "(]", "{}") and _nests(text[1:-1]):
        brackets, inside = text[0] + text[-1], text[1:-1]
    items = _split(inside) if depth < MAX_DEPTH and _nests(inside) else []
    if not items or len(items) > MAX_ITEMS or (len(items) == 1 and not brackets):
        return None
    return Series(brackets, tuple(parse(item.strip(), depth + 1) for item in items))


def _split(inside: str) -> list[str]:
    """Items, apart by ";", else by ", " or "and", else by ","; what stands in brackets stays whole."""
    inside = re.sub(r",?\s+and\s+", ", ", inside)
    for separator in ("(;)", r"(,\s+)", "(,)"):
        items, depth = [""], 0
        for at, part in enumerate(re.split(separator, inside)):
            if at % 2 and not depth:
                items.append("")
            else:
                items[-1] += part
                depth += sum(map(part.count, "([{")) - sum(map(part.count, ")]}"))
        if len(items) > 1:
            return items
    return [inside]


def _nests(inside: str) -> bool:
    """Whether every bracket that closes was open. The kinds may be mixed, as in [0, 1)."""
    depth = 0
    for c in inside:
        depth += (c in "([{") - (c in ")]}")
        if depth < 0:
            return False
    return depth == 0


def _folded(text: str) -> str:
    """Text apart from case and from spaces that mean nothing."""
    text = " ".join(text.casefold().split())
    text = _AROUND_SIGNS.sub(r"\1", text) if len(text) <= MAX_LENGTH else text
    return _SAME_WORD.get(text, text)


def _same(a: Value, b: Value, same_text: SameText) -> bool:
    if isinstance(a, Number) and isinstance(b, Number):
        return quantities.same(a, b)
    if isinstance(a, Series) and isinstance(b, Series):
        return _same_series(a, b, same_text)
    if isinstance(b, str) and not isinstance(a, Series):
        return a == b or same_text(str(a), b)
    return False


def _same_series(a: Series, b: Series, same_text: SameText) -> bool:
    if a.brackets and b.brackets and a.brackets != b.brackets:
        return False
    if "{}" in (a.brackets, b.brackets):
        matches = [[_same(x, y, same_text) for y in b.items] for x in a.items]
        return all(map(any, matches)) and all(map(any, zip(*matches, strict=True)))
    return len(a.items) == len(b.items) and all(_same(x, y, same_text) for x, y in zip(a.items, b.items, strict=True))
