import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from grpocket.engine.sampling import row_keys, sample, uniform


def test_samples_follow_the_probabilities():
    """A chi-squared test with 9 degrees of freedom: 33.7 is passed once in ten thousand."""
    torch.manual_seed(0)
    logits = torch.randn(1, 10) * 1.5
    n = 20_000
    keys = row_keys([(7, 3, draw, 0) for draw in range(n)])
    tokens, _ = sample(logits.expand(n, 10), 0.7, uniform(keys, torch.zeros(n, dtype=torch.int64)))
    expected = torch.softmax(logits[0] / 0.7, -1) * n
    chi2 = ((torch.bincount(tokens, minlength=10) - expected) ** 2 / expected).sum()
    assert chi2 < 33.7


@pytest.mark.parametrize("vocabulary", [2, 255, 256, 257, 1000])
def test_the_token_is_the_inverse_of_the_cumulative_distribution(vocabulary):
    torch.manual_seed(vocabulary)
    logits = torch.randn(50, vocabulary) * 3
    u = torch.rand(50, dtype=torch.float64)
    tokens, logprobs = sample(logits, 1.0, u)
    probs = torch.softmax(logits.double(), -1)
    ends = probs.cumsum(-1).gather(1, tokens[:, None])[:, 0]
    starts = ends - probs.gather(1, tokens[:, None])[:, 0]
    assert (starts - 1e-6 <= u).all()
    assert (u <= ends + 1e-6).all()
    torch.testing.assert_close(logprobs, torch.log_softmax(logits, -1).gather(1, tokens[:, None])[:, 0])


@pytest.mark.parametrize("u", [0.0, 1e-18, 0.5, 1 - 2**-53, 1.0])
def test_no_token_without_mass_is_ever_drawn(u):
    logits = torch.full((1, 600), -math.inf)
    logits[0, [3, 300, 511]] = torch.tensor([0.0, -40.0, 1.0])
    token, logprob = sample(logits, 1.0, torch.tensor([u], dtype=torch.float64))
    assert token.item() in (3, 300, 511)
    assert math.isfinite(logprob.item())


def test_greedy_is_the_most_likely_token_at_temperature_one():
    logits = torch.tensor([[0.0, 3.0, 1.0]])
    token, logprob = sample(logits, 0.0, torch.tensor([0.99]))
    assert token.item() == 1
    torch.testing.assert_close(logprob, torch.log_softmax(logits, -1)[:, 1])


def test_keys_name_distinct_uniform_numbers():
    names = [
        (seed, step, draw, s) for seed in (0, 1, 2**40) for step in range(6) for draw in range(6) for s in range(8)
    ]
    keys = row_keys(names)
    assert len(set(keys.tolist())) == len(names)
    positions = torch.arange(50).repeat(len(names))
    numbers = uniform(keys.repeat_interleave(50), positions)
    assert len(set(numbers.tolist())) == len(numbers)
    assert numbers.min() > 0
    assert numbers.max() < 1
    assert abs(numbers.mean() - 0.5) < 0.005
    assert abs(numbers.var() - 1 / 12) < 0.002


def test_neighbouring_keys_are_not_correlated():
    a = uniform(row_keys([(0, 0, 0, s) for s in range(4000)]), torch.zeros(4000, dtype=torch.int64))
    b = uniform(row_keys([(0, 0, 1, s) for s in range(4000)]), torch.zeros(4000, dtype=torch.int64))
    assert abs(torch.corrcoef(torch.stack([a, b]))[0, 1]) < 0.06


@given(st.lists(st.integers(0, 2**62), min_size=4, max_size=4), st.integers(0, 10**6))
def test_a_number_depends_on_its_name_alone(key, position):
    alone = uniform(row_keys([tuple(key)]), torch.tensor([position]))
    among = uniform(row_keys([(0, 0, 0, 0), tuple(key)]), torch.tensor([1, position]))[1:]
    assert torch.equal(alone, among)
