"""Where metrics are sent besides the run's own folder: Weights & Biases or Trackio, or nowhere, which is the default.

Both packages have the same three functions, init, log and finish, so one adapter does for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import Any, Protocol

from ..records import UserError


class Tracker(Protocol):
    """Something that takes a line of metrics a step."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take the metrics of a step."""
        ...

    def finish(self) -> None:
        """No more will come."""
        ...


class NoTracker:
    """Sends nothing."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""


class PackageTracker:
    """Sends metrics by a package that has init, log and finish."""

    def __init__(self, package: Any, run: str, settings: Mapping[str, Any]) -> None:
        self._package = package
        package.init(project="grpocket", name=run, config=dict(settings))

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send the metrics of a step."""
        self._package.log(dict(values), step=step)

    def finish(self) -> None:
        """Send what is left."""
        self._package.finish()


def open_tracker(name: str, run: str, settings: Mapping[str, Any]) -> Tracker:
    """The tracker of that name, "none", "wandb" or "trackio", for a run and its settings."""
    package = find_package(name)
    return NoTracker() if package is None else PackageTracker(package, run, settings)


def find_package(name: str) -> Any:
    """The tracker's package; None for "none".

    Raises:
        UserError: it is not installed.
    """
    if name == "none":
        return None
    try:
        return import_module(name)
    except ImportError:
        raise UserError(f'track="{name}": the package is not installed; pip install "grpocket[{name}]"') from None
