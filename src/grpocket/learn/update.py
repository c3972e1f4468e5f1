"""What a step learns from its groups: one optimizer step or several, each in micro-batches.

The gradient is that of a whole optimizer step however it is cut up, because the denominators are counted
before its first micro-batch. Groups whose gradient is exactly zero (all advantages 0, no KL and no entropy
in the loss) are counted but not run. The optimizer steps all the same, so skipping them changes nothing
but the time.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from .. import memory
from ..algo.correction import importance_weights
from ..algo.kl import KL
from ..algo.losses import LOSSES, RATIOS, WEIGHTS, Clip, Totals, masked
from ..config import Config
from ..records import Batch, Group, StoppedError
from .batch import Budget, count, halves, micro_batches, pack
from .measure import Mismatch, Sums, measure
from .policy import Policy
from .schedule import learning_rate

Say = Callable[[str], None]
"""Shows a line."""

FAILURES = 3
"""Optimizer steps in a row that may come to nothing before the run is stopped."""


def learn(policy: Policy, groups: Sequence[Group], config: Config, step: int, say: Say = print) -> dict[str, float]:
    """Learn from `groups` in `num_updates` passes; what is to be known of it, by name.

    Raises:
        StoppedError: the memory does not do for a single answer, or three optimizer steps in a row were not finite.
    """
    minibatches = [groups[start :: config.num_minibatches] for start in range(config.num_minibatches)]
    sums, mismatch, norms = Sums(), Mismatch(), []
    prepared = [prepare(policy, minibatch, config, mismatch) for minibatch in minibatches]
    rate = learning_rate(config, step)
    for _ in range(config.num_updates):
        for minibatch, batches in zip(minibatches, prepared, strict=True):
            totals = count(minibatch, config.max_new_tokens)
            with policy.network.ready():
                share, compared = whole_gradient(policy, batches, totals, config, say)
            if not norms and not config.correction:
                mismatch = compared
            sums.add(share)
            norms.append(move(policy, config, rate))
            guard(policy, batches, norms[-1], say)
    applied = [norm for norm in norms if math.isfinite(norm)]
    found = {"loss": sums.loss / len(norms), "learning_rate": rate, "skipped_steps": float(len(norms) - len(applied))}
    found["grad_norm"] = sum(applied) / len(applied) if applied else math.nan
    if config.kl_coef and config.kl_in == "reward":
        found["kl"] = kl_of_rewards(groups, config)
    return found | sums.metrics(config) | mismatch.metrics()


def kl_of_rewards(groups: Sequence[Group], config: Config) -> float:
    """The mean KL a token that the rewards were charged for."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    charged = sum(-rollout.reward.penalty for rollout in rollouts) / config.kl_coef
    return charged / sum(len(rollout.completion.token_ids) for rollout in rollouts)


def prepare(
    policy: Policy, groups: Sequence[Group], config: Config, mismatch: Mismatch, budget: Budget | None = None
) -> list[Batch]:
    """The groups in packed batches of the policy's budget or another, with what stays fixed during the passes."""
    everything = bool(config.entropy_coef) or (bool(config.kl_coef) and config.kl_in == "loss")
    chosen = [group for group in groups if group.is_live or everything]
    batches = [pack(parts, policy.network.device) for parts in micro_batches(chosen, budget or policy.budget)]
    if config.correction:
        found = zip(batches, frozen_logprobs(policy, batches), strict=True)
        batches = [corrected(batch, trainer_T, config, mismatch) for batch, trainer_T in found]
    if config.kl_coef and config.kl_in == "loss":
        references = frozen_logprobs(policy, batches, reference=True)
        batches = [replace(b, reference_logprobs_T=lp) for b, lp in zip(batches, references, strict=True)]
    return batches


@torch.no_grad()
def frozen_logprobs(policy: Policy, batches: Sequence[Batch], reference: bool = False) -> list[Tensor]:
    """[T] of each batch as the weights are now, or with the adapter off; no gradient."""
    with policy.network.untrained() if reference else nullcontext(), policy.network.ready():
        return [policy.logprobs(batch)[0] for batch in batches]


def corrected(batch: Batch, trainer_T: Tensor, config: Config, mismatch: Mismatch) -> Batch:
    """The batch with the trainer's own old log-probs, and weights for what the sampler did otherwise."""
    mismatch.add(trainer_T, batch.old_logprobs_T)
    weights = importance_weights(trainer_T, batch.old_logprobs_T, batch.mask_T, config.correction_cap)
    return replace(batch, old_logprobs_T=trainer_T, correction_T=weights)


