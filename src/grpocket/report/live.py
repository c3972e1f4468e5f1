"""The view at the bottom of a terminal: a bar with the time left, and the figures of the last step."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from ..records import StepMetrics
from .pace import clock

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


class LiveView:
    """Draws the progress of a run of `steps` steps twice a second, below everything that is printed meanwhile."""

    def __init__(self, console: Console, steps: int) -> None:
        from rich.live import Live

        self.steps = steps
        self._shown: tuple[StepMetrics, float | None] | None = None
        self._end: float | None = None
        # stderr is left alone where it goes to a file: it would show up here, and be missing there.
        self._live = Live(
            console=console, get_renderable=self.draw, refresh_per_second=2, redirect_stderr=sys.stderr.isatty()
        )

    def __enter__(self) -> LiveView:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, metrics: StepMetrics, accuracy: float | None, left: float) -> None:
        """Show a finished step; `left` seconds are expected until the end."""
        self._shown = metrics, accuracy
        self._end = time.monotonic() + left
        self._live.refresh()

    def draw(self) -> RenderableType:
        """The bar, and what is known of the last step."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        step = self._shown[0].step if self._shown else 0
        left = "-:--" if self._end is None else clock(max(0.0, self._end - time.monotonic()))
        bar = Table.grid(padding=(0, 2))
        bar.add_row(f"step {step}/{self.steps}", ProgressBar(self.steps, step, width=40), f"left {left}")
        view = Table.grid()
        view.add_row(bar)
        for line in figures(*self._shown) if self._shown else ():
            view.add_row(Text(line))
        return view


def figures(metrics: StepMetrics, accuracy: float | None) -> tuple[str, str, str]:
    """Three lines: the reward with its parts, how the answers are, how fast and how large it is."""
    values = metrics.values
    answers = [
        *([f"held-out {accuracy:.2f}"] if accuracy is not None else []),
        f"groups with signal {1 - values['frac_reward_zero_std']:.0%}",
        f"length {values['completions/mean_length']:.0f}",
        *([f"entropy {values['entropy']:.2f}"] if "entropy" in values else []),
    ]
    machine = [
        f"{values['step_time']:.1f} s a step",
        f"{values['tokens_per_second']:.0f} tokens/s",
        *([f"{values['memory/peak_mb'] / 1000:.1f} GB"] if "memory/peak_mb" in values else []),
    ]
    return reward(metrics), "  ".join(answers), "  ".join(machine)


def reward(metrics: StepMetrics) -> str:
    """The reward with its parts."""
    means = {name: v for name, v in metrics.values.items() if name.startswith("rewards/") and name.endswith("/mean")}
    parts = ", ".join(f"{name.split('/')[1]} {value:.2f}" for name, value in means.items())
    return f"reward {metrics.values['reward']:.2f}" + (f" ({parts})" if parts else "")
