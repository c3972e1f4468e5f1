"""What a person sees while a run goes on: how far it is and how well it does, and now and then one group as a table.

In a terminal that is a view at the bottom, drawn anew while the rest scrolls by; in a file, a pipe or a notebook a
line a step. What a model wrote is shown without its control characters, so that it can't move the cursor or
change a colour.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from ..records import Group, StepMetrics
from .live import LiveView, reward
from .pace import clock


class Console:
    """Prints the progress of a run of `steps` steps."""

    def __init__(self, steps: int) -> None:
        from rich.console import Console as RichConsole

        self.steps = steps
        self._rich = RichConsole(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else 120)
        self._view: LiveView | None = None

    @contextmanager
    def live(self) -> Iterator[None]:
        """Inside, a terminal shows the view; the cursor comes back however this ends."""
        if not sys.stdout.isatty() or self._rich.is_dumb_terminal:
            yield
            return
        with LiveView(self._rich, self.steps) as self._view:
            try:
                yield
            finally:
                self._view = None

    def say(self, text: str = "") -> None:
        """One line, as it is."""
        print(text, flush=True)

    def step(self, metrics: StepMetrics, accuracy: float | None, left: float) -> None:
        """Show a step: reward and its parts, held-out accuracy so far, length, seconds left."""
        if self._view:
            self._view.show(metrics, accuracy, left)
            return
        values = metrics.values
        fields = [
            f"step {metrics.step:>{len(str(self.steps))}}/{self.steps}",
            reward(metrics),
            f"no signal {values['frac_reward_zero_std']:.0%}",
            f"length {values['completions/mean_length']:.0f}",
            *([f"held-out {accuracy:.2f}"] if accuracy is not None else []),
            f"{values['step_time']:.1f} s",
            f"left {clock(left)}",
        ]
        self.say("  ".join(fields))

    def group(self, group: Group) -> None:
        """One group as a table: what was answered, what each part of the reward gave, and the advantage."""
        from rich import box
        from rich.table import Table
        from rich.text import Text

        names = list(dict.fromkeys(name for r in group.rollouts for name in r.reward.parts))
        title = Text(f"{printable(group.problem.question)}  (answer: {printable(group.problem.answer)})")
        table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("answer", ratio=1, max_width=72)
        for name in [*names, "reward", "advantage"]:
            table.add_column(name, justify="right", no_wrap=True)
        rows = zip(group.rollouts, group.advantages, strict=True)
        for rollout, advantage in sorted(rows, key=lambda row: -row[1]):
            figures = [*(rollout.reward.parts.get(n) for n in names), rollout.reward.value]
            table.add_row(
                Text(printable(rollout.text)), *("-" if f is None else f"{f:.2f}" for f in figures), f"{advantage:+.2f}"
            )
        self._rich.print(table)


def teaching_group(groups: Sequence[Group]) -> Group | None:
    """The group worth looking at: the one whose rewards differ most."""
    return max(groups, key=lambda g: max(g.advantages) - min(g.advantages), default=None)


def printable(text: str) -> str:
    """The text in one line, without control characters."""
    return "".join(c if c.isprintable() else " " for c in text.replace("\n", " ⏎ "))
