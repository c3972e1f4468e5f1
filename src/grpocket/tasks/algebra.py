"""The algebra system's side of symbolic answers: math-verify and sympy, in a worker process.

It is loaded there and nowhere else: an expression can keep sympy busy for ever, and only a process can
be killed. Its own time-outs are off, as they are signals and the worker keeps the time.
"""

from __future__ import annotations

import logging

from math_verify import LatexExtractionConfig, parse, verify  # pyright: ignore[reportMissingImports]

logging.getLogger("math_verify").setLevel(logging.CRITICAL)


def same_formula(given: str, known: str) -> float:
    """1 when two LaTeX formulas are equal, wherever sympy can tell."""
    return float(verify(_read(known), _read(given), timeout_seconds=0))


def _read(formula: str) -> list:
    return parse(f"${formula}$", extraction_config=[LatexExtractionConfig()], parsing_timeout=0)


same_formula("(x+1)^2", "x^2+2x+1")  # what is loaded at the first use belongs to the start, not to a call's time-out
