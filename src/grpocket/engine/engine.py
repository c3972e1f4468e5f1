"""Prompt token ids in, completions out. Knows nothing of text, rewards or losses.

Unlike a server it knows all its work beforehand: how many rows there are, how long they may get, which
of them share a prompt. So there is no paging, no streaming and no queue of requests: what prompts share
is read once for all, a prompt once for its group, and all rows of all groups are decoded together.

    engine = Engine(Network(model))
    completions = engine.generate([Prompt(ids, key=(seed, step, draw))], Sampling(8, 64, stop_ids=(2,)))
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from .. import memory
from ..model.attention import Plan
from ..model.network import Network
from ..records import Completion, Prompt, Sampling, StoppedError
from . import plain
from .cache import Decode, Prefill, PrefixCache, read_prefix
from .sampling import sample, uniform
from .scheduler import Cohort, Scheduler
from .static import StaticSampler, suits

MOST_ROWS = {"cpu": 64, "cuda": 512}
"""Rows from which on a decode step takes longer by as much as it writes more."""


def choose_row_budget(network: Network, sampling: Sampling) -> int:
    """Rows whose keys and values fit an eighth of the memory there is, as far as more of them are of use."""
    row_bytes = network.suffix_bytes * sampling.max_new_tokens
    return max(1, min(MOST_ROWS[network.device.type], memory.available() // 8 // row_bytes))


class Engine:
    """Samples from the very module that is trained.

    `static`: in steps of fixed shapes, which a GPU replays as a graph; by default on a GPU, where the model allows it.
    """

    def __init__(self, network: Network, row_budget: int, static: bool | None = None) -> None:
        self.network = network
        self.row_budget = row_budget
        """Rows decoded at the same time."""
        if static is None:
            static = network.device.type == "cuda" and suits(network)
        self._static = StaticSampler(network) if static else None

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[tuple[Completion, ...]]:
        """G completions for each prompt, in the prompts' order.

        Where the memory runs out, it is begun again with half the rows: the same samples, since they have names.

        Raises:
            StoppedError: one prompt's samples are too large.
        """
        if self.network.plain:
            return plain.generate(self.network, prompts, sampling)
        try:
            return self._generate(prompts, sampling)
        except Exception as error:
            if not memory.is_shortage(error):
                raise
        if self._static:
            self._static.forget()
        memory.release()
        if self.row_budget <= sampling.num_samples:
            raise StoppedError(
                f"out of memory while sampling {sampling.num_samples} answers of up to {sampling.max_new_tokens} "
                "tokens; lower max_new_tokens or group_size, or take a smaller model"
            )
        self.row_budget //= 2
        return self.generate(prompts, sampling)

    @torch.inference_mode()
    def _generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[tuple[Completion, ...]]:
        if self._static:
            return self._static.generate(prompts, sampling, self.row_budget)
        schedule = Scheduler(prompts, sampling, self.row_budget)
        with self.network.ready():
            prefix = read_prefix(self.network, schedule.prefix)
            while schedule.unfinished:
                if cohort := schedule.admit():
                    schedule.record(
                        [cohort], *self._sample([cohort], self._prefill(prefix, cohort, sampling), sampling)
                    )
                if running := schedule.running:
                    schedule.record(running, *self._sample(running, self._decode(prefix, running), sampling))
        return schedule.completions()

    def _prefill(self, prefix: PrefixCache, cohort: Cohort, sampling: Sampling) -> Tensor:
        """Read prompts as one stream; hidden states [B, H] that predict the first token of each row."""
        prompts = [prompt for block in cohort.blocks for prompt in block.prompts]
        stream = [token for prompt in prompts for token in prompt]
        positions = [prefix.length + at for prompt in prompts for at in range(len(prompt))]
        plan = Prefill(prefix, [(block.cache, len(block.prompts)) for block in cohort.blocks])
        hidden = self._hidden([stream], [positions], plan)[0]
        cohort.cache.start(cohort.blocks[0].cache.layers, len(cohort.rows), sampling.max_new_tokens)
        last = torch.tensor([len(prompt) for prompt in prompts]).cumsum(0) - 1
        return hidden[last.repeat_interleave(sampling.num_samples)]

    def _decode(self, prefix: PrefixCache, cohorts: Sequence[Cohort]) -> Tensor:
        """Feed the token every row wrote last; hidden states [B, H] that predict the next."""
        blocks = [(block, cohort.cache.length) for cohort in cohorts for block in cohort.blocks]
        ids = [[row.token_ids[-1]] for block, _ in blocks for row in block.rows]
        positions = [[prefix.length + block.cache.length + written] for block, written in blocks for _ in block.rows]
        rows = [(c.cache, [(block.cache, len(block.rows)) for block in c.blocks]) for c in cohorts]
        hidden = self._hidden(ids, positions, Decode(prefix, rows))[:, 0]
        for cohort in cohorts:
            cohort.cache.length += 1
        return hidden

    def _sample(self, cohorts: Sequence[Cohort], hidden: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
        keys = torch.cat([cohort.keys for cohort in cohorts])
        positions = torch.tensor([cohort.cache.length for cohort in cohorts for _ in cohort.rows])
        return sample(self.network.logits(hidden), sampling.temperature, uniform(keys, positions))

    def _hidden(self, ids: list[list[int]], positions: list[list[int]], plan: Plan) -> Tensor:
        device = self.network.device
        return self.network.hidden(torch.tensor(ids, device=device), torch.tensor(positions, device=device), plan)


class ScriptedEngine:
    """A fake that writes what it is told: for tests of the loop, and of rewards, without a model.

    >>> engine = ScriptedEngine(lambda prompt, sample: (5, 6, 2))
    >>> engine.generate([Prompt((1,), key=(0, 0, 0))], Sampling(2, 8, stop_ids=(2,)))[0][1].token_ids
    (5, 6, 2)
    """

    def __init__(self, script: Callable[[Prompt, int], Sequence[int]], logprob: float = -1.0) -> None:
        self.script = script
        self.logprob = logprob

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[tuple[Completion, ...]]:
        """What the script says, cut at max_new_tokens and after the first stop token."""
        return [tuple(self._complete(p, s, sampling) for s in range(sampling.num_samples)) for p in prompts]

    def _complete(self, prompt: Prompt, sample: int, sampling: Sampling) -> Completion:
        ids = list(self.script(prompt, sample))[: sampling.max_new_tokens]
        stop = next((at for at, token in enumerate(ids) if token in sampling.stop_ids), None)
        if stop is not None:
            ids = ids[: stop + 1]
        return Completion(tuple(ids), (self.logprob,) * len(ids), "length" if stop is None else "stop")
