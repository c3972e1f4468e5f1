"""Keys and values in tensors that stay where they are, and attention of fixed shapes over them.

    prefix   [1, Hkv, L, D]   what all prompts begin with
    prompt   [n, Hkv, P, D]   the rest of each prompt, padded behind
    suffix   [B, Hkv, T, D]   what each row has written

All three are one kind: each is shared by so many rows. Lengths are data, a bias of 0 or -inf on the scores.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .cache import KeyValue, PrefixCache, PromptCache


class Slots:
    """The K/V of all rows, in tensors that stay where they are, and the plan of writing one token a row."""

    def __init__(self, rooms: Sequence[tuple[int, int]], like: Sequence[KeyValue]) -> None:
        """`rooms`: how many prefixes, prompts and suffixes there are, and how long each may get."""
        rooms = [(number, length) for number, length in rooms if length]
        self.lengths = [length for _, length in rooms]
        self.layers = [
            [tuple(t.new_zeros(number, t.shape[1], length, t.shape[3]) for t in pair) for number, length in rooms]
            for pair in like
        ]
        self.bias = like[0][0].new_zeros(rooms[-1][0], 1, 1, sum(self.lengths), dtype=torch.float32)
        self.slot = self.bias.new_zeros(1, dtype=torch.int64)

    def load(self, prefix: PrefixCache, prompts: PromptCache, lengths: Tensor) -> None:
        """Take up a prefix and prompts of these lengths [n], and forget every suffix."""
        caches = [prefix.layers, prompts.layers] if prefix.length else [prompts.layers]
        for pieces, *read in zip(self.layers, *caches, strict=True):
            for room, pair in zip(pieces[:-1], read, strict=True):
                for kept, new in zip(room, pair, strict=True):
                    kept[:, :, : new.shape[-2]] = new
            for kept in pieces[-1]:
                kept.zero_()  # what is masked is multiplied by 0, and must be finite
        filled = [lengths, lengths.new_zeros(1)]
        if prefix.length:
            filled.insert(0, lengths.new_tensor([prefix.length]))
        for bias, length in zip(self.bias.split(self.lengths, dim=-1), filled, strict=True):
            of_rows = length.repeat_interleave(len(bias) // len(length))[:, None]
            empty = torch.arange(bias.shape[-1], device=bias.device) >= of_rows
            bias[:, 0, 0] = torch.where(empty, float("-inf"), 0.0)

    def open(self, slot: Tensor) -> None:
        """Let the next token's key and value be written to suffix slot [1], and be seen from then on."""
        self.slot.copy_(slot)
        self.bias.index_fill_(-1, slot + sum(self.lengths[:-1]), 0.0)

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """[B, Hq, 1, D]: one float32 softmax over the row's prefix, prompt and suffix."""
        pieces, heads = self.layers[layer], key.shape[1]
        for kept, new in zip(pieces[-1], (key, value), strict=True):
            kept.index_copy_(2, self.slot, new)
        grouped = query[:, :, 0].unflatten(1, (heads, -1))  # [B, Hkv, R, D]
        scores = torch.cat([shared_product(grouped, keys.mT) for keys, _ in pieces], dim=-1)
        probs = torch.softmax(torch.add(self.bias, scores, alpha=scale), dim=-1).to(query.dtype)
        parts = zip(probs.split(self.lengths, dim=-1), pieces, strict=True)
        out = torch.stack([shared_product(part, values) for part, (_, values) in parts]).sum(0)
        return out.to(query.dtype).flatten(1, 2).unsqueeze(1)


def shared_product(rows: Tensor, matrices: Tensor) -> Tensor:
    """rows [B, Hkv, R, M] times matrices [c, Hkv, M, N], each shared by B / c rows: [B, Hkv, R, N] in float32."""
    sharers, heads = matrices.shape[:2]
    together = rows.unflatten(0, (sharers, -1)).transpose(1, 2)  # [c, Hkv, B / c, R, M]
    stacked, shared = together.flatten(0, 1).flatten(1, 2), matrices.flatten(0, 1)
    if rows.is_cuda and rows.dtype != torch.float32:
        product = torch.bmm(stacked, shared, out_dtype=torch.float32)
    else:
        product = torch.bmm(stacked.float(), shared.float())
    return product.view(sharers, heads, *together.shape[2:4], -1).transpose(1, 2).flatten(0, 1)
