"""The plain path: models that the plans do not compute are sampled and trained all the same, and are told why."""

from dataclasses import replace

import pytest
import torch

import tiny
from grpocket.engine import plain
from grpocket.learn.batch import pack, split
from grpocket.learn.selfcheck import self_check
from grpocket.model.attention import unsupported
from grpocket.records import Sampling

SAMPLING = Sampling(num_samples=4, max_new_tokens=10, stop_ids=(tiny.EOS,))
QUESTIONS = ("What is 1 + 2?", "What is 30 - 4 + 5?", "1?")
BEYOND = {
    "gemma2": ({}, "caps its attention scores"),
    "lfm2": ({"layer_types": ["conv", "full_attention"]}, "layers of kind conv"),
    "gemma3": ({"sliding_window": 8}, "sliding window of 8"),
}


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("row_budget", [64, 6])
def test_the_engine_writes_what_the_plain_path_writes(family, row_budget):
    policy = tiny.policy(family, stir=0.1)
    prompts = tiny.prompts(*QUESTIONS)
    for sampling in (SAMPLING, replace(SAMPLING, temperature=0.7), replace(SAMPLING, num_samples=1, temperature=0.0)):
        fast = tiny.engine(policy, row_budget).generate(prompts, sampling)
        slow = plain.generate(policy.network, prompts, sampling)
        for ours, theirs in zip(fast, slow, strict=True):
            for one, other in zip(ours, theirs, strict=True):
                assert (one.token_ids, one.finish_reason) == (other.token_ids, other.finish_reason)
                assert one.logprobs == pytest.approx(other.logprobs, abs=1e-5)


@pytest.mark.parametrize("family", BEYOND)
@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": True}, {"lora_rank": 0}], ids=str)
def test_models_beyond_the_plans_are_sampled_and_trained_exactly(family, settings):
    changes, reason = BEYOND[family]
    policy = tiny.policy(family, stir=0.1 if settings.get("lora_rank", 1) else 0.0, model_changes=changes, **settings)
    problems = [tiny.problem(question) for question in QUESTIONS]
    assert self_check(policy, tiny.engine(policy), problems) < 1e-4
    assert reason in policy.network.plain

    (prompt,) = tiny.prompts(QUESTIONS[1])
    (completions,) = tiny.engine(policy).generate([prompt], SAMPLING)
    group = tiny.group(prompt, completions, (1.0, -0.5, 0.25, -0.75))
    upstream = torch.randn(sum(len(c.token_ids) for c in completions), generator=torch.Generator().manual_seed(0))
    rows = [(r.prompt_ids, r.completion.token_ids) for r in group.rollouts]
    logits = [policy.network.lm(torch.tensor([[*p, *c]]), use_cache=False).logits[0, len(p) - 1 : -1] for p, c in rows]
    chosen = [
        z.log_softmax(-1).gather(1, torch.tensor(c)[:, None])[:, 0] for z, (_, c) in zip(logits, rows, strict=True)
    ]
    (torch.cat(chosen) * upstream).sum().backward()
    wanted = tiny.gradients(policy)
    policy.optimizer.zero_grad()
    with policy.network.ready():
        logprobs, _ = policy.logprobs(pack(list(split(group, 10_000))))
        (logprobs * upstream).sum().backward()
    torch.testing.assert_close(logprobs, torch.cat(chosen), atol=1e-5, rtol=0)
    torch.testing.assert_close(tiny.gradients(policy), wanted, atol=1e-5 * wanted.abs().max().item(), rtol=0)


def test_a_model_that_the_plans_compute_is_not_run_plainly():
    for family in tiny.FAMILIES:
        policy = tiny.policy(family)
        assert unsupported(policy.network.lm.config) is None
        policy.render(tiny.problem("What is 1 + 2?"))
        assert policy.network.plain is None
