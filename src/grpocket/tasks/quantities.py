"""A number as people write it, read exactly: an integer, decimal or fraction, with or without a unit.

Values are `Fraction`, never float, so 0.1 + 0.2 questions have one answer. Text that is not wholly a
number is not a number at all: "12 or 13" is None, not 12. Nothing is computed: powers, roots and
products stay text. Every pattern is bounded, and so is the exponent, so hostile text costs nothing.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction

UNITS = {
    name: names.split()[0]
    for names in (
        "% percent",
        "$ dollar dollars usd",
        "€ euro euros eur",
        "£ pound pounds gbp lb lbs",
        "¥ yen yuan jpy cny",
        "₹ rupee rupees inr",
        "cent cents ¢",
        "° degree degrees",
        "°C celsius",
        "°F fahrenheit",
        "mm millimeter millimeters",
        "cm centimeter centimeters",
        "m meter meters metre metres",
        "km kilometer kilometers kilometre kilometres",
        "inch inches in",
        "ft foot feet",
        "yard yards yd",
        "mile miles mi",
        "mph",
        "mg milligram milligrams",
        "g gram grams",
        "kg kilogram kilograms",
        "ml milliliter milliliters",
        "l liter liters litre litres L",
        "s second seconds sec",
        "min minute minutes",
        "h hour hours hr hrs",
        "day days",
        "week weeks",
        "month months",
        "year years",
    )
    for name in names.split()
}
"""What may stand beside a number. A word that is not here ("million", "or", "apples") makes it text."""

_POWERS = {"square": "^2", "cubic": "^3", "²": "^2", "³": "^3", "2": "^2", "3": "^3"}

_NUMBER = re.compile(
    r"""
    (?P<sign>[-+]?) \s? (?P<symbol>[$€£¥₹]?) \s? (?P<inner_sign>[-+]?)
    (?:
        (?: (?P<mixed>[0-9]++) [ ]++ )? (?P<over>[0-9]++) \s*+ / \s*+ (?P<under>[0-9]++)
      | (?=\.?[0-9])
        (?P<whole> [1-9][0-9]{0,2} (?:,[0-9]{3})++ (?![0-9]) | [0-9]*+ )
        (?: \. (?P<decimals>[0-9]*+) )?
        (?: [eE] (?P<exponent>[-+]?[0-9]{1,3}) )?
    )
    (?: \s*+ (?P<unit>
        (?: (?:square|cubic)\s )?+ [^\W\d_]++ (?:\^?[23²³])?+ (?:\s?/\s?[^\W\d_]++)? | °[CF] | [%°¢$€£¥₹]
    ) )?
    """,
    re.VERBOSE,
)


@dataclass(frozen=True, slots=True)
class Number:
    """A value, and the unit that was written with it.

    >>> parse("-$1,250.50")
    Number(value=Fraction(-2501, 2), unit='$')
    """

    value: Fraction
    unit: str = ""

    def __str__(self) -> str:
        """The value exactly, as 3 or 3/4, and the unit."""
        return f"{self.value}{self.unit}"


def parse(text: str) -> Number | None:
    """The number that `text` is, or None. Expects ASCII digits and signs, at most a thousand or so of them."""
    match = _NUMBER.fullmatch(text)
    if match is None or (match["sign"] and match["inner_sign"]) or (match["symbol"] and match["unit"]):
        return None
    written = match["symbol"] or match["unit"] or ""
    unit, value = _unit(written), _value(match)
    if value is None or bool(unit) != bool(written):
        return None
    return Number(-value if "-" in (match["sign"], match["inner_sign"]) else value, unit)


def same(a: Number, b: Number) -> bool:
    """Whether two numbers mean the same.

    A unit that one of them leaves out is taken from the question: $5 is 5, and 50% is 50. A
    percentage also equals its value: 50% is 0.5. Units that differ are never converted.
    """
    if a.unit and b.unit:
        return a == b
    return a.value == b.value or _share(a) == b.value or a.value == _share(b)


def _share(number: Number) -> Fraction:
    return number.value / 100 if number.unit == "%" else number.value


def _unit(written: str) -> str:
    """One name for a unit however it is written: "square meters" and "m²" are m^2; "" for a word that is none."""
    over, slash, under = (part.strip() for part in written.partition("/"))
    power = ""
    for sign, meaning in _POWERS.items():
        if over.startswith(sign) or over.endswith(sign):
            over, power = over.removeprefix(sign).removesuffix(sign).strip("^ "), meaning
    names = [UNITS.get(word) or UNITS.get(word.casefold() if len(word) > 1 else "") for word in (over, under) if word]
    return (names[0] or "") + power + slash + (names[-1] or "") * len(slash) if all(names) and names else ""


def _value(match: re.Match[str]) -> Fraction | None:
    if match["over"]:
        under = int(match["under"])
        return int(match["mixed"] or 0) + Fraction(int(match["over"]), under) if under else None
    decimals = match["decimals"] or ""
    digits = int(match["whole"].replace(",", "") + decimals)
    exponent = int(match["exponent"] or 0) - len(decimals)
    return Fraction(digits * 10**exponent) if exponent >= 0 else Fraction(digits, 10**-exponent)
