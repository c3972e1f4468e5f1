import math

import pytest
import torch

import tiny
from grpocket.algo import logprobs
from grpocket.algo.logprobs import LogitTransform, token_logprobs
from grpocket.learn.batch import pack, split
from grpocket.records import Completion, Sampling


def plain(hidden, weight, target, transform):
    """The same with the full logits and autograd."""
    logits = hidden @ weight.T * transform.scale
    if transform.softcap:
        logits = transform.softcap * torch.tanh(logits / transform.softcap)
    logprobs_all = torch.log_softmax(logits / transform.temperature, -1)
    return logprobs_all.gather(1, target[:, None])[:, 0], -(logprobs_all.exp() * logprobs_all).sum(-1)


@pytest.mark.parametrize("transform", [LogitTransform(), LogitTransform(0.5), LogitTransform(1.3, 0.25, 5.0)])
@pytest.mark.parametrize("chunk", [1, 3, 1000])
@pytest.mark.parametrize("entropy", [False, True])
def test_values_and_gradients_equal_the_full_logits(transform, chunk, entropy, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(logprobs, "CHUNK_ELEMENTS", 11 * chunk)
    hidden, weight = torch.randn(7, 5).double().requires_grad_(), torch.randn(11, 5).double().requires_grad_()
    target, upstream = torch.randint(11, (7,)), torch.randn(2, 7).double()
    upstream[1] *= entropy
    wanted = plain(hidden, weight, target, transform)
    got = token_logprobs(hidden, weight, target, transform, entropy_gradient=entropy)
    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine.double(), theirs, rtol=1e-5, atol=1e-6)
    wanted_grads = torch.autograd.grad((torch.stack(wanted) * upstream).sum(), (hidden, weight))
    total = (got[0] * upstream[0]).sum() + ((got[1] * upstream[1]).sum() if entropy else 0)
    for mine, theirs in zip(torch.autograd.grad(total, (hidden, weight)), wanted_grads, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


def test_uniform_logits_have_an_entropy_of_log_v():
    _, entropy = token_logprobs(torch.zeros(3, 4), torch.randn(50, 4), torch.tensor([0, 7, 49]), LogitTransform(0.7))
    torch.testing.assert_close(entropy, torch.full((3,), math.log(50)))


def test_no_gradient_is_formed_when_none_is_wanted():
    hidden, weight = torch.randn(3, 4), torch.randn(6, 4)
    logprob, entropy = token_logprobs(hidden, weight, torch.tensor([0, 1, 2]), LogitTransform())
    assert not logprob.requires_grad
    assert not entropy.requires_grad


# What a token's log-prob may and must depend on


def batch_of(prompt_text, completion_text):
    ids = tiny.encode(completion_text)
    completion = Completion(ids, (0.0,) * len(ids), "length")
    (prompt,) = tiny.prompts(prompt_text)
    return pack(list(split(tiny.group(prompt, (completion,), (1.0,)), 1000)))


def logprobs_of(policy, prompt_text, completion_text):
    with policy.network.ready(), torch.no_grad():
        return policy.logprobs(batch_of(prompt_text, completion_text))[0]


def test_logprobs_equal_a_step_by_step_loop():
    policy = tiny.policy(stir=0.1)
    prompt, completion = tiny.encode("what is 12?"), tiny.encode("the end")
    steps = []
    for at, token in enumerate(completion):
        ids = torch.tensor([[*prompt, *completion[:at]]])
        steps.append(torch.log_softmax(policy.network.lm(ids).logits[0, -1], -1)[token])
    torch.testing.assert_close(logprobs_of(policy, "what is 12?", "the end"), torch.stack(steps), atol=1e-5, rtol=0)


def test_a_token_does_not_see_itself_or_what_follows():
    policy = tiny.policy(stir=0.1)
    one, other = logprobs_of(policy, "12+3=", "abcd"), logprobs_of(policy, "12+3=", "abxy")
    torch.testing.assert_close(one[:2], other[:2])
    assert not torch.isclose(one[3], other[3])


def test_the_prompt_matters():
    policy = tiny.policy(stir=0.1)
    assert not torch.allclose(logprobs_of(policy, "12+3=", "abcd"), logprobs_of(policy, "12-3=", "abcd"), atol=1e-3)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_recorded_logprobs_are_the_trainers_at_every_temperature(temperature):
    policy = tiny.policy(stir=0.1, temperature=temperature)
    (prompt,) = tiny.prompts("7 + 5 = ")
    ((completion, *_),) = tiny.engine(policy).generate([prompt], Sampling(2, 10, (tiny.EOS,), temperature))
    batch = pack(list(split(tiny.group(prompt, (completion,), (1.0,)), 1000)))
    with policy.network.ready(), torch.no_grad():
        got, _ = policy.logprobs(batch)
    torch.testing.assert_close(got, batch.old_logprobs_T, atol=1e-5, rtol=0)
    torch.testing.assert_close(got, policy.stock_logprobs(prompt.token_ids, completion.token_ids), atol=1e-5, rtol=0)
