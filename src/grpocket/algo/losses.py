"""The loss family: sibling functions of one signature, in one table.

Every loss returns one contribution a token, already weighted, whose sum over all micro-batches and ranks
of the optimizer step *is* the loss. The denominators (`Totals`) are counted over the whole step before
its first micro-batch, so how the step is cut up cannot change the gradient.

Left out: KL and entropy (terms of their own, weighted with `WEIGHTS[name]`), advantages, logits, configuration.

Shapes: T tokens of a micro-batch, B its rows (responses). A row is never split over micro-batches.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

LOG_RATIO_LIMIT = 20.0
"""Log-ratios are held within +-20 (a ratio of 2e-9 or 5e8) before `exp`, which would overflow float32 at 89 and
turn a gradient of exactly 0 into 0 * inf. A token held there passes no gradient; nothing nearer 1 is changed."""


class Totals(NamedTuple):
    """What a step is divided by: counted over all its micro-batches and ranks, masked rows left out.

    >>> Totals(responses=32, tokens=1210, max_new_tokens=48)
    Totals(responses=32, tokens=1210, max_new_tokens=48)
    """

    responses: float
    """R, rows with a place in the loss. Rows of groups without signal are counted: their gradient is 0, not absent."""
    tokens: float
    """N, trained tokens of those rows."""
    max_new_tokens: int
    """The longest a response may be."""


class Clip(NamedTuple):
    """How far a ratio may move before it stops being rewarded.

    >>> Clip(low=0.2, high=0.28)  # the region of DAPO: 0.8 to 1.28
    Clip(low=0.2, high=0.28, delta=None, ratio_cap=5.0)
    """

    low: float = 0.2
    high: float = 0.2
    delta: float | None = None
    """Upper bound of the ratio where the advantage is negative, above 1 + high. INTELLECT-2, arXiv 2505.07291: 4."""
    ratio_cap: float = 5.0
    """Upper bound of the detached ratio in `cispo`, used by no other loss. MiniMax-M1 does not publish its value;
    5 lies within the range of ScaleRL (arXiv 2510.13786)."""


LossFunction = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Totals, Clip], Tensor]
"""(logprobs_T, old_logprobs_T, advantages_T, mask_T, row_T, totals, clip) -> contributions_T."""


# Weights of a token: 0 where it is masked, and nothing is divided by zero when a whole step is.


def response_mean(mask_T: Tensor, row_T: Tensor, totals: Totals) -> Tensor:
    """1 / (R * len_r): the mean over a response's tokens, then over responses. len_r counts trained tokens."""
    return mask_T / (max(totals.responses, 1) * row_lengths(mask_T, row_T))


def token_mean(mask_T: Tensor, row_T: Tensor, totals: Totals) -> Tensor:
    """1 / N: every token of the step weighs the same, so a long response weighs more than a short one."""
    return mask_T / max(totals.tokens, 1)


def budget_mean(mask_T: Tensor, row_T: Tensor, totals: Totals) -> Tensor:
    """1 / (R * max_new_tokens): a constant, so that the weight of a token does not depend on any length."""
    return mask_T / (max(totals.responses, 1) * totals.max_new_tokens)


# Ratios: 1 where a token is masked, whatever its log-probs hold.


def token_ratio(logprobs_T: Tensor, old_logprobs_T: Tensor, mask_T: Tensor, row_T: Tensor) -> Tensor:
    """exp(logp_t - old_t) of each token."""
    return _exp(_log_ratio(logprobs_T, old_logprobs_T, mask_T))


def sequence_ratio(logprobs_T: Tensor, old_logprobs_T: Tensor, mask_T: Tensor, row_T: Tensor) -> Tensor:
    """exp(mean over its row of logp_t - old_t), the same for every token of a row."""
    log_ratio_T = _log_ratio(logprobs_T, old_logprobs_T, mask_T)
    return _exp(row_sums(log_ratio_T, row_T) / row_lengths(mask_T, row_T))


# The losses.


def grpo(
    logprobs_T: Tensor,
    old_logprobs_T: Tensor,
    advantages_T: Tensor,
    mask_T: Tensor,
    row_T: Tensor,
    totals: Totals,
    clip: Clip,
) -> Tensor:
    """GRPO: -(1/R) sum_r (1/len_r) sum_t min(ratio_t * A_r, clip(ratio_t, 1 - low, 1 + high) * A_r).

    DeepSeekMath, arXiv 2402.03300: advantages over group mean and std, KL k3 in the loss with coefficient 0.04. It does
    not state its clip; 0.2 is that of PPO, arXiv 1707.06347.
    """
    ratio_T = token_ratio(logprobs_T, old_logprobs_T, mask_T, row_T)
    return _loss(surrogate(ratio_T, advantages_T, clip), response_mean(mask_T, row_T, totals), mask_T)


