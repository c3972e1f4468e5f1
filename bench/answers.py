"""How fast plain answers are compared, and where the comparison differs from math-verify's.

    python bench/answers.py

1,000 pairs are generated from numbers in several spellings, lists, sets, intervals and choices: half of them
two spellings of one value, half of neighbouring values. Needs the extra [math] for the second part.
"""

from __future__ import annotations

import logging
import random
import time
from collections import defaultdict
from fractions import Fraction

from grpocket.tasks.answers import equal

SPEED = [("42", "42"), ("41", "42"), ("1,250.50", "1250.5"), ("3/4", "0.75"), ("$5", "5"), ("B", "(C)"), ("yes", "No")]


def spelled(value: Fraction, rng: random.Random, alone: bool = False) -> str:
    ways = [f"{value.numerator}/{value.denominator}", f"\\frac{{{value.numerator}}}{{{value.denominator}}}"]
    if value.denominator == 1:
        ways = [f"{value.numerator}", f"{value.numerator:,}", f"{value.numerator}.0", f"+{value.numerator}"]
        ways += [f"${value.numerator}$", f"\\boxed{{{value.numerator}}}"] * alone
    elif value * 1000 == int(value * 1000):
        ways += [f"{float(value)}", f"{float(value * 100)}\\%"]
    return rng.choice(ways).replace("+-", "-")


def number(rng: random.Random) -> Fraction:
    whole = rng.choice([rng.randint(-20, 20), rng.randint(-9999, 99999)])
    return Fraction(whole, rng.choice([1, 1, 2, 4, 5, 8, 3, 7]))


def pair(rng: random.Random) -> tuple[str, str, str]:
    kind = rng.choice(["number"] * 5 + ["tuple", "set", "interval", "choice", "unit"])
    same = rng.random() < 0.5
    a = number(rng)
    b = a if same else rng.choice([-a, a + 1, a * 10, 1 / a if a else a + 2, a / 100])
    x, y = (spelled(v, rng, alone=kind == "number") for v in (a, b))
    c = rng.randint(0, 9)
    if kind == "tuple":
        return kind, f"({c}, {x})", f"({c}, {y})"
    if kind == "set":
        return kind, f"\\{{{c}, {x}\\}}", f"\\{{{y}, {c}\\}}"
    if kind == "interval":
        return kind, f"[{x}, \\infty)", f"[{y}, \\infty)"
    if kind == "choice":
        known, given = rng.choice("ABCD"), rng.choice("ABCD")
        return kind, known, rng.choice(["({})", "{}.", "\\text{{{}}}", "{}"]).format(known if same else given)
    if kind == "unit":
        return kind, x, y + rng.choice([" cm", "\\text{ kg}", " dollars"])
    return kind, x, y


def speed() -> None:
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < 2:
        for given, known in SPEED:
            equal(given, known)
            count += 1
    print(f"{count / (time.perf_counter() - start):,.0f} plain comparisons a second\n")


def agreement() -> None:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, StringExtractionConfig, parse, verify

    logging.getLogger("math_verify").setLevel(logging.CRITICAL)

    def theirs(known: str, given: str, kind: str) -> bool:
        config = [StringExtractionConfig()] if kind == "choice" else [LatexExtractionConfig(), ExprExtractionConfig()]
        texts = [text if kind == "choice" or "$" in text else f"${text}$" for text in (known, given)]
        return verify(*(parse(text, extraction_config=config) for text in texts))

    rng = random.Random(0)
    differ: dict[tuple[str, bool], list[tuple[str, str]]] = defaultdict(list)
    pairs = [pair(rng) for _ in range(1000)]
    for kind, known, given in pairs:
        ours = bool(equal(given, known))
        if ours != theirs(known, given, kind):
            differ[kind, ours].append((known, given))
    count = sum(map(len, differ.values()))
    print(f"{1000 - count} of 1000 generated pairs judged alike; {sum(bool(equal(g, k)) for _, k, g in pairs)} equal\n")
    for (kind, ours), found in sorted(differ.items()):
        print(f"{kind}, {'equal' if ours else 'different'} here and not there: {len(found)}")
        for known, given in found:
            print(f"    {known}   {given}")


if __name__ == "__main__":
    speed()
    agreement()
