"""Looking at a run's last steps: what the rules of the diagnosis have in common."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from math import sqrt
from statistics import fmean, pvariance
from typing import Literal, NamedTuple

from .run_files import Answer, RunRecord

WINDOW = 5
"""Steps that a sign has to hold: with the usual 32 answers a step it is seen 160 times."""
SPAN = 10
"""Steps at either end that a drift is measured between: the mean of one step swings by the luck of its problems."""
SURE = 3.0
"""Standard errors of a difference that are no chance, also when it is looked at after every step."""

CUT_SHARE = 0.5
"""When more answers than that are cut off, most of the sampling is spent on what can't be right."""
FLAT_SHARE = 0.9
"""Share of groups without signal beyond which a step teaches next to nothing."""
SOLVED = 0.8
"""Share of what can be earned from which on little variety and few groups with signal are as it should be."""

Severity = Literal["fault", "warning", "note"]
"""fault: nothing useful can be learned like this; warning: it goes wrong, or is about to; note: worth knowing."""


class Sign(NamedTuple):
    """What a rule saw, in the words it is told with.

    >>> Sign("fault", "160 of 160 answers ...", "raise max_new_tokens", "<think>3 + 4 = ")
    """

    severity: Severity
    evidence: str
    remedy: str
    example: str = ""


def column(run: RunRecord, name: str, start: int, stop: int) -> list[float]:
    """A metric in steps [start, stop), counted from 0; steps that do not have it are left out."""
    return [s.values[name] for s in run.steps[start:stop] if name in s.values]


def last(run: RunRecord, name: str, count: int = WINDOW) -> list[float]:
    """A metric in the last steps."""
    return column(run, name, max(0, len(run.steps) - count), len(run.steps))


def mean(values: Iterable[float]) -> float:
    """The mean; 0 of nothing, so that a rule need not ask which metrics a run has."""
    found = list(values)
    return fmean(found) if found else 0.0


def mean_change(run: RunRecord, name: str) -> tuple[float, float]:
    """Means of the first and the last steps; 0 for a metric that is not there."""
    was, now = column(run, name, 0, SPAN), last(run, name, SPAN)
    return mean(was), mean(now)


def is_change(run: RunRecord, name: str) -> bool:
    """Whether a metric's first and last steps differ by more than their scatter explains."""
    was, now = column(run, name, 0, SPAN), last(run, name, SPAN)
    if min(len(was), len(now)) < 2:
        return False
    error = sqrt(pvariance(was) / (len(was) - 1) + pvariance(now) / (len(now) - 1))
    return abs(fmean(now) - fmean(was)) > SURE * error


def recent(run: RunRecord) -> Sequence[Answer]:
    """The answers of the last steps."""
    begin = run.steps[-WINDOW].step if len(run.steps) >= WINDOW else 0
    return [a for a in run.answers if a.step >= begin]


def early(run: RunRecord) -> Sequence[Answer]:
    """The answers of the first steps."""
    return [a for a in run.answers if a.step <= WINDOW]


def span(run: RunRecord) -> str:
    """The steps that `last` and `recent` look at."""
    start, stop = run.steps[max(0, len(run.steps) - WINDOW)].step, run.steps[-1].step
    return f"step {stop}" if start == stop else f"steps {start} to {stop}"


def weights(run: RunRecord) -> dict[str, float]:
    """What each reward function can give at most, by its name in the settings."""
    return dict(zip(run.config.get("rewards") or (), run.config.get("reward_weights") or (), strict=False))


def goal(run: RunRecord) -> tuple[str, str, float]:
    """(name, metric, most that can be had) of what the run is for: correctness, or without it the whole reward."""
    if weight := weights(run).get("correctness"):
        return "correctness", "rewards/correctness/mean", weight
    return "reward", "reward", sum(weights(run).values()) or 1.0


def earned(run: RunRecord) -> float:
    """The share of what can be had that the last steps earned."""
    _, metric, most = goal(run)
    return mean(last(run, metric)) / most


def asked(answer: Answer) -> str:
    """A question with what was answered and known."""
    return f"{short(answer.question)} -> {short(answer.text)} (known: {short(answer.gold)})"


def short(text: str, most: int = 120) -> str:
    """The text in one line, its middle left out when it is long."""
    line = " ".join(text.split())
    return line if len(line) <= most else f"{line[: most // 2]} ... {line[-most // 2 :]}"
