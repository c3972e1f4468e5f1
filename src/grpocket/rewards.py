"""The built-in rewards, to be called, or given by name: `from grpocket.rewards import correctness`."""

from .tasks.rewards import (
    REWARDS,
    WEIGHTS,
    conciseness,
    correctness,
    exact_match,
    language_consistency,
    repetition,
    think_answer_format,
)
from .tasks.scoring import Rewards

__all__ = [
    "REWARDS",
    "WEIGHTS",
    "Rewards",
    "conciseness",
    "correctness",
    "exact_match",
    "language_consistency",
    "repetition",
    "think_answer_format",
]
