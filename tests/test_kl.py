"""The claims of kl.py, by enumeration: a vocabulary of three tokens, each weighted with its probability."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grpocket.algo.kl import KL, k1, k2, k3

LOGITS = st.lists(st.floats(-3, 3), min_size=3, max_size=3)
ALL = torch.ones(3, dtype=torch.bool)
SMALL = {"rtol": 1e-9, "atol": 1e-12}


def distributions(logits, reference_logits):
    """theta, the policy's log-probs as a function of it, and the reference's."""
    theta_V = torch.tensor(logits, dtype=torch.float64, requires_grad=True)
    reference_V = torch.tensor(reference_logits, dtype=torch.float64).log_softmax(0)
    return theta_V, theta_V.log_softmax(0), reference_V


def gradient(scalar, theta_V):
    return torch.autograd.grad(scalar, theta_V)[0]


def expected(values_V, logprobs_V):
    """Mean over tokens drawn from the policy. The draw itself is not differentiated, as in training."""
    return (logprobs_V.detach().exp() * values_V).sum()


def kl(from_V, to_V):
    return (from_V.exp() * (from_V - to_V)).sum()


@settings(deadline=None)
@given(LOGITS, LOGITS)
def test_k1_and_k3_are_unbiased(logits, reference_logits):
    _, policy_V, reference_V = distributions(logits, reference_logits)
    exact = kl(policy_V, reference_V)
    torch.testing.assert_close(expected(k1(policy_V, reference_V, ALL), policy_V), exact, **SMALL)
    torch.testing.assert_close(expected(k3(policy_V, reference_V, ALL), policy_V), exact, **SMALL)


def test_k2_is_biased():
    _, policy_V, reference_V = distributions([1.0, 0.0, -1.0], [-1.0, 0.0, 1.0])
    assert abs(expected(k2(policy_V, reference_V, ALL), policy_V) - kl(policy_V, reference_V)) > 0.1


@settings(deadline=None)
@given(LOGITS, LOGITS)
def test_k2_and_k3_are_never_negative_and_k1_may_be(logits, reference_logits):
    _, policy_V, reference_V = distributions(logits, reference_logits)
    assert (k2(policy_V, reference_V, ALL) >= 0).all()
    assert (k3(policy_V, reference_V, ALL) >= -1e-15).all()  # but for the last digit
    k1_V = k1(policy_V, reference_V, ALL)
    assert (k1_V <= 1e-15).any()  # two distributions cannot differ in one direction only


@settings(deadline=None)
@given(LOGITS, LOGITS)
def test_gradient_as_a_loss_term_is_what_the_table_says(logits, reference_logits):
    theta_V, policy_V, reference_V = distributions(logits, reference_logits)
    reverse_V = gradient(kl(theta_V.log_softmax(0), reference_V), theta_V)
    forward_V = gradient(kl(reference_V, theta_V.log_softmax(0)), theta_V)
    claims = {"k1": torch.zeros(3, dtype=torch.float64), "k2": reverse_V, "k3": forward_V}
    for name, claim_V in claims.items():
        got_V = gradient(expected(KL[name](theta_V.log_softmax(0), reference_V, ALL), policy_V), theta_V)
        torch.testing.assert_close(got_V, claim_V, **SMALL)


def test_where_no_claim_is_made_the_gradients_do_differ():
    theta_V, policy_V, reference_V = distributions([1.0, 0.0, -1.0], [-1.0, 0.0, 0.5])
    reverse_V = gradient(kl(theta_V.log_softmax(0), reference_V), theta_V)
    for name in ("k1", "k3"):
        got_V = gradient(expected(KL[name](theta_V.log_softmax(0), reference_V, ALL), policy_V), theta_V)
        assert (got_V - reverse_V).abs().max() > 0.1


@settings(deadline=None)
@given(LOGITS, LOGITS)
def test_k1_in_the_reward_has_the_gradient_of_the_kl(logits, reference_logits):
    theta_V, policy_V, reference_V = distributions(logits, reference_logits)
    logprobs_V = theta_V.log_softmax(0)
    penalty_V = k1(logprobs_V, reference_V, ALL).detach()
    got_V = gradient(expected(penalty_V * logprobs_V, policy_V), theta_V)
    torch.testing.assert_close(got_V, gradient(kl(theta_V.log_softmax(0), reference_V), theta_V), **SMALL)


@pytest.mark.parametrize("name", list(KL))
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_masked_tokens_are_exactly_zero_in_value_and_gradient(name, poison):
    logprobs_T = torch.tensor([-1.0, poison, -2.0, poison], requires_grad=True)
    reference_T = torch.tensor([-1.5, poison, -1.0, -1.0])
    value_T = KL[name](logprobs_T, reference_T, torch.tensor([True, False, True, False]))
    assert value_T[1] == value_T[3] == 0.0
    grad_T = gradient(value_T.sum(), logprobs_T)
    assert grad_T[1] == grad_T[3] == 0.0
    assert grad_T.isfinite().all()


@pytest.mark.parametrize("name", list(KL))
def test_the_reference_gets_no_gradient(name):
    logprobs_T = torch.tensor([-1.0, -2.0, -3.0], requires_grad=True)
    reference_T = torch.tensor([-1.5, -1.0, -3.0], requires_grad=True)
    KL[name](logprobs_T, reference_T, ALL).sum().backward()
    assert reference_T.grad is None


def test_k3_keeps_its_digits_near_the_reference():
    logprobs_T = torch.full((3,), -1.0)
    value_T = k3(logprobs_T, logprobs_T - 1e-3, ALL)
    torch.testing.assert_close(value_T, torch.full((3,), 5e-7), rtol=1e-2, atol=0.0)


def test_k3_stays_finite_far_from_the_reference():
    logprobs_T = torch.tensor([-1e4, 0.0, -1e4], requires_grad=True)
    value_T = k3(logprobs_T, torch.tensor([0.0, -1e4, -1e4]), ALL)
    assert value_T.isfinite().all()
    assert gradient(value_T.sum(), logprobs_T).isfinite().all()