def dapo(
    logprobs_T: Tensor,
    old_logprobs_T: Tensor,
    advantages_T: Tensor,
    mask_T: Tensor,
    row_T: Tensor,
    totals: Totals,
    clip: Clip,
) -> Tensor:
    """DAPO: -(1/N) sum_r sum_t min(ratio_t * A_r, clip(ratio_t, 1 - low, 1 + high) * A_r).

    DAPO, arXiv 2503.14476: low 0.2, high 0.28, no KL, groups without signal replaced, soft over-long penalty.
    """
    ratio_T = token_ratio(logprobs_T, old_logprobs_T, mask_T, row_T)
    return _loss(surrogate(ratio_T, advantages_T, clip), token_mean(mask_T, row_T, totals), mask_T)


def dr_grpo(
    logprobs_T: Tensor,
    old_logprobs_T: Tensor,
    advantages_T: Tensor,
    mask_T: Tensor,
    row_T: Tensor,
    totals: Totals,
    clip: Clip,
) -> Tensor:
    """Dr. GRPO: -(1/(R * max_new_tokens)) sum_r sum_t min(ratio_t * A_r, clip(ratio_t, 1 - low, 1 + high) * A_r).

    Understanding R1-Zero-Like Training, arXiv 2503.20783: advantages without the division by std, no KL, clip 0.2.
    """
    ratio_T = token_ratio(logprobs_T, old_logprobs_T, mask_T, row_T)
    return _loss(surrogate(ratio_T, advantages_T, clip), budget_mean(mask_T, row_T, totals), mask_T)


def gspo(
    logprobs_T: Tensor,
    old_logprobs_T: Tensor,
    advantages_T: Tensor,
    mask_T: Tensor,
    row_T: Tensor,
    totals: Totals,
    clip: Clip,
) -> Tensor:
    """GSPO: -(1/R) sum_r min(s_r * A_r, clip(s_r, 1 - low, 1 + high) * A_r), s_r = exp(mean_t(logp_t - old_t)).

    Group Sequence Policy Optimization, arXiv 2507.18071: low 3e-4, high 4e-4, since s_r moves far less than a token's
    ratio. A row's term is spread evenly over its tokens; the sum is what the paper has.
    """
    ratio_T = sequence_ratio(logprobs_T, old_logprobs_T, mask_T, row_T)
    return _loss(surrogate(ratio_T, advantages_T, clip), response_mean(mask_T, row_T, totals), mask_T)


def cispo(
    logprobs_T: Tensor,
    old_logprobs_T: Tensor,
    advantages_T: Tensor,
    mask_T: Tensor,
    row_T: Tensor,
    totals: Totals,
    clip: Clip,
) -> Tensor:
    """CISPO: -(1/N) sum_r sum_t stop_gradient(min(ratio_t, ratio_cap)) * A_r * logp_t.

    MiniMax-M1, arXiv 2506.13585: no lower bound, group advantages, no KL. Every token keeps a gradient, as the
    ratio is a weight here and not what is differentiated. low, high and delta have no part in it.
    """
    ratio_T = token_ratio(logprobs_T, old_logprobs_T, mask_T, row_T).detach().clamp(max=clip.ratio_cap)
    objective_T = ratio_T * advantages_T * masked(logprobs_T, mask_T)
    return _loss(objective_T, token_mean(mask_T, row_T, totals), mask_T)


def pg(
    logprobs_T: Tensor,
    old_logprobs_T: Tensor,
    advantages_T: Tensor,
    mask_T: Tensor,
    row_T: Tensor,
    totals: Totals,
    clip: Clip,
) -> Tensor:
    """REINFORCE: -(1/(R * max_new_tokens)) sum_r sum_t A_r * logp_t.

    Williams, 1992; for language models arXiv 2402.14740, with leave-one-out advantages (RLOO). On fresh rollouts
    its expected gradient is that of the expected reward, times 1 / max_new_tokens. The constant keeps its size near
    that of the other losses. There is no ratio: with several updates a step it is biased, so use another loss there.
    """
    return _loss(advantages_T * masked(logprobs_T, mask_T), budget_mean(mask_T, row_T, totals), mask_T)


LOSSES: dict[str, LossFunction] = {
    "grpo": grpo,
    "dapo": dapo,
    "dr_grpo": dr_grpo,
    "gspo": gspo,
    "cispo": cispo,
    "pg": pg,
}

