"""grpocket: GRPO in your pocket.

The public names are loaded when they are first used, so that `import grpocket` and `grpocket --help`
do not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .config import Config
    from .engine.engine import Engine, ScriptedEngine
    from .evaluate.accuracy import Evaluation
    from .records import Completion, Group, Problem, Prompt, Reward, Rollout, Sample, Sampling, UserError
    from .tasks.dataset import MathDataset
    from .trainer import GPRO, GRPO, Result

__version__ = "0.1.0"

_HOMES = {
    ".config": ("Config",),
    ".engine.engine": ("Engine", "ScriptedEngine"),
    ".evaluate.accuracy": ("Evaluation",),
    ".records": ("Completion", "Group", "Problem", "Prompt", "Reward", "Rollout", "Sample", "Sampling", "UserError"),
    ".tasks.dataset": ("MathDataset",),
    ".trainer": ("GPRO", "GRPO", "Result"),
}

__all__ = [
    "GPRO",
    "GRPO",
    "Completion",
    "Config",
    "Engine",
    "Evaluation",
    "Group",
    "MathDataset",
    "Problem",
    "Prompt",
    "Result",
    "Reward",
    "Rollout",
    "Sample",
    "Sampling",
    "ScriptedEngine",
    "UserError",
]


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            return getattr(import_module(home, __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
