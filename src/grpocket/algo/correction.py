"""Truncated importance sampling: for rollouts of an engine whose log-probs are not quite the trainer's.

Left out: when it is needed. With an exact engine the recorded log-probs are the trainer's, and the weights are 1.
"""

from __future__ import annotations

import torch
from torch import Tensor


def importance_weights(old_logprobs_T: Tensor, sampled_logprobs_T: Tensor, mask_T: Tensor, cap: float) -> Tensor:
    """min(exp(old - sampled), cap) for each token, without gradient; 0 where masked.

    `old_logprobs_T` are the trainer's own before the step, `sampled_logprobs_T` the engine's. The weights multiply a
    loss's contributions, whose ratio then starts from `old_logprobs_T`. They correct the mean up to the cap, which
    bounds the variance (Yao et al., "Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", 2025).
    """
    weights_T = (old_logprobs_T - sampled_logprobs_T).detach().exp().clamp(max=cap)
    return torch.where(mask_T, weights_T, torch.zeros_like(weights_T))
