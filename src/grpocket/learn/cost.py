"""What an update costs: memory and time of its largest micro-batch, measured without learning from it.

Two small updates come first and tell by a straight line what the large one will take, so memory that will not do
is refused before it is asked for. Of every update the gradients are thrown away, and the optimizer is not called.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import NamedTuple

import torch

from .. import memory
from ..config import Config
from ..records import Completion, Group, Problem, Reward, Rollout, UserError
from .batch import Budget, count, micro_batches, pack
from .measure import Mismatch
from .policy import Policy
from .update import accumulate, prepare

LONGEST_SECONDS = 20.0
"""An update that would take longer is not run; the straight line has to do."""
SMALL = 128
"""Tokens of an answer in the two small updates."""


class Cost(NamedTuple):
    """What the update of one micro-batch takes."""

    tokens: int
    """Of its stream."""
    memory: float
    """Bytes at the peak."""
    seconds: float


def rehearse_update(policy: Policy, longest: Sequence[Problem], config: Config, available: float) -> Cost:
    """The costliest micro-batch: one that is run, or where that takes too long, what two small ones tell.

    Raises:
        UserError: the memory will not do.
    """
    length = min(SMALL, config.max_new_tokens)
    small, larger = (run_update(policy, blank_groups(policy, longest[-1:], rows, length), config) for rows in (1, 4))
    token_memory = max(0.0, (larger.memory - small.memory) / max(1, larger.tokens - small.tokens))
    groups = costliest(policy, longest, config)
    tokens = stream_tokens(policy, groups)
    expected = Cost(
        tokens, larger.memory + token_memory * (tokens - larger.tokens), larger.seconds * tokens / larger.tokens
    )
    fitting = int(larger.tokens + (available - larger.memory) / max(token_memory, 1e-9))
    if expected.memory > available:
        raise too_large(expected.memory, available, fitting)
    try:
        return run_update(policy, groups, config) if expected.seconds <= LONGEST_SECONDS else expected
    except torch.OutOfMemoryError:
        raise too_large(expected.memory, available, min(fitting, tokens // 2)) from None


def too_large(need: float, available: float, fitting: int) -> UserError:
    """What to say when `need` bytes are too many and `fitting` tokens in a micro-batch would do."""
    remedy = f"set token_budget={fitting}" if fitting >= 256 else "lower max_new_tokens, or take a smaller model"
    return UserError(
        f"memory: an update at full length needs about {need / 1e9:.1f} GB, and {available / 1e9:.1f} GB "
        f"are available; {remedy}, or set gradient_checkpointing=True"
    )


def run_update(policy: Policy, groups: Sequence[Group], config: Config) -> Cost:
    """One micro-batch forward and backward; its gradient is thrown away."""
    memory.reset_peak()
    start = time.perf_counter()
    (batch,) = prepare(policy, groups, config, Mismatch(), Budget(1 << 30, 1 << 30))
    with policy.network.ready():
        accumulate(policy, batch, count(groups, config.max_new_tokens), config)
    policy.optimizer.zero_grad(set_to_none=True)
    return Cost(batch.ids.shape[1], memory.peak(), time.perf_counter() - start)


def blank_groups(policy: Policy, problems: Sequence[Problem], rows: int, length: int) -> list[Group]:
    """Groups of `rows` answers of `length` tokens, which say nothing: an update costs the same whatever they say."""
    made = []
    for problem in problems:
        ids = policy.render(problem)
        answer = Completion((ids * -(-length // len(ids)))[:length], (0.0,) * length, "length")
        rollouts = (Rollout(ids, answer, "", Reward(0.0, {})),) * rows
        made.append(Group(problem, rollouts, (1.0,) * rows, (True,) * rows))
    return made


def costliest(policy: Policy, longest: Sequence[Problem], config: Config) -> list[Group]:
    """The groups, or parts of groups, of the micro-batch with the most tokens of a step at full length."""
    minibatch = longest[-math.ceil(len(longest) / config.num_minibatches) :]
    groups = blank_groups(policy, minibatch, config.group_size, config.max_new_tokens)
    parts = max(micro_batches(groups, policy.budget), key=lambda parts: sum(part.tokens for part in parts))
    rows = [(part.rollouts, part.advantages) for part in parts]
    return [Group(groups[0].problem, *row, (True,) * len(row[0])) for row in rows]


def stream_tokens(policy: Policy, groups: Sequence[Group]) -> int:
    """Tokens that an update of the groups runs, shared prefixes once a micro-batch."""
    return sum(pack(parts).ids.shape[1] for parts in micro_batches(groups, policy.budget))


def optimizer_bytes(policy: Policy) -> int:
    """What AdamW's two moments will take once they exist."""
    held = 2 * sum(p.numel() * p.element_size() for p in policy.parameters())
    return 0 if policy.optimizer.state else held
