"""Completions -> groups: what each answer earned, and how much better that was than its group.

What the loss needs on top of a reward (a penalty for length, a penalty for leaving the reference) is
taken off here, as one more part, so that it is seen wherever rewards are shown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from ..algo.advantages import advantages
from ..algo.kl import KL
from ..algo.length import overlong_penalty
from ..config import Config
from ..records import Completion, Group, Problem, Prompt, Reward, Rollout, Sample, StoppedError
from .batch import pack, split
from .policy import Policy
from .update import frozen_logprobs

Score = Callable[[Sequence[Sample]], Sequence[Reward]]
"""What each answer earns; all answers of a rollout at once, those to one problem together."""


def score(
    problems: Sequence[Problem],
    prompts: Sequence[Prompt],
    completions: Sequence[Sequence[Completion]],
    decode: Callable[[Sequence[int]], str],
    reward: Score,
) -> list[tuple[Rollout, ...]]:
    """Rollouts [P][G]: the answers as text, with their rewards."""
    samples = [
        Sample(problem, decode(completion.token_ids), completion.token_ids, step=prompt.key[1])
        for problem, prompt, group in zip(problems, prompts, completions, strict=True)
        for completion in group
    ]
    rows = iter(list(zip(samples, reward(samples), strict=True)))

    def rollout(prompt: Prompt, completion: Completion) -> Rollout:
        sample, earned = next(rows)
        return Rollout(prompt.token_ids, completion, sample.text, earned)

    return [
        tuple(rollout(prompt, completion) for completion in group)
        for prompt, group in zip(prompts, completions, strict=True)
    ]


def stop_if_none_was_graded(groups: Sequence[Group]) -> None:
    """Stop where a reward failed on every answer of a step: it would fail on the next ones as well.

    Raises:
        StoppedError: with the function's name and the traceback of its first fault.
    """
    faults = [[(n, f) for n, f in r.reward.faults.items() if f] for g in groups for r in g.rollouts]
    if faults and all(faults):
        name, fault = faults[0][0]
        raise StoppedError(
            f"every answer of the step failed to be graded; reward {name}: {fault.text}\n{fault.traceback}".rstrip()
        )


def compare(problems: Sequence[Problem], rollouts: Sequence[Sequence[Rollout]], config: Config) -> list[Group]:
    """Groups with their advantages.

    A row without a reward neither trains nor counts in its group. A truncated row that `mask_truncated`
    leaves out of the loss still counts in its group: its reward is a fair sample of the policy's.
    """
    rewards = [r.reward for group in rollouts for r in group]
    counted_B = torch.tensor([reward.value is not None for reward in rewards], dtype=torch.bool)
    rewards_B = torch.tensor([(reward.value or 0.0) + reward.penalty for reward in rewards], dtype=torch.float64)
    group_B = torch.tensor([index for index, group in enumerate(rollouts) for _ in group], dtype=torch.int64)
    found = advantages(rewards_B, group_B, counted_B, config.advantage_baseline, config.advantage_scale)
    of_row = iter(found.tolist())
    return [
        Group(problem, tuple(group), tuple(next(of_row) for _ in group), tuple(trains(r, config) for r in group))
        for problem, group in zip(problems, rollouts, strict=True)
    ]


def trains(rollout: Rollout, config: Config) -> bool:
    """Whether a row takes part in the loss and its denominators."""
    cut = config.mask_truncated and rollout.completion.finish_reason == "length"
    return rollout.reward.value is not None and not cut


def penalise_length(rollouts: Sequence[Rollout], config: Config) -> tuple[Rollout, ...]:
    """DAPO's soft over-long penalty as one more part of the reward; nothing without a buffer."""
    if not config.overlong_buffer:
        return tuple(rollouts)
    lengths = (len(r.completion.token_ids) for r in rollouts)
    penalties = [overlong_penalty(n, config.max_new_tokens, config.overlong_buffer) for n in lengths]
    return tuple(with_part(r, "overlong", p) for r, p in zip(rollouts, penalties, strict=True))


def penalise_kl(policy: Policy, groups: Sequence[Group], config: Config) -> list[tuple[Rollout, ...]]:
    """The rollouts with -kl_coef * KL to the reference, summed over their tokens, as the penalty of their reward.

    Both sides come from the same forward, so the KL of an untrained policy is exactly 0 and not rounding,
    which the division by the group's standard deviation would blow up.
    """
    rewarded = [replace(g, trained=tuple(r.reward.value is not None for r in g.rollouts)) for g in groups]
    batches = [pack([part], policy.network.device) for group in rewarded for part in split(group, policy.budget.limit)]
    policy_T, reference_T = frozen_logprobs(policy, batches), frozen_logprobs(policy, batches, reference=True)
    found: list[float] = []
    for batch, mine, theirs in zip(batches, policy_T, reference_T, strict=True):
        kl_T = KL[config.kl](mine, theirs, batch.mask_T)
        found += torch.bincount(batch.row_T, weights=kl_T).tolist()
    of_row = iter(found)
    return [
        tuple(
            with_penalty(r, -config.kl_coef * next(of_row)) if has else r
            for r, has in zip(g.rollouts, g.trained, strict=True)
        )
        for g in rewarded
    ]


def with_part(rollout: Rollout, name: str, value: float) -> Rollout:
    """The rollout with one more part in its reward."""
    reward = rollout.reward
    if reward.value is None:
        return rollout
    return replace(rollout, reward=replace(reward, value=reward.value + value, parts={**reward.parts, name: value}))


def with_penalty(rollout: Rollout, penalty: float) -> Rollout:
    """The rollout with this penalty in its reward."""
    return replace(rollout, reward=replace(rollout.reward, penalty=penalty))
