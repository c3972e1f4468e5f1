"""A run as one page that needs nothing else: no script, no network, no second file.

What a model, a data set or a settings file says is untrusted: every value is escaped by the template engine
and rid of control characters on its way out, and the page forbids itself everything but its own style.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from ..evaluate.intervals import Interval, paired_difference, wilson
from ..evaluate.verdict import verdict
from .charts import MOST_LINES, Line, draw
from .diagnose import NAMES, history
from .run_files import Answer, HeldOut, RunRecord, groups, read_run

REFRESH_SECONDS = 5
LONGEST_TEXT = 1500
"""Characters of one answer that are shown."""
PAIRS = 3
"""Problems of a kind that are shown with the answers before and after."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One small picture with its keys.

    >>> Figure("Entropy", "how undecided ...", [Line("entropy", [(1, 0.6)])])
    """

    title: str
    meaning: str
    lines: Sequence[Line]
    low: float | None = None
    high: float | None = None

    @property
    def svg(self) -> str:
        """The picture."""
        return draw(self.lines, self.title, self.low, self.high)


METRICS = (
    ("Groups with signal", "share whose answers differ in reward; the others teach nothing", "frac_reward_zero_std"),
    ("Length of an answer", "tokens", "completions/mean_length"),
    ("Cut off", "share of answers that reached max_new_tokens", "completions/clipped_ratio"),
    ("Entropy", "nats a token: how undecided the policy is", "entropy"),
    ("KL", "nats a token to the untrained model", "kl"),
    ("Ratios clipped", "share of tokens outside the clip range", "clip_ratio/region_mean"),
    ("Norm of the gradient", "before clipping", "grad_norm"),
    ("Speed", "answer tokens a second, learning included", "tokens_per_second"),
    ("Memory", "peak, MB", "memory/peak_mb"),
)
SHARES = ("Groups with signal", "Cut off", "Ratios clipped")


def write_report(folder: str | Path, refresh: bool = False) -> Path:
    """Write `report.html` into the run's folder; with `refresh` the page loads itself again while the run goes on.

    Raises:
        UserError: the folder holds no run.
    """
    run = read_run(folder)
    path = Path(folder) / "report.html"
    write(path, "report.html", run_context(run, Path(folder)) | {"refresh": refresh and not run.is_finished})
    return path


def write_comparison(folders: Sequence[str | Path], path: Path) -> Path:
    """Write several runs side by side into one page."""
    runs = [read_run(folder) for folder in folders[:MOST_LINES]]
    figures = [Figure("Reward", "mean of a step", [metric(run, "reward", run.name) for run in runs])]
    figures.append(Figure("Held-out accuracy", "with its 95 % interval", [accuracy(r, r.name) for r in runs], 0.0, 1.0))
    figures += [
        Figure(title, meaning, [figure_line(run, title, name, run.name) for run in runs], 0.0, most(title))
        for title, meaning, name in METRICS[:4]
    ]
    shown = [Figure(f.title, f.meaning, [x for x in f.lines if x.points], f.low, f.high) for f in figures]
    rows = [{"run": run, "outcome": outcome(run), "findings": history(run)} for run in runs]
    write(path, "comparison.html", {"rows": rows, "figures": [f for f in shown if f.lines], "refresh": False})
    return path


def write(path: Path, template: str, context: dict[str, Any]) -> None:
    """Fill in a template, replacing the file in one go: a browser never loads half a page."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    pages = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"number": number, "brief": "{:.3g}".format, "signed": signed}
    text = pages.get_template(template).render(context | {"every": REFRESH_SECONDS})
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(path)


def visible(value: Any) -> Any:
    """Text without what can't be seen: control characters, direction marks, half characters."""
    if type(value) is not str:
        return value
    return "".join(c if c.isprintable() or c == "\n" else " " for c in value)


def number(value: float | None) -> str:
    """Two decimals; a dash for none."""
    return "–" if value is None else f"{value:.2f}".replace("-", "−")


def signed(value: float) -> str:
    """With its sign, and 0 without."""
    return f"{value:+.2f}".replace("-", "−") if value else "0"


def run_context(run: RunRecord, folder: Path) -> dict[str, Any]:
    """Everything the page shows."""
    return {
        "run": run,
        "outcome": outcome(run),
        "findings": history(run),
        "looked_for": NAMES,
        "figures": [f for f in figures(run) if f.lines],
        "groups": list(chosen_groups(run)),
        "pairs": pairs(run),
        "longest": LONGEST_TEXT,
        "repeat": f"grpocket train --config {folder / 'config.yaml'} --output_dir {folder}-again",
    }


