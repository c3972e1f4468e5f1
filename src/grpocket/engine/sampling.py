"""From logits to a token and its log-prob, with random numbers that have names.

Every token is decided by one uniform number, and that number is a hash of what it is for: (seed, step,
draw, sample, position). Nothing is drawn by call order, so what a row samples does not depend on which
other rows are in the batch, and a resumed run samples what the interrupted one would have.

The token is the inverse of the cumulative distribution at that number. Top-k, top-p and min-p are left
out: they sample from another distribution than the one that is trained.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 256
"""Probabilities are summed in blocks first: one pass over the vocabulary, and less rounding."""


def row_keys(keys: Sequence[tuple[int, ...]]) -> Tensor:
    """One 64-bit key [B] for each tuple of integers, such as (seed, step, draw, sample)."""
    columns = torch.tensor(list(keys), dtype=torch.int64)
    state = torch.zeros(len(keys), dtype=torch.int64)
    for column in columns.unbind(1):
        state = _mix(state + column)
    return state


def uniform(keys_B: Tensor, positions_B: Tensor) -> Tensor:
    """The uniform number in (0, 1) that belongs to each key and position, [B] float64."""
    bits = _mix(keys_B + positions_B) >> 11 & (1 << 53) - 1
    return (bits.double() + 0.5) * 2.0**-53


def _mix(x: Tensor) -> Tensor:
    """One step of SplitMix64 (Steele, Lea and Flood 2014), in wrapping int64 arithmetic."""
    x = x + _signed(0x9E3779B97F4A7C15)
    x = (x ^ _shift(x, 30)) * _signed(0xBF58476D1CE4E5B9)
    x = (x ^ _shift(x, 27)) * _signed(0x94D049BB133111EB)
    return x ^ _shift(x, 31)


def _signed(word: int) -> int:
    return word - (1 << 64) if word >> 63 else word


def _shift(x: Tensor, by: int) -> Tensor:
    return x >> by & (1 << 64 - by) - 1


def sample(logits: Tensor, temperature: float, uniform_B: Tensor) -> tuple[Tensor, Tensor]:
    """Tokens [B] and their log-probs [B] from logits [B, V]; temperature 0 is greedy.

    The log-prob is that of softmax(logits / temperature); for greedy tokens, of softmax(logits).
    """
    logits = logits.float()
    if temperature not in (0, 1):
        logits = logits / temperature
    top, best = logits.max(-1, keepdim=True)
    masses = (logits - top).exp_()
    masses = F.pad(masses, (0, -masses.shape[-1] % BLOCK)).unflatten(-1, (-1, BLOCK))
    block_ends = masses.sum(-1, dtype=torch.float64).cumsum(-1)
    tokens = best if temperature == 0 else _inverse_cdf(masses, block_ends, uniform_B.to(logits.device))
    logprobs = logits.gather(-1, tokens) - top - block_ends[:, -1:].log()
    return tokens.squeeze(-1), logprobs.squeeze(-1).float()


def _inverse_cdf(masses: Tensor, block_ends: Tensor, uniform_B: Tensor) -> Tensor:
    """The first index [B, 1] whose cumulative mass exceeds uniform * total, for masses [B, N, BLOCK]."""
    target = uniform_B.unsqueeze(-1) * block_ends[:, -1:]
    block = _first_above(block_ends, target)
    before = block_ends.gather(-1, (block - 1).clamp(min=0)).masked_fill(block == 0, 0.0)
    inside = masses.gather(1, block.unsqueeze(-1).expand(-1, -1, BLOCK)).squeeze(1).double()
    return block * BLOCK + _first_above(inside.cumsum(-1), target - before)


def _first_above(ends: Tensor, target: Tensor) -> Tensor:
    """The first index of non-decreasing `ends` [B, N] above `target` [B, 1]; rounding can't run past mass."""
    total = ends[:, -1:]
    below_total = torch.nextafter(total, torch.zeros_like(total))
    return torch.searchsorted(ends, torch.minimum(target, below_total), right=True)
