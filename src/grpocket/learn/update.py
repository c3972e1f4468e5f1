"""One optimizer step: every group that can teach something, in micro-batches, then one move of the weights.

The gradient is that of the whole step however it is cut up, because the denominators are counted before
the first micro-batch. Groups whose advantages are all exactly 0 are counted but not run: their gradient
is exactly zero. The optimizer steps all the same, so skipping them changes nothing but the time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from ..algo.losses import LOSSES, RATIOS, Clip, Totals, clip_stats
from ..config import Config
from ..records import Batch, Group
from .batch import count, micro_batches, pack
from .policy import Policy


@dataclass
class Sums:
    """What the update measured, as sums over tokens until they are printed."""

    loss: float = 0.0
    tokens: float = 0.0
    entropy: float = 0.0
    ratio: float = 0.0
    clipped_low: float = 0.0
    clipped_high: float = 0.0
    mismatch: float = 0.0
    mismatch_max: float = 0.0

    def add(self, other: Sums) -> None:
        """Add the figures of another micro-batch."""
        for f in fields(self):
            mine, theirs = getattr(self, f.name), getattr(other, f.name)
            setattr(self, f.name, max(mine, theirs) if f.name == "mismatch_max" else mine + theirs)

    def metrics(self) -> dict[str, float]:
        """Means over the tokens that were run, under the names dashboards know; only the loss when none was."""
        found = {"loss": self.loss}
        if self.tokens:
            found |= {
                "entropy": self.entropy / self.tokens,
                "ratio": self.ratio / self.tokens,
                "clip_ratio/low_mean": self.clipped_low / self.tokens,
                "clip_ratio/high_mean": self.clipped_high / self.tokens,
                "clip_ratio/region_mean": (self.clipped_low + self.clipped_high) / self.tokens,
                "sampling/sampling_logp_difference/mean": self.mismatch / self.tokens,
                "sampling/sampling_logp_difference/max": self.mismatch_max,
            }
        return found


def optimizer_step(policy: Policy, groups: Sequence[Group], config: Config, step: int) -> dict[str, float]:
    """Learn from `groups`; the loss, the gradient's norm and what else is to be known of the step."""
    totals = count(groups, config.max_new_tokens)
    sums = Sums()
    with policy.network.hooked():
        for parts in micro_batches([group for group in groups if group.is_live], config.token_budget):
            sums.add(accumulate(policy, pack(parts, policy.network.device), totals, config))
    return sums.metrics() | move(policy, config, step)


def accumulate(policy: Policy, batch: Batch, totals: Totals, config: Config) -> Sums:
    """Add one micro-batch's share of the step's gradient."""
    logprobs_T, entropy_T = policy.logprobs(batch)
    clip = Clip(*config.clip_range)
    old, advantages, mask, row = batch.old_logprobs_T, batch.advantages_T, batch.mask_T, batch.row_T
    loss = LOSSES["grpo"](logprobs_T, old, advantages, mask, row, totals, clip).sum()
    loss.backward()
    return measure(batch, logprobs_T.detach(), entropy_T, loss.item(), clip)


def measure(batch: Batch, logprobs_T: Tensor, entropy_T: Tensor, loss: float, clip: Clip) -> Sums:
    """The figures of one micro-batch."""
    mask = batch.mask_T
    ratio_T = RATIOS["grpo"](logprobs_T, batch.old_logprobs_T, mask, batch.row_T)
    stats = clip_stats(ratio_T, batch.advantages_T, mask, clip)
    difference_T = (logprobs_T - batch.old_logprobs_T).abs()[mask]
    return Sums(
        loss=loss,
        tokens=stats.tokens.item(),
        entropy=entropy_T[mask].sum().item(),
        ratio=stats.ratio.item(),
        clipped_low=stats.low.item(),
        clipped_high=stats.high.item(),
        mismatch=difference_T.sum().item(),
        mismatch_max=difference_T.max().item() if len(difference_T) else 0.0,
    )


def move(policy: Policy, config: Config, step: int) -> dict[str, float]:
    """Clip the gradient, step the optimizer at this step's learning rate, and forget the gradient."""
    parameters = policy.parameters()
    for parameter in parameters:
        if parameter.grad is None:  # nothing had signal: the optimizer's momentum still counts the step
            parameter.grad = torch.zeros_like(parameter)
    norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
    rate = learning_rate(config, step)
    for group in policy.optimizer.param_groups:
        group["lr"] = rate
    policy.optimizer.step()
    policy.optimizer.zero_grad(set_to_none=True)
    return {"grad_norm": norm.item(), "learning_rate": rate}


def learning_rate(config: Config, step: int) -> float:
    """Rises over `warmup_steps`, then stays; `step` counts from 0."""
    return config.learning_rate * min(1.0, (step + 1) / (config.warmup_steps + 1))
