"""Decoding in steps of fixed shapes, which a CUDA graph can hold.

A GPU is done with the kernels of one token before Python has started them. So here a step asks the host
nothing and reads and writes only tensors that stay where they are; it is recorded once and then replayed, one
launch a token.

On a CPU the same steps are run without being recorded: slower than the engine's own way, and tested.

What is left out: rows that have ended are written on, unread, until all have. Models whose RoPE depends on
the length of what is read ask the host in every step and can't be recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..model.attention import shared_prefix
from ..model.network import Network
from ..records import Completion, Prompt, Sampling
from .cache import KeyValue, Prefill, PrefixCache, PromptCache, read_prefix
from .plain import cut
from .sampling import row_keys, sample, uniform
from .slots import Slots

GRAIN = 64
"""Prefixes and prompts are padded to a multiple of so many tokens, so that few shapes are recorded."""

PATIENCE = 16
"""Every so many steps the device is asked whether all rows have ended."""

KEPT = 2
"""Shapes that are kept at a time, those used last: training's and an evaluation's. Each holds its K/V."""


class Shape(NamedTuple):
    """What a recorded step depends on, apart from where the weights lie."""

    sampling: Sampling
    prompts: int
    """n, a power of two."""
    prefix: int
    """L, room for what all prompts begin with; may be 0."""
    prompt: int
    """P, room for the rest of each."""

    @property
    def rows(self) -> int:
        """B, the samples of all prompts."""
        return self.prompts * self.sampling.num_samples

    @property
    def rooms(self) -> list[tuple[int, int]]:
        """How many prefixes, prompts and suffixes there are, and how long each may get."""
        return [(1, self.prefix), (self.prompts, self.prompt), (self.rows, self.sampling.max_new_tokens)]


class Steps:
    """All rows of one shape, written together from the first token to the last."""

    def __init__(self, network: Network, shape: Shape, like: Sequence[KeyValue]) -> None:
        self.network = network
        self.shape = shape
        self.slots = Slots(shape.rooms, like)
        rows, tokens, device = shape.rows, shape.sampling.max_new_tokens, network.device
        self.stop_ids = torch.tensor(shape.sampling.stop_ids, dtype=torch.int64, device=device)
        self.keys = torch.zeros(rows, dtype=torch.int64, device=device)
        self.ids, self.positions = (torch.zeros(rows, 1, dtype=torch.int64, device=device) for _ in range(2))
        self.written = torch.ones(1, dtype=torch.int64, device=device)
        self.tokens = torch.zeros(rows, tokens, dtype=torch.int64, device=device)
        self.logprobs = torch.zeros(rows, tokens, device=device)
        self.ended = torch.zeros(rows, dtype=torch.bool, device=device)
        self._graph: Any = None

    def record(self, pool: Any) -> None:
        """Hold the step in a CUDA graph. What it moves while it warms up is set anew by `load`."""
        with torch.cuda.device(self.network.device):
            here, side = torch.cuda.current_stream(), torch.cuda.Stream()
            side.wait_stream(here)
            with torch.cuda.stream(side):
                self.step()
            here.wait_stream(side)
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                self.step()
        self._graph = graph

    def load(self, prefix: PrefixCache, prompts: PromptCache, lengths: Tensor, keys: Tensor) -> None:
        """Begin with these prompts."""
        self.slots.load(prefix, prompts, lengths)
        self.keys.copy_(keys)
        last = prefix.length + lengths - 1
        self.positions.copy_(last.repeat_interleave(self.shape.sampling.num_samples)[:, None])
        self.written.zero_()
        self.ended.zero_()

    def advance(self) -> None:
        """Take a step, by its graph where there is one."""
        if self._graph is None:
            self.step()
        else:
            self._graph.replay()

    def step(self) -> None:
        """Feed every row the token it wrote last, and write the next."""
        self.slots.open(self.written - 1)
        self.write(self.network.hidden(self.ids, self.positions, self.slots)[:, 0])

    def write(self, hidden: Tensor) -> None:
        """Sample a token for every row from hidden states [B, H], and be ready to feed it."""
        numbers = uniform(self.keys, self.written)
        tokens, logprobs = sample(self.network.logits(hidden), self.shape.sampling.temperature, numbers)
        self.tokens.index_copy_(1, self.written, tokens[:, None])
        self.logprobs.index_copy_(1, self.written, logprobs[:, None])
        self.ended.logical_or_((tokens[:, None] == self.stop_ids).any(1))
        self.ids.copy_(tokens[:, None])
        self.positions.add_(1)
        self.written.add_(1)

    def finish(self) -> list[Completion]:
        """Go on until all rows have ended; what was written, rows in order."""
        for step in range(self.shape.sampling.max_new_tokens - 1):
            if step % PATIENCE == 0 and bool(self.ended.all()):
                break
            self.advance()
        rows = zip(self.tokens.tolist(), self.logprobs.tolist(), strict=True)
        return [cut(*row, self.shape.sampling) for row in rows]


class StaticSampler:
    """Samples in steps of fixed shapes, and keeps those that it made for the calls to come.

    A graph is bound to addresses. An optimizer changes weights in place, so graphs outlive it; when anything lies
    elsewhere than before, or an adapter is switched, they are recorded anew.
    """

    def __init__(self, network: Network) -> None:
        self.network = network
        self._kept: dict[Shape, Steps] = {}
        self._wiring: Any = None
        self._pool: Any = None

    def forget(self) -> None:
        """Give back the memory of all that is kept."""
        self._kept.clear()
        self._pool = None  # a pool that has lost all its graphs is not to be used again

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling, row_budget: int) -> list[tuple[Completion, ...]]:
        """G completions for each prompt, in the prompts' order; the longest prompts first, as they need most room."""
        size = below(max(1, row_budget // sampling.num_samples))
        order = sorted(range(len(prompts)), key=lambda at: -len(prompts[at].token_ids))
        found: dict[int, tuple[Completion, ...]] = {}
        with self.network.evaluating(), self.network.ready():
            if self._wiring != (wiring := self.network.wiring()):
                self.forget()
                self._wiring = wiring
            prefix = read_prefix(self.network, shared_prefix([prompt.token_ids for prompt in prompts]))
            for start in range(0, len(order), size):
                chunk = order[start : start + size]
                found.update(zip(chunk, self._write([prompts[at] for at in chunk], prefix, sampling), strict=True))
        return [found[at] for at in range(len(prompts))]

    def _write(self, prompts: list[Prompt], prefix: PrefixCache, sampling: Sampling) -> list[tuple[Completion, ...]]:
        each, device = sampling.num_samples, self.network.device
        # What fills up the number writes what the first prompt's rows write, and ends when they do.
        padded = prompts + prompts[:1] * (below(2 * len(prompts) - 1) - len(prompts))
        rests = [prompt.token_ids[prefix.length :] for prompt in padded]
        lengths = torch.tensor([len(rest) for rest in rests], device=device)
        keys = row_keys([(*prompt.key, sample) for prompt in padded for sample in range(each)]).to(device)
        cache = PromptCache(padded_length(max(len(rest) for rest in rests)))
        hidden = self._read(prefix, cache, rests, lengths)
        steps = self._steps(Shape(sampling, len(padded), padded_length(prefix.length), cache.length), like=cache.layers)
        steps.load(prefix, cache, lengths, keys)
        steps.write(hidden.repeat_interleave(each, 0))
        rows = steps.finish()
        return [tuple(rows[at * each : (at + 1) * each]) for at in range(len(prompts))]

    def _read(
        self, prefix: PrefixCache, cache: PromptCache, rests: Sequence[tuple[int, ...]], lengths: Tensor
    ) -> Tensor:
        """Read prompts, padded behind, where nothing looks back from; hidden states [n, H] of each one's end."""
        device, room = self.network.device, cache.length
        ids = torch.tensor([token for rest in rests for token in (*rest, *[0] * (room - len(rest)))], device=device)
        positions = (prefix.length + torch.arange(room, device=device)).repeat(len(rests))
        hidden = self.network.hidden(ids[None], positions[None], Prefill(prefix, [(cache, len(rests))]))[0]
        return hidden[torch.arange(len(rests), device=device) * room + lengths - 1]

    def _steps(self, shape: Shape, like: Sequence[KeyValue]) -> Steps:
        steps = self._kept.pop(shape, None)
        if steps is None:
            while len(self._kept) >= KEPT:
                del self._kept[next(iter(self._kept))]
            steps = Steps(self.network, shape, like)
            if self.network.device.type == "cuda" and shape.sampling.max_new_tokens > 1:
                self._pool = self._pool or torch.cuda.graph_pool_handle()
                steps.record(self._pool)
        self._kept[shape] = steps
        return steps


def suits(network: Network) -> bool:
    """Whether a step of the network asks the host nothing: RoPE that grows with the length does."""
    kinds = [str(getattr(module, "rope_type", "")) for module in network.backbone.modules()]
    return not any("dynamic" in kind or "longrope" in kind for kind in kinds)


def below(number: int) -> int:
    """The largest power of two that is not above a number."""
    return 1 << number.bit_length() - 1


def padded_length(tokens: int) -> int:
    """The next multiple of `GRAIN`; 0 for none."""
    return -(-tokens // GRAIN) * GRAIN
