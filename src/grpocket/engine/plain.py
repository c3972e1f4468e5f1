"""Sampling as plainly as it can be said: one prompt at a time, by the model's own forward and its own cache.

For models whose layers our plans do not compute (recurrent ones, capped attention scores, answers longer than a
sliding window), and the oracle that the engine is tested against: random numbers have names, so both write the
same tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ..model.network import Network
from ..records import Completion, Prompt, Sampling
from .sampling import row_keys, sample, uniform


@torch.inference_mode()
def generate(network: Network, prompts: Sequence[Prompt], sampling: Sampling) -> list[tuple[Completion, ...]]:
    """G completions for each prompt, in the prompts' order."""
    with network.evaluating(), network.weights.in_use():
        return [_group(network, prompt, sampling) for prompt in prompts]


def _group(network: Network, prompt: Prompt, sampling: Sampling) -> tuple[Completion, ...]:
    keys = row_keys([(*prompt.key, index) for index in range(sampling.num_samples)])
    ids = torch.tensor([prompt.token_ids] * sampling.num_samples, device=network.device)
    stop_ids = torch.tensor(sampling.stop_ids, device=network.device)
    ended = torch.zeros(len(ids), dtype=torch.bool, device=network.device)
    tokens, logprobs, cache = [], [], None
    while len(tokens) < sampling.max_new_tokens and not ended.all():
        out: Any = network.backbone(input_ids=ids, past_key_values=cache, use_cache=True)
        cache, at = out.past_key_values, torch.full_like(keys, len(tokens))
        drawn = sample(network.logits(out.last_hidden_state[:, -1]), sampling.temperature, uniform(keys, at))
        tokens.append(drawn[0])
        logprobs.append(drawn[1])
        ended |= torch.isin(drawn[0], stop_ids)
        ids = drawn[0].unsqueeze(1)
    rows = zip(torch.stack(tokens, 1).tolist(), torch.stack(logprobs, 1).tolist(), strict=True)
    return tuple(cut(*row, sampling) for row in rows)


def cut(tokens: list[int], logprobs: list[float], sampling: Sampling) -> Completion:
    """A row up to its first stop token."""
    length = next((at + 1 for at, token in enumerate(tokens) if token in sampling.stop_ids), None)
    return Completion(tuple(tokens[:length]), tuple(logprobs[:length]), "stop" if length else "length")