def whole_gradient(
    policy: Policy, batches: list[Batch], totals: Totals, config: Config, say: Say = print
) -> tuple[Sums, Mismatch]:
    """Form the gradient of one optimizer step, in `batches`, and what was measured on the way.

    Where the memory runs out, everything is begun again with `batches` cut in half: the gradient is the same.

    Raises:
        StoppedError: a single answer is too large.
    """
    while True:
        sums, mismatch = Sums(), Mismatch()
        try:
            for batch in batches:
                sums.add(accumulate(policy, batch, totals, config, mismatch))
            return sums, mismatch
        except Exception as error:
            if not memory.is_shortage(error):
                raise
        policy.optimizer.zero_grad(set_to_none=True)  # what was added up so far
        memory.release()
        shrink(policy, batches, say)


def shrink(policy: Policy, batches: list[Batch], say: Say) -> None:
    """Cut every batch in half, and the budget of later ones."""
    tokens = max(batch.ids.shape[1] for batch in batches)
    smaller = [half for batch in batches for half in halves(batch)]
    if len(smaller) == len(batches):
        raise StoppedError(
            f"out of memory in the update of a single answer, {tokens} tokens with its prompt; "
            "lower max_new_tokens, set gradient_checkpointing=True, or take a smaller model"
        )
    policy.budget = policy.budget.below(tokens)
    batches[:] = smaller
    say(f"out of memory with {tokens} tokens in a micro-batch; going on with at most {policy.budget.limit}")


def accumulate(policy: Policy, batch: Batch, totals: Totals, config: Config, mismatch: Mismatch | None = None) -> Sums:
    """Add one micro-batch's share of the step's gradient; `mismatch` compares the log-probs with the recorded ones."""
    logprobs_T, entropy_T = policy.logprobs(batch, entropy_gradient=bool(config.entropy_coef))
    old, advantages, mask, row = batch.old_logprobs_T, batch.advantages_T, batch.mask_T, batch.row_T
    if mismatch is not None:
        mismatch.add(logprobs_T.detach(), old)
    clip = Clip(*config.clip_range, config.delta, config.ratio_cap)
    loss_T = LOSSES[config.loss](logprobs_T, old, advantages, mask, row, totals, clip)
    if batch.correction_T is not None:
        loss_T = loss_T * batch.correction_T
    weights_T = WEIGHTS[config.loss](mask, row, totals)
    kl_T = None
    if batch.reference_logprobs_T is not None:
        kl_T = KL[config.kl](logprobs_T, batch.reference_logprobs_T, mask)
        loss_T = loss_T + config.kl_coef * weights_T * kl_T
    if config.entropy_coef:
        loss_T = loss_T - config.entropy_coef * weights_T * masked(entropy_T, mask)
    loss = loss_T.sum()
    loss.backward()
    ratio_T = RATIOS[config.loss](logprobs_T.detach(), old, mask, row)
    return measure(batch, loss.item(), ratio_T, entropy_T, kl_T, clip)


def move(policy: Policy, config: Config, rate: float) -> float:
    """Clip the gradient, step the optimizer, forget the gradient; its norm before clipping.

    A gradient that is not finite is not applied: it would make every weight NaN.
    """
    parameters = policy.parameters()
    for parameter in parameters:
        if parameter.grad is None:  # nothing had signal: the optimizer's momentum still counts the step
            parameter.grad = torch.zeros_like(parameter)
    norm = torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
    for group in policy.optimizer.param_groups:
        group["lr"] = rate
    if norm.isfinite():
        policy.optimizer.step()
        policy.moves += 1
    policy.optimizer.zero_grad(set_to_none=True)
    return norm.item()


def guard(policy: Policy, batches: Sequence[Batch], norm: float, say: Say) -> None:
    """Count optimizer steps that were not applied because their gradient was not finite.

    Raises:
        StoppedError: three in a row.
    """
    if math.isfinite(norm):
        policy.failures = 0
        return
    policy.failures += 1
    problems = ", ".join(dict.fromkeys(part.problem for batch in batches for part in batch.parts))
    say(f"warning: the gradient is not finite and was not applied; the problems were {problems}")
    if policy.failures == FAILURES:
        raise StoppedError(
            f"{FAILURES} optimizer steps in a row had a gradient that is not finite, last on {problems}; the weights "
            "are those of before; lower learning_rate, or use dtype=float32, and resume from the last checkpoint"
        )
