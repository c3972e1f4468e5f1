"""Groups -> packed batches: the one place where tokens are shifted, packed and masked.

What all prompts begin with stands once, at the head; a prompt stands once before all its completions.
Where a group does not fit the memory it is cut between rows, and its prompt stands once before
each part; a row is never cut. Nothing here changes the gradient, since a token's weight is counted over
the whole step.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain
from math import ceil
from typing import NamedTuple

import torch

from .. import memory
from ..algo.losses import Totals
from ..model.attention import shared_prefix
from ..records import Batch, Group, Part, Rollout, Segment

ENOUGH = {"cpu": 512, "cuda": 8192}
"""Tokens from which on matrix products are as fast as they get."""


class Budget(NamedTuple):
    """How many tokens one micro-batch has."""

    enough: int
    """With more at once the update is larger, and no faster."""
    limit: int
    """More do not fit the memory; a single row may exceed it alone."""

    def below(self, tokens: int) -> Budget:
        """What to try when the memory ran out with so many tokens."""
        limit = max(1, tokens // 2)
        return Budget(min(self.enough, limit), limit)


def count(groups: Sequence[Group], max_new_tokens: int) -> Totals:
    """The denominators of the whole step: trained rows and their tokens, groups without signal included."""
    lengths = [
        len(rollout.completion.token_ids)
        for group in groups
        for rollout, trained in zip(group.rollouts, group.trained, strict=True)
        if trained
    ]
    return Totals(responses=len(lengths), tokens=sum(lengths), max_new_tokens=max_new_tokens)


def micro_batches(groups: Sequence[Group], budget: Budget) -> list[list[Part]]:
    """The groups' trained rows in micro-batches of about equal length, the longest first.

    Longest first, so that memory runs out at once if it does. What all prompts begin with is read once in
    every micro-batch: each has ten times as many tokens, so that this costs a tenth at most.
    """
    parts = sorted(chain.from_iterable(split(g, budget.limit) for g in groups), key=lambda part: -part.tokens)
    if not parts:
        return []
    shared = len(shared_prefix([part.rollouts[0].prompt_ids for part in parts]))

    def size(held: Sequence[Part]) -> int:
        return sum(part.tokens - shared for part in held)

    room = max(1, budget.limit - shared)
    aim = min(room, max(budget.enough, 10 * shared))
    bins: list[list[Part]] = [[] for _ in range(ceil(size(parts) / aim))]
    for part in parts:
        lightest = min(bins, key=size)
        if lightest and size(lightest) + size([part]) > room:
            bins.append(lightest := [])
        lightest.append(part)
    return sorted(filter(None, bins), key=size, reverse=True)


def choose_budget(token_budget: int | None, token_bytes: int, device: str) -> Budget:
    """The budget a user gave, or one that fits a third of the memory there is; `token_bytes` of activations a token."""
    if token_budget is not None:
        return Budget(token_budget, token_budget)
    enough = ENOUGH[device]
    fitting = max(enough, memory.available() // 3 // token_bytes)
    return Budget(enough, 1 << fitting.bit_length() - 1)  # a power of two, which does not change with every program


def split(group: Group, limit: int) -> Iterator[Part]:
    """The group's rows that train, in as few parts as the limit of tokens allows."""
    rows = zip(group.rollouts, group.advantages, group.trained, strict=True)
    held: list[tuple[Rollout, float]] = []
    tokens = prompt = len(group.rollouts[0].prompt_ids)
    for rollout, advantage in ((r, a) for r, a, trained in rows if trained):
        length = len(rollout.completion.token_ids) - 1
        if held and tokens + length > limit:
            yield Part(group.problem.id, *zip(*held, strict=True))
            held, tokens = [], prompt
        held.append((rollout, advantage))
        tokens += length
    if held:
        yield Part(group.problem.id, *zip(*held, strict=True))


FIXED = ("old_logprobs_T", "reference_logprobs_T", "correction_T")
"""What is computed once for a batch, before the first pass over it."""


def halves(batch: Batch) -> list[Batch]:
    """The batch in two, each with half of its rows; one that is a single row as it is."""
    half = sum(len(part.rollouts) for part in batch.parts) // 2
    if half == 0:
        return [batch]
    first, second, seen = [], [], 0
    for part in batch.parts:
        cut = max(0, half - seen)
        first += rows_of(part, slice(0, cut))
        second += rows_of(part, slice(cut, None))
        seen += len(part.rollouts)
    found, start = [], 0
    for packed in (pack(first, batch.ids.device), pack(second, batch.ids.device)):
        own = slice(start, start := start + len(packed.target_T))
        fixed = {name: None if (kept := getattr(batch, name)) is None else kept[own] for name in FIXED}
        found.append(replace(packed, **fixed))
    return found


def rows_of(part: Part, rows: slice) -> list[Part]:
    """These rows of a part; nothing when there are none."""
    rollouts, advantages = part.rollouts[rows], part.advantages[rows]
    return [replace(part, rollouts=rollouts, advantages=advantages)] if rollouts else []


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
        lengths = tuple(len(r.completion.token_ids) - 1 for r in part.rollouts)
        segments.append(Segment(start, end - start, lengths))

    rollouts = [rollout for part in parts for rollout in part.rollouts]
    lengths = torch.tensor([len(rollout.completion.token_ids) for rollout in rollouts])
    advantages = torch.tensor([advantage for part in parts for advantage in part.advantages])
    return Batch(
        parts=tuple(parts),
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
