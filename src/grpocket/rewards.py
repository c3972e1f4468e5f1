"""The built-in rewards, to be called, or given by name: `from grpocket.rewards import correctness`."""

from .tasks.rewards import (
    REWARDS,
    WEIGHTS,
    answer_format,
    conciseness,
    correctness,
    exact_match,
    language_consistency,
    repetition,
)
from .tasks.scoring import Rewards

__all__ = [
    "REWARDS",
    "WEIGHTS",
    "Rewards",
    "answer_format",
    "conciseness",
    "correctness",
    "exact_match",
    "language_consistency",
    "repetition",
]
