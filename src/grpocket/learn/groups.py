"""Completions -> groups: what each answer earned, and how much better that was than its group."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..algo.advantages import advantages
from ..records import Completion, Group, Problem, Prompt, Reward, Rollout

Score = Callable[[Problem, str], Reward]


def score(
    problems: Sequence[Problem],
    prompts: Sequence[Prompt],
    completions: Sequence[Sequence[Completion]],
    decode: Callable[[Sequence[int]], str],
    reward: Score,
) -> list[tuple[Rollout, ...]]:
    """Rollouts [P][G]: the answers as text, with their rewards."""
    scored = []
    for problem, prompt, samples in zip(problems, prompts, completions, strict=True):
        texts = [decode(completion.token_ids) for completion in samples]
        rewards = [reward(problem, text) for text in texts]
        rows = zip(samples, texts, rewards, strict=True)
        scored.append(tuple(Rollout(prompt.token_ids, *row) for row in rows))
    return scored


def compare(
    problems: Sequence[Problem], rollouts: Sequence[Sequence[Rollout]], baseline: str = "group", scale: str = "group"
) -> list[Group]:
    """Groups with their advantages. A row without a reward neither trains nor counts in its group."""
    values = [r.reward.value for group in rollouts for r in group]
    counted_B = torch.tensor([value is not None for value in values], dtype=torch.bool)
    rewards_B = torch.tensor([value or 0.0 for value in values], dtype=torch.float64)
    group_B = torch.tensor([index for index, group in enumerate(rollouts) for _ in group], dtype=torch.int64)
    of_row = iter(
        zip(advantages(rewards_B, group_B, counted_B, baseline, scale).tolist(), counted_B.tolist(), strict=True)
    )
    groups = []
    for problem, group in zip(problems, rollouts, strict=True):
        own, trained = zip(*(next(of_row) for _ in group), strict=True)
        groups.append(Group(problem, tuple(group), own, trained))
    return groups
