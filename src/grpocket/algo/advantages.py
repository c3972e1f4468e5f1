"""How much better a response was than what it is compared with.

Two separate choices: the baseline that is subtracted and the scale that is divided by. Rewards are compared
in float64, so that equal rewards give advantages of exactly 0. Left out: what a reward is, and how rows that
got none are masked.

Shapes: B rows of a step, P groups.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

RowStatistic = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(rewards_B, group_B, mask_B) -> [B], taken over the rows that count."""


def advantages(
    rewards_B: Tensor,
    group_B: Tensor,
    mask_B: Tensor,
    baseline: str = "group",
    scale: str = "group",
    eps: float = 1e-6,
) -> Tensor:
    """(reward - baseline) / (scale + eps), float64 [B]; 0 for rows out of the mask, whatever their reward holds.

    `group_B` numbers each row's group from 0, in any order; `mask_B` says which rows count in the statistics.

    | | baseline | scale | paper |
    |---|---|---|---|
    | GRPO | group | group | arXiv 2402.03300 |
    | Dr. GRPO | group | none | arXiv 2503.20783 |
    | RLOO | leave_one_out | none | arXiv 2402.14740 |
    | REINFORCE++ | batch | batch | arXiv 2501.03262 |

    Rows that are all equal, or a single one, have no spread: they are divided by 1, not by eps. So a group whose
    rewards are all equal gets exactly 0 with baseline group or leave_one_out, and so does a group of one row.

    >>> rewards_B = torch.tensor([1.0, 0.0, 0.0, 1.0, 0.1, 0.1])
    >>> group_B, mask_B = torch.tensor([0, 0, 0, 0, 1, 1]), torch.ones(6, dtype=torch.bool)
    >>> [round(a, 4) for a in advantages(rewards_B, group_B, mask_B).tolist()]  # the first group's std is sqrt(1/3)
    [0.866, -0.866, -0.866, 0.866, 0.0, 0.0]
    """
    rewards_B = torch.where(mask_B, rewards_B.double(), 0.0)
    centred_B = rewards_B - BASELINES[baseline](rewards_B, group_B, mask_B)
    std_B = SCALES[scale](rewards_B, group_B, mask_B)
    divisor_B = torch.where(std_B > 0, std_B + eps, 1.0)
    return torch.where(mask_B, centred_B / divisor_B, 0.0)


def group_mean(rewards_B: Tensor, group_B: Tensor, mask_B: Tensor) -> Tensor:
    """Mean of the row's group. Summed from the group's lowest reward up, so the mean of equal rewards is exact."""
    lowest_B = _lowest(rewards_B, group_B, mask_B)
    return lowest_B + _sums(rewards_B - lowest_B, group_B, mask_B) / _counts(group_B, mask_B)


def leave_one_out(rewards_B: Tensor, group_B: Tensor, mask_B: Tensor) -> Tensor:
    """Mean of the others in the group: reward - (reward - mean) * n / (n - 1). The row itself when it is alone."""
    count_B = _counts(group_B, mask_B)
    centred_B = rewards_B - group_mean(rewards_B, group_B, mask_B)
    return rewards_B - centred_B * count_B / (count_B - 1).clamp(min=1)


def group_std(rewards_B: Tensor, group_B: Tensor, mask_B: Tensor) -> Tensor:
    """Standard deviation of the row's group with n - 1 below, as `torch.std` has it. 0 for a single row."""
    centred_B = rewards_B - group_mean(rewards_B, group_B, mask_B)
    return (_sums(centred_B**2, group_B, mask_B) / (_counts(group_B, mask_B) - 1).clamp(min=1)).sqrt()


def over_batch(statistic: RowStatistic) -> RowStatistic:
    """The same statistic with the whole batch as one group."""
    return lambda rewards_B, group_B, mask_B: statistic(rewards_B, torch.zeros_like(group_B), mask_B)


def nothing(rewards_B: Tensor, group_B: Tensor, mask_B: Tensor) -> Tensor:
    """0: subtracted it changes nothing, and as a spread of 0 it divides by 1."""
    return torch.zeros_like(rewards_B)


BASELINES: dict[str, RowStatistic] = {
    "group": group_mean,
    "batch": over_batch(group_mean),
    "leave_one_out": leave_one_out,
    "none": nothing,
}

SCALES: dict[str, RowStatistic] = {
    "group": group_std,
    "batch": over_batch(group_std),
    "none": nothing,
}


def _sums(values_B: Tensor, group_B: Tensor, mask_B: Tensor) -> Tensor:
    """The sum over the counted rows of its group, at every row."""
    return torch.bincount(group_B, weights=torch.where(mask_B, values_B, 0.0))[group_B]


def _counts(group_B: Tensor, mask_B: Tensor) -> Tensor:
    """How many rows of its group count, at every row; 1 where none does, as nothing is read there."""
    return _sums(torch.ones_like(group_B, dtype=torch.float64), group_B, mask_B).clamp(min=1)


def _lowest(rewards_B: Tensor, group_B: Tensor, mask_B: Tensor) -> Tensor:
    """The lowest counted reward of its group, at every row; infinite where none counts, as nothing is read there."""
    num_groups = int(group_B.max()) + 1 if group_B.numel() else 0
    counted_B = torch.where(mask_B, rewards_B, torch.inf)
    return rewards_B.new_full((num_groups,), torch.inf).scatter_reduce(0, group_B, counted_B, "amin")[group_B]
