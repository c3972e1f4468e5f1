"""The packed stream against the plain way: every row alone, after its own copy of the prompt, by stock attention."""

import pytest
import torch

import tiny
from grpocket.learn.batch import halves, pack, split
from grpocket.model.attention import merge, piece
from grpocket.records import Completion

QUESTIONS = ("the same start 1+2", "the same start 34", "the same start of another")


def made_groups(policy, lengths=((5, 1, 3), (2, 7, 4), (1, 1, 6))):
    generator = torch.Generator().manual_seed(3)
    groups = []
    for prompt, row_lengths in zip(tiny.prompts(*QUESTIONS), lengths, strict=True):
        ids = [tuple(torch.randint(3, 90, (n,), generator=generator).tolist()) for n in row_lengths]
        completions = tuple(Completion(i, (-1.0,) * len(i), "length") for i in ids)
        groups.append(tiny.group(prompt, completions, (1.0, -0.5, 0.25)))
    return groups


def plain_logprobs(policy, groups):
    """One row at a time through the model's own forward."""
    found = []
    for group in groups:
        for rollout in group.rollouts:
            prompt, ids = rollout.prompt_ids, rollout.completion.token_ids
            logits = policy.network.lm(torch.tensor([[*prompt, *ids]]), use_cache=False).logits[0, len(prompt) - 1 : -1]
            found.append(torch.log_softmax(logits, -1).gather(1, torch.tensor(ids)[:, None])[:, 0])
    return torch.cat(found)


def in_order(groups, limit=10_000):
    return [part for group in groups for part in split(group, limit)]


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.parametrize("settings", [{}, {"gradient_checkpointing": True}, {"lora_rank": 0}], ids=str)
def test_packed_equals_plain_in_value_and_gradient(family, settings):
    policy = tiny.policy(family, stir=0.1 if settings.get("lora_rank", 1) else 0.0, **settings)
    groups = made_groups(policy)
    upstream = torch.randn(30, generator=torch.Generator().manual_seed(0))
    plain = plain_logprobs(policy, groups)
    (plain * upstream).sum().backward()
    wanted = tiny.gradients(policy)
    policy.optimizer.zero_grad()
    batch = pack(in_order(groups))
    assert batch.prefix == len(tiny.encode("the same start "))
    with policy.network.ready():
        packed, _ = policy.logprobs(batch)
        (packed * upstream).sum().backward()
    torch.testing.assert_close(packed, plain, atol=1e-5, rtol=0)
    torch.testing.assert_close(tiny.gradients(policy), wanted, atol=1e-5 * wanted.abs().max().item(), rtol=0)


@pytest.mark.parametrize("family", tiny.FAMILIES)
def test_a_row_is_the_same_alone_and_in_any_packing(family):
    policy = tiny.policy(family, stir=0.1)
    groups = made_groups(policy)
    with torch.no_grad(), policy.network.ready():
        whole = policy.logprobs(pack(in_order(groups)))[0]
        single = [policy.logprobs(pack([part]))[0] for part in in_order(groups, limit=1)]
        turned = policy.logprobs(pack(in_order(groups[::-1])))[0]
        halved = [policy.logprobs(half)[0] for half in halves(pack(in_order(groups)))]
    torch.testing.assert_close(torch.cat(single), whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.cat(halved), whole, atol=1e-5, rtol=0)
    torch.testing.assert_close(turned.sort()[0], whole.sort()[0], atol=1e-5, rtol=0)


def test_outside_our_hook_the_model_is_as_transformers_made_it():
    policy = tiny.policy()
    usual = policy.network.lm.config._attn_implementation
    with policy.network.ready():
        assert policy.network.lm.config._attn_implementation != usual
    assert policy.network.lm.config._attn_implementation == usual
    ids = torch.tensor([[5, 6, 7]])
    policy.network.lm.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=3, do_sample=False)


def test_merged_pieces_are_attention_over_all_keys():
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, 4, 16), torch.randn(2, 9, 16), torch.randn(2, 9, 16)
    whole, lse = piece(q, k, v, 0.25, causal=False)
    left, right = (piece(q, k[:, cut], v[:, cut], 0.25, causal=False) for cut in (slice(0, 5), slice(5, 9)))
    for got, wanted in zip(merge(*left, *right), (whole, lse), strict=True):
        torch.testing.assert_close(got, wanted)
