"""Which rows are decoded now: waiting -> running -> finished.

Prompts wait in order and enter while the row budget has room; rows leave when they sample a stop token
or reach their length, and the room they leave is used again, a quarter of the budget at a time, since
reading one prompt alone costs nearly as much as reading several.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

from ..model.attention import shared_prefix
from ..records import Completion, Prompt, Sampling
from .cache import BlockCache
from .sampling import row_keys


@dataclass
class Row:
    """One completion being written."""

    prompt: int
    sample: int
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)


@dataclass
class Block:
    """Rows that started together: those of one prompt, or one of each of several prompts of one length."""

    prompts: list[tuple[int, ...]]
    """What each prompt holds after the shared prefix."""
    rows: list[Row]
    """The unfinished ones; all have written equally much."""
    keys: Tensor
    """[rows] int64, naming each row's random numbers."""
    cache: BlockCache


class Scheduler:
    """The state of one call of `generate`."""

    def __init__(self, prompts: Sequence[Prompt], sampling: Sampling, row_budget: int) -> None:
        self.sampling = sampling
        self.row_budget = row_budget
        self.prefix = shared_prefix([prompt.token_ids for prompt in prompts])
        self.waiting = deque(enumerate(prompts))
        self.running: list[Block] = []
        self._finished: list[list[Completion | None]] = [[None] * sampling.num_samples for _ in prompts]
        self._stop_ids = frozenset(sampling.stop_ids)

    @property
    def unfinished(self) -> bool:
        """Whether any row is still to be written."""
        return bool(self.waiting or self.running)

    def admit(self) -> list[Block]:
        """Move waiting prompts to running while there is room; at least one when nothing runs."""
        rows = sum(len(block.rows) for block in self.running)
        each = self.sampling.num_samples
        entering = []
        if rows == 0 or self.row_budget - rows >= max(each, self.row_budget // 4):
            while self.waiting and (rows == 0 or rows + each <= self.row_budget):
                entering.append(self.waiting.popleft())
                rows += each
        admitted = [self._start(group) for group in self._blocks(entering)]
        self.running += admitted
        return admitted

    def _blocks(self, entering: list[tuple[int, Prompt]]) -> list[list[tuple[int, Prompt]]]:
        if self.sampling.num_samples > 1:
            return [[item] for item in entering]
        by_length = sorted(entering, key=lambda item: len(item[1].token_ids))
        return [list(group) for _, group in groupby(by_length, key=lambda item: len(item[1].token_ids))]

    def _start(self, group: list[tuple[int, Prompt]]) -> Block:
        prompts = [prompt.token_ids[len(self.prefix) :] for _, prompt in group]
        named = [(index, sample, prompt.key) for index, prompt in group for sample in range(self.sampling.num_samples)]
        rows = [Row(index, sample) for index, sample, _ in named]
        keys = row_keys([(*key, sample) for _, sample, key in named])
        return Block(prompts, rows, keys, BlockCache(len(self.prefix), len(prompts[0])))

    def record(self, blocks: Sequence[Block], tokens_B: Tensor, logprobs_B: Tensor) -> None:
        """Append one token to every row of `blocks`, in their order; rows that end leave."""
        written = zip(tokens_B.tolist(), logprobs_B.tolist(), strict=True)
        for block in blocks:
            for row in block.rows:
                token, logprob = next(written)
                row.token_ids.append(token)
                row.logprobs.append(logprob)
            self._retire(block)
        self.running = [block for block in self.running if block.rows]

    def _retire(self, block: Block) -> None:
        going = [at for at, row in enumerate(block.rows) if not self._ended(row)]
        if len(going) == len(block.rows):
            return
        block.rows = [block.rows[at] for at in going]
        index = torch.tensor(going, dtype=torch.int64)
        block.keys = block.keys[index]
        block.cache.keep(index)

    def _ended(self, row: Row) -> bool:
        stopped = row.token_ids[-1] in self._stop_ids
        if not stopped and len(row.token_ids) < self.sampling.max_new_tokens:
            return False
        reason = "stop" if stopped else "length"
        self._finished[row.prompt][row.sample] = Completion(tuple(row.token_ids), tuple(row.logprobs), reason)
        return True

    def completions(self) -> list[tuple[Completion, ...]]:
        """What was written, in the order of the prompts and of their samples."""
        return [tuple(c for c in group if c is not None) for group in self._finished]