WEIGHTS: dict[str, Callable[[Tensor, Tensor, Totals], Tensor]] = {
    "grpo": response_mean,
    "dapo": token_mean,
    "dr_grpo": budget_mean,
    "gspo": response_mean,
    "cispo": token_mean,
    "pg": budget_mean,
}
"""The weights (mask_T, row_T, totals) -> [T] of each loss, for terms that are added to it: KL, entropy."""

RATIOS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]] = dict.fromkeys(LOSSES, token_ratio) | {
    "gspo": sequence_ratio
}
"""The ratio (logprobs_T, old_logprobs_T, mask_T, row_T) -> [T] that each loss looks at, for `clip_stats`."""


class ClipStats(NamedTuple):
    """Sums over tokens, to be added over micro-batches and ranks and divided by `tokens` when printed.

    With a sequence ratio every token counts the ratio of its row, so a long row counts more.
    """

    ratio: Tensor
    """Sum of ratios; divided: ratio/mean."""
    low: Tensor
    """Tokens without gradient since ratio < 1 - low and A < 0; divided: clip_ratio/low_mean."""
    high: Tensor
    """Tokens without gradient since ratio > 1 + high and A > 0; divided: clip_ratio/high_mean."""
    region: Tensor
    """Either of both; divided: clip_ratio/region_mean."""
    capped: Tensor
    """Tokens with ratio > ratio_cap and A > 0; divided: cispo_clip_ratio. Read this one for `cispo`, which keeps
    their gradient, and the three above for the others; `pg` has no clip at all."""
    tokens: Tensor
    """Trained tokens."""


def clip_stats(ratio_T: Tensor, advantages_T: Tensor, mask_T: Tensor, clip: Clip) -> ClipStats:
    """Counts what the clip cuts off; `ratio_T` comes from `RATIOS[loss]`. No gradient flows through it."""
    ratio_T = ratio_T.detach()
    low_T = mask_T & (ratio_T < 1 - clip.low) & (advantages_T < 0)
    high_T = mask_T & (ratio_T > 1 + clip.high) & (advantages_T > 0)
    capped_T = mask_T & (ratio_T > clip.ratio_cap) & (advantages_T > 0)
    ratio = masked(ratio_T, mask_T).sum()
    return ClipStats(ratio, low_T.sum(), high_T.sum(), (low_T | high_T).sum(), capped_T.sum(), mask_T.sum())


# What they share.


def surrogate(ratio_T: Tensor, advantages_T: Tensor, clip: Clip) -> Tensor:
    """min(ratio * A, clip(ratio, 1 - low, 1 + high) * A), the first ratio being min(ratio, delta) when delta is set.

    The gradient is exactly 0 for ratio > 1 + high with A > 0, for ratio < 1 - low with A < 0, and for ratio > delta.
    """
    bounded_T = ratio_T if clip.delta is None else ratio_T.clamp(max=clip.delta)
    clipped_T = ratio_T.clamp(1 - clip.low, 1 + clip.high)
    return torch.minimum(bounded_T * advantages_T, clipped_T * advantages_T)


def masked(values_T: Tensor, mask_T: Tensor) -> Tensor:
    """The values, 0 where masked. It comes before exp and products: 0 times an inf would leave NaN in the gradient."""
    return torch.where(mask_T, values_T, torch.zeros_like(values_T))


def row_sums(values_T: Tensor, row_T: Tensor) -> Tensor:
    """The sum over its row, at every token [T]. The tokens of a row may lie anywhere."""
    num_rows = int(row_T.max()) + 1 if row_T.numel() else 0
    return values_T.new_zeros(num_rows).index_add(0, row_T, values_T)[row_T]


def row_lengths(mask_T: Tensor, row_T: Tensor) -> Tensor:
    """How many trained tokens its row has, at every token [T]; 1 where it has none, as nothing is read there."""
    return row_sums(mask_T.long(), row_T).clamp(min=1)


def _log_ratio(logprobs_T: Tensor, old_logprobs_T: Tensor, mask_T: Tensor) -> Tensor:
    return masked(logprobs_T - old_logprobs_T.detach(), mask_T)


def _exp(log_ratio_T: Tensor) -> Tensor:
    return log_ratio_T.clamp(-LOG_RATIO_LIMIT, LOG_RATIO_LIMIT).exp()


def _loss(objective_T: Tensor, weight_T: Tensor, mask_T: Tensor) -> Tensor:
    """What is maximised, turned into what is minimised; masked tokens are exactly 0."""
    return masked(-objective_T * weight_T, mask_T)