# Before and after


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the held-out problems say.

    >>> Outcome(0, 16, 200, wilson(38, 200), wilson(185, 200), Interval(0.735, 0.66, 0.79))
    """

    first: int
    """The step of the first evaluation."""
    last: int
    problems: int
    before: Interval
    after: Interval
    difference: Interval
    verdict: str
    """The difference in words."""


def outcome(run: RunRecord) -> Outcome | None:
    """First and last evaluation on the problems of both; None before there are two."""
    evaluations = run.evaluations()
    if len(evaluations) < 2:
        return None
    first, last = min(evaluations), max(evaluations)
    both = both_answers(evaluations[first], evaluations[last])
    before, after = [b.correct for b, _ in both], [a.correct for _, a in both]
    shares = wilson(sum(before), len(both)), wilson(sum(after), len(both))
    return Outcome(first, last, len(both), *shares, paired_difference(before, after), verdict(before, after))


def both_answers(before: Sequence[HeldOut], after: Sequence[HeldOut]) -> list[tuple[HeldOut, HeldOut]]:
    """The answers before and after to the same problem."""
    then = {h.problem: h for h in before}
    return [(then[h.problem], h) for h in after if h.problem in then]


def pairs(run: RunRecord) -> list[tuple[str, HeldOut, HeldOut]]:
    """(what became of it, before, after) for a few problems of each kind."""
    evaluations = run.evaluations()
    if len(evaluations) < 2:
        return []
    both = both_answers(evaluations[min(evaluations)], evaluations[max(evaluations)])
    kinds = (("gained", False, True), ("lost", True, False), ("still wrong", False, False))
    return [
        (kind, before, after)
        for kind, was, now in kinds
        for before, after in [pair for pair in both if (pair[0].correct, pair[1].correct) == (was, now)][:PAIRS]
    ]


# Curves


def figures(run: RunRecord) -> Iterator[Figure]:
    """The pictures of one run, those without values left empty."""
    names = dict.fromkeys(name for step in run.steps for name in step.values)
    parts = [n for n in names if n.startswith("rewards/") and n.endswith("/mean")]
    rewards = [metric(run, "reward", "reward"), *(metric(run, n, n[len("rewards/") : -len("/mean")]) for n in parts)]
    yield Figure("Reward", "mean of a step, and its weighted parts", [x for x in rewards if x.points][:MOST_LINES])
    held = accuracy(run, "accuracy")
    yield Figure("Held-out accuracy", "greedy and strict, 95 % interval", [held] if held.points else [], 0.0, 1.0)
    for title, meaning, name in METRICS:
        line = figure_line(run, title, name, title.lower())
        shown = bool(line.points) and (any(y for _, y in line.points) or title != "Ratios clipped")
        yield Figure(title, meaning, [line] if shown else [], 0.0, most(title))


def most(title: str) -> float | None:
    """The upper end of a figure, where there is one."""
    return 1.0 if title in SHARES else None


def figure_line(run: RunRecord, title: str, name: str, label: str) -> Line:
    """A metric as it is drawn: groups without signal are shown as those with."""
    line = metric(run, name, label)
    return Line(label, [(x, 1 - y) for x, y in line.points]) if title == "Groups with signal" else line


def metric(run: RunRecord, name: str, label: str) -> Line:
    """One metric over the steps that have it."""
    return Line(label, [(step.step, step.values[name]) for step in run.steps if name in step.values])


def accuracy(run: RunRecord, label: str) -> Line:
    """The held-out accuracy with Wilson's interval."""
    shares = [(step, wilson(sum(h.correct for h in e), len(e))) for step, e in sorted(run.evaluations().items())]
    return Line(label, [(step, s.value) for step, s in shares], [(s.low, s.high) for _, s in shares])


# Groups to read


def chosen_groups(run: RunRecord) -> Iterator[tuple[str, list[tuple[int, Answer]]]]:
    """(why it is shown, [(how often, answer)] with the best first): first and last group, best and worst."""
    every = [g for g in groups(run.answers, run.config) if any(a.reward is not None for a in g)]
    mixed = [g for g in every if len({a.reward for a in g}) > 1] or every
    if not every:
        return
    for why, group in (
        ("The first with signal", mixed[0]),
        ("The last with signal", mixed[-1]),
        ("The best of the last steps", max(every[-20:], key=level)),
        ("The worst of the last steps", min(every[-20:], key=level)),
    ):
        yield why, different(group)


def different(group: Sequence[Answer]) -> list[tuple[int, Answer]]:
    """Each different answer once, with its number, the best first."""
    found: dict[tuple[str, float | None], list[Answer]] = {}
    for answer in sorted(group, key=lambda answer: -answer.advantage):
        found.setdefault((answer.text, answer.reward), []).append(answer)
    return [(len(same), same[0]) for same in found.values()]


def level(group: Sequence[Answer]) -> float:
    """The mean reward."""
    return fmean(a.reward for a in group if a.reward is not None)
