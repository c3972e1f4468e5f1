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
from .cache import PromptCache, SuffixCache
from .sampling import row_keys


@dataclass
class Row:
    """One completion being written."""

    prompt: int
    sample: int
    key: tuple[int, ...]
    """(seed, step, draw index, sample)"""
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ended: bool = False


@dataclass
class Block:
    """Rows of one prompt, or one of each of several prompts of one length."""

    prompts: list[tuple[int, ...]]
    """What each prompt holds after the shared prefix."""
    rows: list[Row]
    cache: PromptCache


@dataclass
class Cohort:
    """Blocks that started together: all their rows have written equally much.

    Rows that have ended stay until enough of them have: dropping some copies the K/V of all others.
    """

    blocks: list[Block]
    keys: Tensor
    """[rows] int64, naming each row's random numbers."""
    cache: SuffixCache

    @property
    def rows(self) -> list[Row]:
        """The rows of all blocks, in order."""
        return [row for block in self.blocks for row in block.rows]


WASTE = 8
"""Ended rows are dropped when they are one in so many."""


class Scheduler:
    """The state of one call of `generate`."""

    def __init__(self, prompts: Sequence[Prompt], sampling: Sampling, row_budget: int) -> None:
        self.sampling = sampling
        self.row_budget = row_budget
        self.prefix = shared_prefix([prompt.token_ids for prompt in prompts])
        self.waiting = deque(enumerate(prompts))
        self.running: list[Cohort] = []
        self._finished: list[list[Completion | None]] = [[None] * sampling.num_samples for _ in prompts]
        self._stop_ids = frozenset(sampling.stop_ids)

    @property
    def unfinished(self) -> bool:
        """Whether any row is still to be written."""
        return bool(self.waiting or self.running)

    def admit(self) -> Cohort | None:
        """Move waiting prompts to running while there is room; at least one when nothing runs."""
        rows = sum(len(cohort.rows) for cohort in self.running)
        each = self.sampling.num_samples
        entering = []
        if rows == 0 or self.row_budget - rows >= max(each, self.row_budget // 4):
            while self.waiting and (rows == 0 or rows + each <= self.row_budget):
                entering.append(self.waiting.popleft())
                rows += each
        if not entering:
            return None
        blocks = [self._start(group) for group in self._blocks(entering)]
        cohort = Cohort(blocks, row_keys([row.key for block in blocks for row in block.rows]), SuffixCache())
        self.running.append(cohort)
        return cohort

    def _blocks(self, entering: list[tuple[int, Prompt]]) -> list[list[tuple[int, Prompt]]]:
        if self.sampling.num_samples > 1:
            return [[item] for item in entering]
        by_length = sorted(entering, key=lambda item: len(item[1].token_ids))
        return [list(group) for _, group in groupby(by_length, key=lambda item: len(item[1].token_ids))]

    def _start(self, group: list[tuple[int, Prompt]]) -> Block:
        prompts = [prompt.token_ids[len(self.prefix) :] for _, prompt in group]
        samples = range(self.sampling.num_samples)
        rows = [Row(index, sample, (*prompt.key, sample)) for index, prompt in group for sample in samples]
        return Block(prompts, rows, PromptCache(len(prompts[0])))

    def record(self, cohorts: Sequence[Cohort], tokens_B: Tensor, logprobs_B: Tensor) -> None:
        """Append one token to every unfinished row of `cohorts`, in their order; rows that end leave."""
        written = zip(tokens_B.tolist(), logprobs_B.tolist(), strict=True)
        for cohort in cohorts:
            for row in cohort.rows:
                token, logprob = next(written)
                if not row.ended:
                    row.token_ids.append(token)
                    row.logprobs.append(logprob)
                    self._end(row)
            self._compact(cohort)
        self.running = [cohort for cohort in self.running if cohort.blocks]

    def _end(self, row: Row) -> None:
        stopped = row.token_ids[-1] in self._stop_ids
        row.ended = stopped or len(row.token_ids) == self.sampling.max_new_tokens
        if row.ended:
            reason = "stop" if stopped else "length"
            self._finished[row.prompt][row.sample] = Completion(tuple(row.token_ids), tuple(row.logprobs), reason)

    def _compact(self, cohort: Cohort) -> None:
        rows = cohort.rows
        if sum(row.ended for row in rows) * WASTE < len(rows):
            return
        cohort.keys = cohort.keys[going(rows)]
        cohort.cache.keep(going(rows))
        for block in cohort.blocks:
            block.cache.keep(going(block.rows))
            block.rows = [row for row in block.rows if not row.ended]
        cohort.blocks = [block for block in cohort.blocks if block.rows]

    def completions(self) -> list[tuple[Completion, ...]]:
        """What was written, in the order of the prompts and of their samples."""
        return [tuple(c for c in group if c is not None) for group in self._finished]


def going(rows: Sequence[Row]) -> Tensor:
    """Which rows have not ended, as int64 indices."""
    return torch.tensor([at for at, row in enumerate(rows) if not row.ended], dtype=torch.int64)
