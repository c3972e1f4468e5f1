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


def self_check(policy: Policy, engine: Engine, problems: Sequence[Problem], corrected: bool = False) -> float:
    """The largest |difference| of a log-prob between sampler and trainer, in nats.

    `corrected` allows the sampler any difference, since importance weights will correct it. The trainer has to
    agree with the model's own forward in any case.

    Raises:
        UserError: a difference is more than rounding explains, with both figures.
    """
    prompts = [Prompt(policy.render(problem), key=(0, 0, index)) for index, problem in enumerate(problems)]
    sampling = replace(policy.sampling, num_samples=2, max_new_tokens=min(8, policy.sampling.max_new_tokens))
    worst, limit = 0.0, bound(policy)
    for problem, prompt, completions in zip(problems, prompts, engine.generate(prompts, sampling), strict=True):
        rollouts = tuple(Rollout(prompt.token_ids, c, "", Reward(0.0, {})) for c in completions)
        sampled = torch.tensor([x for c in completions for x in c.logprobs])
        trained = trainer_logprobs(policy, Group(problem, rollouts, (1.0, 1.0), (True, True))).cpu()
        stock = torch.cat([policy.stock_logprobs(prompt.token_ids, c.token_ids) for c in completions]).cpu()
        compare("trainer", trained, "model's own forward", stock, limit)
        worst = max(worst, compare("sampler", sampled, "trainer", trained, float("inf") if corrected else limit))
    return worst


def bound(policy: Policy) -> float:
    """What rounding explains, in nats, for the precision of the model."""
    return BOUNDS[policy.network.head.weight.dtype]


@torch.no_grad()
def trainer_logprobs(policy: Policy, group: Group) -> Tensor:
    """[T], as the update computes them."""
    with policy.network.ready():
        return policy.logprobs(pack(list(split(group, 1 << 30)), policy.network.device))[0]


def compare(name: str, logprobs: Tensor, other_name: str, others: Tensor, limit: float) -> float:
    """The largest difference; refuse when it is beyond rounding."""
    difference = (logprobs - others).abs()
    worst, at = difference.max().item(), int(difference.argmax())
    if not worst <= limit:
        raise UserError(
            f"self-check: the {name} gives a token log-prob {logprobs[at]:.5f}, the {other_name} {others[at]:.5f}; "
            f"they may differ by {limit}. This can't be trained exactly: use another model or engine, or dtype=float32"
        )
    return worst
