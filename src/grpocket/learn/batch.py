"""Groups -> packed batches: the one place where tokens are shifted, packed and masked.

What all prompts begin with stands once, at the head; a prompt stands once before all its completions.
Where a group does not fit the token budget it is cut between rows, and its prompt stands once before
each part; a row is never cut. Nothing here changes the gradient, since a token's weight is counted over
the whole step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import torch

from ..algo.losses import Totals
from ..model.attention import shared_prefix
from ..records import Batch, Group, Rollout, Segment


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of one group that train; they share its prompt."""

    rollouts: tuple[Rollout, ...]
    advantages: tuple[float, ...]

    @property
    def tokens(self) -> int:
        """Length in a packed stream."""
        return len(self.rollouts[0].prompt_ids) + sum(stream_length(r) for r in self.rollouts)


def stream_length(rollout: Rollout) -> int:
    """Tokens of a completion that are fed to the network: all but the last, which predicts nothing."""
    return len(rollout.completion.token_ids) - 1


def count(groups: Sequence[Group], max_new_tokens: int) -> Totals:
    """The denominators of the whole step: trained rows and their tokens, groups without signal included."""
    lengths = [
        len(rollout.completion.token_ids)
        for group in groups
        for rollout, trained in zip(group.rollouts, group.trained, strict=True)
        if trained
    ]
    return Totals(responses=len(lengths), tokens=sum(lengths), max_new_tokens=max_new_tokens)


def micro_batches(groups: Sequence[Group], token_budget: int) -> Iterator[list[Part]]:
    """Parts of groups that fit `token_budget` together, in order; a single row may exceed it alone."""
    held: list[Part] = []
    for part in chain.from_iterable(split(group, token_budget) for group in groups):
        if held and sum(p.tokens for p in held) + part.tokens > token_budget:
            yield held
            held = []
        held.append(part)
    if held:
        yield held


def split(group: Group, token_budget: int) -> Iterator[Part]:
    """The group's rows that train, in as few parts as the budget allows."""
    rows = zip(group.rollouts, group.advantages, group.trained, strict=True)
    held: list[tuple[Rollout, float]] = []
    tokens = prompt = len(group.rollouts[0].prompt_ids)
    for rollout, advantage in ((r, a) for r, a, trained in rows if trained):
        length = stream_length(rollout)
        if held and tokens + length > token_budget:
            yield Part(*zip(*held, strict=True))
            held, tokens = [], prompt
        held.append((rollout, advantage))
        tokens += length
    if held:
        yield Part(*zip(*held, strict=True))


def pack(parts: Sequence[Part], device: torch.device | str = "cpu") -> Batch:
    """One stream out of `parts`."""
    prompts = [part.rollouts[0].prompt_ids for part in parts]
    prefix = shared_prefix(prompts)
    ids, positions = list(prefix), list(range(len(prefix)))
    source: list[int] = []
    segments: list[Segment] = []
    for part, prompt in zip(parts, prompts, strict=True):
        start, end = len(ids), len(ids) + len(prompt) - len(prefix)
        ids += prompt[len(prefix) :]
        positions += range(len(prefix), len(prompt))
        for rollout in part.rollouts:
            fed = rollout.completion.token_ids[:-1]
            source += [end - 1, *range(len(ids), len(ids) + len(fed))]
            ids += fed
            positions += range(len(prompt), len(prompt) + len(fed))
        segments.append(Segment(start, end - start, tuple(stream_length(r) for r in part.rollouts)))

    rollouts = [rollout for part in parts for rollout in part.rollouts]
    lengths = torch.tensor([len(rollout.completion.token_ids) for rollout in rollouts])
    advantages = torch.tensor([advantage for part in parts for advantage in part.advantages])
    return Batch(
        ids=torch.tensor([ids], device=device),
        positions=torch.tensor([positions], device=device),
        prefix=len(prefix),
        segments=tuple(segments),
        source_T=torch.tensor(source, device=device),
        target_T=torch.tensor([t for r in rollouts for t in r.completion.token_ids], device=device),
        row_T=torch.arange(len(rollouts)).repeat_interleave(lengths).to(device),
        old_logprobs_T=torch.tensor([x for r in rollouts for x in r.completion.logprobs], device=device),
        advantages_T=advantages.repeat_interleave(lengths).to(device),
        mask_T=torch.ones(int(lengths.sum()), dtype=torch.bool, device=device),
    )
