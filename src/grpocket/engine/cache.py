"""Keys and values, each stored once for all rows that share them, and attention over what a row has.

    prefix    what every prompt of the call begins with (system prompt, worked examples): stored once
    prompt    the rest of a prompt: once for its samples
    suffix    what a row has written: its own

Rows of one block started together, so their suffixes have the same length: attention needs no mask and
no padding, only tight slices. The three pieces are merged by their log-sum-exp.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..model.attention import merge, piece

KeyValue = tuple[Tensor, Tensor]


class PrefixCache:
    """The K/V [Hkv, L, D] in each layer of the tokens that all prompts begin with; L may be 0."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.layers: list[KeyValue] = []

    def attend(self, layer: int, query: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Attention of every token there is, query [Hkv, R, T, D], to the prefix, with its log-sum-exp."""
        return piece(query, *self.layers[layer], scale, causal=False)


class BlockCache:
    """The K/V of n prompts of one length, [n, Hkv, P, D], and of their rows' suffixes, [rows, Hkv, T, D].

    Either n is 1 and the prompt has several rows, or every prompt has one row.
    """

    def __init__(self, prefix_length: int, prompt_length: int) -> None:
        self.prefix_length = prefix_length
        self.prompt_length = prompt_length
        self.suffix_length = 0
        self.prompt: list[KeyValue] = []
        self.suffix: list[KeyValue] = []

    @property
    def position(self) -> int:
        """The position of the token that is fed next."""
        return self.prefix_length + self.prompt_length + self.suffix_length

    def start(self, rows: int, capacity: int) -> None:
        """Make room for `rows` suffixes of up to `capacity` tokens."""
        for key, _ in self.prompt:
            shape = (rows, key.shape[1], capacity, key.shape[3])
            self.suffix.append((key.new_empty(shape), key.new_empty(shape)))

    def keep(self, rows: Tensor) -> None:
        """Drop every row but these, and every prompt that is left without one."""
        self.suffix = [(key[rows], value[rows]) for key, value in self.suffix]
        if len(self.prompt[0][0]) > 1:
            self.prompt = [(key[rows], value[rows]) for key, value in self.prompt]

    def write(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Put the current token's key and value, [rows, Hkv, 1, D], behind what is there."""
        at = slice(self.suffix_length, self.suffix_length + 1)
        keys, values = self.suffix[layer]
        keys[:, :, at], values[:, :, at] = key, value

    def attend(self, layer: int, query: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Attention of one token a row, query [rows, Hkv, R, D], to its prompt and suffix, with its log-sum-exp."""
        return merge(*self._attend_prompt(layer, query, scale), *self._attend_suffix(layer, query, scale))

    def _attend_prompt(self, layer: int, query: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        key, value = (t.flatten(0, 1) for t in self.prompt[layer])
        prompts, (rows, heads, repeat, dim) = len(self.prompt[layer][0]), query.shape
        by_prompt = query.view(prompts, -1, heads, repeat, dim).transpose(1, 2)
        out, lse = piece(by_prompt.reshape(prompts * heads, -1, repeat, dim), key, value, scale, causal=False)
        out = out.view(prompts, heads, -1, repeat, dim).transpose(1, 2).reshape(query.shape)
        return out, lse.view(prompts, heads, -1, repeat).transpose(1, 2).reshape(rows, heads, repeat)

    def _attend_suffix(self, layer: int, query: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        key, value = (t[:, :, : self.suffix_length + 1].flatten(0, 1) for t in self.suffix[layer])
        out, lse = piece(query.flatten(0, 1).unsqueeze(1), key, value, scale, causal=False)
        return out.view(query.shape), lse.view(query.shape[:3])


class Prefill:
    """The plan of reading prompts: each attends to the prefix and to itself, and is stored."""

    def __init__(self, prefix: PrefixCache, blocks: list[tuple[BlockCache, int]]) -> None:
        self.prefix = prefix
        self.blocks = blocks

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """[1, Hq, T, D] of all blocks' prompts, one after another."""
        heads = key.shape[1]
        grouped = query[0].unflatten(0, (heads, -1))
        pieces, start = [], 0
        for cache, prompts in self.blocks:
            own = slice(start, start := start + prompts * cache.prompt_length)
            cut = (prompts, cache.prompt_length)
            keys, values = (t[0, :, own].unflatten(1, cut).transpose(0, 1).contiguous() for t in (key, value))
            cache.prompt.append((keys, values))
            q = grouped[:, :, own].unflatten(2, cut).permute(2, 0, 1, 3, 4).flatten(0, 1)
            out, lse = piece(q, keys.flatten(0, 1), values.flatten(0, 1), scale, causal=True)
            out = out.unflatten(0, (-1, heads)).permute(1, 2, 0, 3, 4).flatten(2, 3)
            pieces.append((out, lse.unflatten(0, (-1, heads)).permute(1, 2, 0, 3).flatten(2, 3)))
        out, lse = (torch.cat(parts, dim=2) for parts in zip(*pieces, strict=True))
        if self.prefix.length:
            out, _ = merge(out, lse, *self.prefix.attend(layer, grouped, scale))
        return out.flatten(0, 1).transpose(0, 1).unsqueeze(0)


class PrefillPrefix:
    """The plan of reading the prefix itself."""

    def __init__(self, prefix: PrefixCache) -> None:
        self.prefix = prefix

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """[1, Hq, L, D], causal."""
        self.prefix.layers.append((key[0].contiguous(), value[0].contiguous()))
        out, _ = piece(query[0].unflatten(0, (key.shape[1], -1)), *self.prefix.layers[layer], scale, causal=True)
        return out.flatten(0, 1).transpose(0, 1).unsqueeze(0)


class Decode:
    """The plan of writing one token a row: each attends to the prefix, its prompt and its suffix."""

    def __init__(self, prefix: PrefixCache, blocks: list[tuple[BlockCache, int]]) -> None:
        self.prefix = prefix
        self.blocks = blocks

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """[B, Hq, 1, D], the rows of all blocks one after another."""
        grouped = query[:, :, 0].unflatten(1, (key.shape[1], -1))  # [B, Hkv, R, D]
        pieces, start = [], 0
        for cache, rows in self.blocks:
            own = slice(start, start := start + rows)
            cache.write(layer, key[own], value[own])
            pieces.append(cache.attend(layer, grouped[own], scale))
        out, lse = (torch.cat(parts) for parts in zip(*pieces, strict=True))
        if self.prefix.length:
            by_head = grouped.transpose(0, 1).transpose(1, 2).contiguous()  # [Hkv, R, B, D]
            out_p, lse_p = self.prefix.attend(layer, by_head, scale)
            out, _ = merge(out, lse, out_p.permute(2, 0, 1, 3), lse_p.permute(2, 0, 1))
        return out.flatten(1, 2).unsqueeze(1)
