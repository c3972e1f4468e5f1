"""Before the first step: do sampler, trainer and the model's own attention agree?

The sampler's log-probs are compared with the trainer's, and both with those of the model's stock
forward. A silent mismatch here trains on numbers that are not the policy's, and has cost others months.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..records import Engine, Group, Problem, Prompt, Reward, Rollout, UserError
from .batch import pack, split
from .policy import Policy

BOUNDS = {torch.float32: 1e-3, torch.bfloat16: 0.5, torch.float16: 0.1}
"""Largest difference of one log-prob, in nats, that rounding explains."""


def self_check(
    policy: Policy, engine: Engine, problems: Sequence[Problem], max_new_tokens: int = 8, refuse: bool = True
) -> float:
    """The largest |difference| of a log-prob between sampler, trainer and stock forward, in nats.

    Raises:
        UserError: unless told not to refuse, when it is more than rounding explains, with both figures.
    """
    prompts = [Prompt(policy.render(problem), key=(0, 0, index)) for index, problem in enumerate(problems)]
    sampling = replace(
        policy.sampling, num_samples=2, max_new_tokens=min(max_new_tokens, policy.sampling.max_new_tokens)
    )
    worst, bound = 0.0, BOUNDS[policy.network.head.weight.dtype]
    for problem, prompt, completions in zip(problems, prompts, engine.generate(prompts, sampling), strict=True):
        rollouts = tuple(Rollout(prompt.token_ids, c, "", Reward(0.0, {})) for c in completions)
        sampled = torch.tensor([x for c in completions for x in c.logprobs])
        trained = trainer_logprobs(policy, Group(problem, rollouts, (1.0, 1.0), (True, True))).cpu()
        stock = torch.cat([policy.stock_logprobs(prompt.token_ids, c.token_ids) for c in completions]).cpu()
        for name, other in (("trainer", trained), ("stock attention", stock)):
            worst = max(worst, compare(name, sampled, other, bound if refuse else float("inf")))
    return worst


@torch.no_grad()
def trainer_logprobs(policy: Policy, group: Group) -> Tensor:
    """[T], as the update computes them."""
    with policy.network.ready():
        return policy.logprobs(pack(list(split(group, 1 << 30)), policy.network.device))[0]


def compare(name: str, sampled: Tensor, other: Tensor, bound: float) -> float:
    """The largest difference; refuse when it is beyond rounding."""
    worst = (sampled - other).abs().max().item()
    if not worst <= bound:
        at = int((sampled - other).abs().argmax())
        raise UserError(
            f"self-check: the sampler gives a token log-prob {sampled[at]:.5f}, the {name} {other[at]:.5f}; "
            f"they may differ by {bound}. This model can't be trained exactly here: use another, or dtype=float32"
        )
    return worst
