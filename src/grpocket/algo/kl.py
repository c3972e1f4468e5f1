"""How far the policy has moved from the reference: k1, k2 and k3 of Schulman, "Approximating KL Divergence", 2020.

Each looks at sampled tokens only. With x = logp - ref and tokens drawn from the policy (the claims end where
the rollouts are those of an older policy), for one token given its prefix:

| | formula | value | as a loss term, its expected gradient is that of |
|---|---|---|---|
| k1 | x | unbiased, of either sign | nothing: exactly 0 |
| k2 | x^2 / 2 | biased, never negative | KL(policy, reference): the one that is meant |
| k3 | exp(-x) + x - 1 | unbiased, never negative | KL(reference, policy): the other direction |

So k1 belongs into the reward (A - coefficient * k1 gives the gradient of KL(policy, reference) by the policy gradient),
k2 into the loss; k3 in the loss is what DeepSeekMath (arXiv 2402.03300) does, and pulls towards covering the reference.

Left out: the influence of a token on the KL of later ones, which a loss term does not see and a reward does.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 20.0
"""k3 holds x within +-20, beyond which exp(-x) drowns or overflows; such a token passes no gradient."""


def k1(logprobs_T: Tensor, reference_logprobs_T: Tensor, mask_T: Tensor) -> Tensor:
    """logp - ref. Value unbiased, of either sign; in a loss its expected gradient is 0."""
    return _log_ratio(logprobs_T, reference_logprobs_T, mask_T)


def k2(logprobs_T: Tensor, reference_logprobs_T: Tensor, mask_T: Tensor) -> Tensor:
    """(logp - ref)^2 / 2. Value biased, never negative; gradient of KL(policy, reference)."""
    return _log_ratio(logprobs_T, reference_logprobs_T, mask_T).square() / 2


def k3(logprobs_T: Tensor, reference_logprobs_T: Tensor, mask_T: Tensor) -> Tensor:
    """exp(ref - logp) - (ref - logp) - 1. Value unbiased, never negative; gradient of KL(reference, policy)."""
    y_T = -_log_ratio(logprobs_T, reference_logprobs_T, mask_T).clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT)
    return torch.expm1(y_T) - y_T  # expm1: near the reference exp(y) - 1 would lose all its digits


KL: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {"k1": k1, "k2": k2, "k3": k3}
"""(logprobs_T, reference_logprobs_T, mask_T) -> nats_T, exactly 0 where masked."""


def _log_ratio(logprobs_T: Tensor, reference_logprobs_T: Tensor, mask_T: Tensor) -> Tensor:
    """logp - ref, 0 where masked: before exp or square, whose derivative at an inf would be NaN. None goes to ref."""
    log_ratio_T = logprobs_T - reference_logprobs_T.detach()
    return torch.where(mask_T, log_ratio_T, torch.zeros_like(log_ratio_T))
