"""Which language a text is in, by its letters.

`consistency` is the share of a text's letters that belong to the wanted language's script. What is
the same in every language is taken out first: tags, code, formulas, numbers, lone variables, names
of functions and units; so mathematical signs cost nothing, and accents are letters like any other.

Languages that share a script are told apart only in Latin, and only where the extra `py3langid` is
installed: without it, French is as good as English here. A mixture of two Latin languages is
judged by its larger part.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from itertools import groupby

from ..records import UserError

LATIN = "latin"
"""The language code for "any language in Latin script", which is what `detect` says when it can't tell more."""
MIN_LETTERS = 8
"""Fewer say nothing about the language."""
MIN_LETTERS_TO_IDENTIFY = 30
"""Fewer are too few to tell one Latin-script language from another."""
MAX_LENGTH = 20_000
"""What follows is not read, so that a hostile text costs no more than a long one."""

SCRIPTS: dict[str, frozenset[str]] = {
    "zh": frozenset({"CJK"}),
    "ja": frozenset({"HIRAGANA", "KATAKANA", "CJK"}),
    "ko": frozenset({"HANGUL"}),
    **dict.fromkeys(("ru", "uk", "be", "bg", "mk"), frozenset({"CYRILLIC"})),
    **dict.fromkeys(("ar", "fa", "ur"), frozenset({"ARABIC"})),
    **dict.fromkeys(("hi", "mr", "ne"), frozenset({"DEVANAGARI"})),
    "he": frozenset({"HEBREW"}),
    "el": frozenset({"GREEK"}),
    "th": frozenset({"THAI"}),
    "bn": frozenset({"BENGALI"}),
    "ta": frozenset({"TAMIL"}),
    "te": frozenset({"TELUGU"}),
    "ka": frozenset({"GEORGIAN"}),
    "hy": frozenset({"ARMENIAN"}),
    **dict.fromkeys(
        (
            *(LATIN, "en", "de", "fr", "es", "pt", "it", "nl", "sv", "da", "no", "fi", "pl", "cs", "sk"),
            *("sl", "hr", "hu", "ro", "tr", "et", "lv", "lt", "ca", "vi", "id", "ms", "sw", "tl"),
        ),
        frozenset({"LATIN"}),
    ),
}
"""Language code to the first words of its letters' Unicode names."""

_KNOWN_SCRIPTS = frozenset().union(*SCRIPTS.values())
_KANA = frozenset({"HIRAGANA", "KATAKANA"})
_NOT_PROSE = re.compile(
    r"""
      ```.*?(?:```|\Z)                       # code, closed or not
    | `[^`\n]*`
    | \\\[ (?:(?!\\\[).)*? \\\]               # LaTeX; stopping at the next opening keeps it linear
    | \\\( (?:(?!\\\().)*? \\\)
    | \$(?!\s) [^$\n]* (?<!\s)\$(?!\d)
    | \\[A-Za-z]+
    | </?[A-Za-z]\w*>                        # tags
    """,
    re.VERBOSE | re.DOTALL,
)
_FUNCTIONS = ("sin", "cos", "tan", "cot", "log", "ln", "lg", "exp", "max", "min", "mod", "gcd", "lcm", "lim", "sqrt")
_UNITS = ("mm", "cm", "km", "mg", "kg", "ml", "kwh")
_IN_EVERY_LANGUAGE = frozenset(_FUNCTIONS + _UNITS)


def consistency(text: str, language: str) -> float | None:
    """The share of letters that are in `language`, 0 to 1; None when there are too few to say.

    `language` is a code such as "en" or "zh-CN". Raises `UserError` for one that is not in `SCRIPTS`.
    """
    code = language.casefold().partition("-")[0].partition("_")[0]
    if code not in SCRIPTS:
        raise UserError(f"language {language!r} is not known; use one of {', '.join(sorted(SCRIPTS))}")
    prose = _prose(text)
    letters = _letters(prose)
    if letters.total() < MIN_LETTERS:
        return None
    if code == "ja" and not any(letters[script] for script in _KANA):
        return 0.0  # Chinese characters alone are Chinese
    if SCRIPTS[code] == SCRIPTS[LATIN] and _identify(prose, letters) not in (code, LATIN) and code != LATIN:
        return 0.0
    return sum(letters[script] for script in SCRIPTS[code]) / letters.total()


def detect(question: str) -> str:
    """The language a question is in, as far as its script tells; `LATIN` when that is all there is to say."""
    prose = _prose(question)
    letters = _letters(prose)
    if not letters:
        return LATIN
    script = letters.most_common(1)[0][0]
    if script in _KANA or (script == "CJK" and any(letters[kana] for kana in _KANA)):
        return "ja"
    if script == "LATIN":
        return _identify(prose, letters)
    return next(code for code, scripts in SCRIPTS.items() if script in scripts)


def _prose(text: str) -> str:
    return _NOT_PROSE.sub(" ", text[:MAX_LENGTH])


def _letters(prose: str) -> Counter[str]:
    """How many letters of each script the words have. A lone Latin or Greek letter is a variable."""
    runs = ("".join(run) for is_word, run in groupby(prose, str.isalpha) if is_word)
    words = [w for w in runs if w.casefold() not in _IN_EVERY_LANGUAGE]
    words = [w for w in words if len(w) > 1 or _script(w) not in ("LATIN", "GREEK")]
    counts = Counter(_script(letter) for word in words for letter in word)
    return Counter({script: count for script, count in counts.items() if script in _KNOWN_SCRIPTS})


@lru_cache(maxsize=8192)
def _script(letter: str) -> str:
    """The first word of a letter's Unicode name, which is its script in nearly all of them."""
    name = unicodedata.name(letter, "").removeprefix("FULLWIDTH ").removeprefix("HALFWIDTH ")
    first = re.split("[ -]", name)[0]
    return "CJK" if first == "IDEOGRAPHIC" else first


def _identify(prose: str, letters: Counter[str]) -> str:
    """The Latin-script language that py3langid finds; `LATIN` without it, or when it can't tell."""
    if letters["LATIN"] < MIN_LETTERS_TO_IDENTIFY or not _has_langid():
        return LATIN
    found = import_module("py3langid").classify(prose)[0]
    return found if SCRIPTS.get(found) == SCRIPTS[LATIN] else LATIN


@lru_cache(maxsize=1)
def _has_langid() -> bool:
    return find_spec("py3langid") is not None
