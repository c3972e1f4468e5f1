"""How long a run still takes, judged by the steps and evaluations it has had."""

from __future__ import annotations

from collections import deque
from statistics import fmean


class Pace:
    """The seconds of the last ten steps, and of the last evaluation."""

    def __init__(self) -> None:
        self._steps: deque[float] = deque(maxlen=10)
        self._evaluation = 0.0

    def step(self, seconds: float) -> None:
        """A step took this long."""
        self._steps.append(seconds)

    def evaluation(self, seconds: float) -> None:
        """An evaluation took this long."""
        self._evaluation = seconds

    def left(self, steps: int, evaluations: int) -> float:
        """Seconds for so many more steps and evaluations."""
        return steps * fmean(self._steps or [0.0]) + evaluations * self._evaluation


def clock(seconds: float) -> str:
    """Seconds as h:mm:ss or m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
