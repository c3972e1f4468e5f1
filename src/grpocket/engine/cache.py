"""Keys and values, each stored once for all rows that share them, and attention over what a row has.

    prefix    what every prompt of the call begins with (system prompt, worked examples): stored once
    prompt    the rest of a prompt: once for its samples
    suffix    what a row has written: its own

Rows that started together have suffixes of the same length: attention needs no mask and no padding, only
tight slices, and one call for all of them. The three pieces are merged by their log-sum-exp.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..model.attention import merge, piece
from ..model.network import Network

KeyValue = tuple[Tensor, Tensor]


class PrefixCache:
    """The K/V [Hkv, L, D] in each layer of the tokens that all prompts begin with; L may be 0."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.layers: list[KeyValue] = []

    def attend(self, layer: int, query: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Attention of every token there is, query [Hkv, R, T, D], to the prefix, with its log-sum-exp."""
        return piece(query, *self.layers[layer], scale, causal=False)


class PromptCache:
    """The K/V [n, Hkv, P, D] in each layer of n prompts of one length: one with several rows, or one a row."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.layers: list[KeyValue] = []

    def keep(self, rows: Tensor) -> None:
        """Drop the prompts of every row but these; a single prompt stays."""
        if len(self.layers[0][0]) > 1:
            self.layers = [(key[rows], value[rows]) for key, value in self.layers]

    def attend(self, layer: int, query: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Attention of one token a row, query [rows, Hkv, R, D], to the row's prompt, with its log-sum-exp."""
        key, value = (t.flatten(0, 1) for t in self.layers[layer])
        prompts, (rows, heads, repeat, dim) = len(self.layers[layer][0]), query.shape
        by_prompt = query.view(prompts, -1, heads, repeat, dim).transpose(1, 2)
        out, lse = piece(by_prompt.reshape(prompts * heads, -1, repeat, dim), key, value, scale, causal=False)
        out = out.view(prompts, heads, -1, repeat, dim).transpose(1, 2).reshape(query.shape)
        return out, lse.view(prompts, heads, -1, repeat).transpose(1, 2).reshape(rows, heads, repeat)


class SuffixCache:
    """The K/V [rows, Hkv, capacity, D] in each layer of what rows that started together have written."""

    def __init__(self) -> None:
        self.length = 0
        self.layers: list[KeyValue] = []

    def start(self, like: Sequence[KeyValue], rows: int, capacity: int) -> None:
        """Make room for `rows` suffixes of up to `capacity` tokens, in the shapes of a prompt's K/V."""
        for key, _ in like:
            shape = (rows, key.shape[1], capacity, key.shape[3])
            self.layers.append((key.new_empty(shape), key.new_empty(shape)))

    def keep(self, rows: Tensor) -> None:
        """Drop every row but these."""
        self.layers = [(key[rows], value[rows]) for key, value in self.layers]

    def write(self, layer: int, key: Tensor, value: Tensor) -> None:
        """Put the current token's key and value, [rows, Hkv, 1, D], behind what is there."""
        at = slice(self.length, self.length + 1)
        keys, values = self.layers[layer]
        keys[:, :, at], values[:, :, at] = key, value

    def attend(self, layer: int, query: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """Attention of one token a row, query [rows, Hkv, R, D], to the row's suffix, with its log-sum-exp."""
        key, value = (t[:, :, : self.length + 1].flatten(0, 1) for t in self.layers[layer])
        out, lse = piece(query.flatten(0, 1).unsqueeze(1), key, value, scale, causal=False)
        return out.view(query.shape), lse.view(query.shape[:3])


class Prefill:
    """The plan of reading prompts: each attends to the prefix and to itself, and is stored."""

    def __init__(self, prefix: PrefixCache, prompts: Sequence[tuple[PromptCache, int]]) -> None:
        self.prefix = prefix
        self.prompts = prompts

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """[1, Hq, T, D] of all prompts, one after another; so many of them in each cache."""
        heads = key.shape[1]
        grouped = query[0].unflatten(0, (heads, -1))
        pieces, start = [], 0
        for cache, number in self.prompts:
            own = slice(start, start := start + number * cache.length)
            cut = (number, cache.length)
            keys, values = (t[0, :, own].unflatten(1, cut).transpose(0, 1).contiguous() for t in (key, value))
            cache.layers.append((keys, values))
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


def read_prefix(network: Network, ids: Sequence[int]) -> PrefixCache:
    """The cache of what all prompts begin with; it is read here, unless there is nothing."""
    prefix = PrefixCache(len(ids))
    if ids:
        positions = torch.arange(len(ids), device=network.device)
        network.hidden(torch.tensor([ids], device=network.device), positions[None], PrefillPrefix(prefix))
    return prefix


class Decode:
    """The plan of writing one token a row: each attends to the prefix, its prompt and its suffix.

    Every suffix belongs to the rows of some prompts, and every prompt to so many rows, in the rows' order.
    """

    def __init__(self, prefix: PrefixCache, rows: Sequence[tuple[SuffixCache, Sequence[tuple[PromptCache, int]]]]):
        self.prefix = prefix
        self.rows = rows

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """[B, Hq, 1, D], the rows one after another."""
        grouped = query[:, :, 0].unflatten(1, (key.shape[1], -1))  # [B, Hkv, R, D]
        of_prompts, of_suffixes, start = [], [], 0
        for suffix, prompts in self.rows:
            first = start
            for prompt, rows in prompts:
                of_prompts.append(prompt.attend(layer, grouped[start : start + rows], scale))
                start += rows
            own = slice(first, start)
            suffix.write(layer, key[own], value[own])
            of_suffixes.append(suffix.attend(layer, grouped[own], scale))
        out, lse = merge(*joined(of_prompts), *joined(of_suffixes))
        if self.prefix.length:
            by_head = grouped.permute(1, 2, 0, 3).contiguous()  # [Hkv, R, B, D]
            out_p, lse_p = self.prefix.attend(layer, by_head, scale)
            out, _ = merge(out, lse, out_p.permute(2, 0, 1, 3), lse_p.permute(2, 0, 1))
        return out.flatten(1, 2).unsqueeze(1)


def joined(pieces: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Outputs and log-sum-exps of several stretches of rows, one after another."""
    out, lse = zip(*pieces, strict=True)
    return torch.cat(out), torch.cat(lse)
