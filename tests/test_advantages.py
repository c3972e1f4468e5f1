"""Advantages against the standard library's `statistics`, group by group; and the over-long penalty."""

import doctest
import math
import statistics
from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grpocket.algo import advantages as advantages_module
from grpocket.algo import length as length_module
from grpocket.algo.advantages import BASELINES, SCALES, advantages
from grpocket.algo.length import overlong_penalty

CHOICES = list(product(BASELINES, SCALES))
REWARDS = st.sampled_from([0.0, 0.1, 0.25, 0.35, 1.0, 1.1, 1.35, -1.0]) | st.floats(-10, 10).map(lambda x: round(x, 3))
ROWS = st.lists(st.tuples(REWARDS, st.integers(0, 3), st.booleans()), min_size=1, max_size=20)


def compute(rewards, groups=None, mask=None, **choices):
    groups = [0] * len(rewards) if groups is None else groups
    mask = [True] * len(rewards) if mask is None else mask
    return advantages(torch.tensor(rewards), torch.tensor(groups), torch.tensor(mask), **choices).tolist()


def spread_of(peers):
    return statistics.stdev(peers) + 1e-6 if len(set(peers)) > 1 else 1.0


def reference(rows, baseline, scale):
    """One row at a time, from the definitions."""
    batch = [reward for reward, _, counted in rows if counted]
    for i, (reward, group, counted) in enumerate(rows):
        if not counted:
            yield 0.0
            continue
        others = [r for j, (r, g, c) in enumerate(rows) if c and g == group and j != i]
        peers = [*others, reward]
        subtract = {
            "group": statistics.fmean(peers),
            "batch": statistics.fmean(batch),
            "leave_one_out": statistics.fmean(others) if others else reward,
            "none": 0.0,
        }[baseline]
        divide = {"group": spread_of(peers), "batch": spread_of(batch), "none": 1.0}[scale]
        yield (reward - subtract) / divide


@pytest.mark.parametrize(("baseline", "scale"), CHOICES)
@settings(max_examples=40, deadline=None)
@given(rows=ROWS)
def test_every_choice_equals_the_reference(baseline, scale, rows):
    rewards, groups, mask = (list(column) for column in zip(*rows, strict=True))
    rewards = [r if counted else math.nan for r, counted in zip(rewards, mask, strict=True)]
    got = advantages(
        torch.tensor(rewards, dtype=torch.float64), torch.tensor(groups), torch.tensor(mask), baseline, scale
    )
    assert got.dtype == torch.float64
    assert got.tolist() == pytest.approx(list(reference(rows, baseline, scale)), rel=1e-9, abs=1e-9)


def test_grpo_by_hand():
    # mean 0.5, squared distances 4 * 0.25 = 1, over n - 1 = 3: std = sqrt(1/3) = 0.577350
    # 0.5 / (0.577350 + 0.000001) = 0.8660239
    assert compute([1.0, 0.0, 0.0, 1.0]) == pytest.approx([0.8660239, -0.8660239, -0.8660239, 0.8660239], abs=1e-7)


def test_dr_grpo_and_rloo_by_hand():
    # rewards 1, 0, 0: the mean is 1/3; the means of the others are 0, 1/2, 1/2
    assert compute([1.0, 0.0, 0.0], scale="none") == pytest.approx([2 / 3, -1 / 3, -1 / 3])
    assert compute([1.0, 0.0, 0.0], baseline="leave_one_out", scale="none") == pytest.approx([1.0, -0.5, -0.5])


def test_batch_statistics_by_hand():
    # rewards 1, 1 | 0, 0 in two groups: batch mean 1/2, batch std sqrt(1/3); each group alone has no signal
    rewards, groups = [1.0, 1.0, 0.0, 0.0], [0, 0, 1, 1]
    got = compute(rewards, groups, baseline="batch", scale="batch")
    assert got == pytest.approx([0.8660239, 0.8660239, -0.8660239, -0.8660239], abs=1e-7)
    assert compute(rewards, groups) == [0.0] * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.1, 1.35, -0.7, 1e-30, 1e30])
@pytest.mark.parametrize("baseline", ["group", "leave_one_out", "batch"])
@pytest.mark.parametrize("scale", list(SCALES))
def test_equal_rewards_give_exact_zeros(value, dtype, baseline, scale):
    rewards_B = torch.full((8,), value, dtype=dtype)
    got = advantages(rewards_B, torch.zeros(8, dtype=torch.long), torch.ones(8, dtype=torch.bool), baseline, scale)
    assert got.tolist() == [0.0] * 8


def test_a_flat_group_is_exactly_zero_beside_one_with_signal():
    got = compute([0.1, 1.0, 0.1, 0.0, 0.1, 0.3], groups=[0, 1, 0, 1, 0, 1])
    assert [got[i] for i in (0, 2, 4)] == [0.0] * 3
    assert all(got[i] != 0.0 for i in (1, 3, 5))


def test_equal_rewards_are_never_divided_by_eps():
    assert compute([1.0] * 4, baseline="none", scale="batch") == [1.0] * 4
    # the batch mean is 1/4; a flat group keeps the distance from it as it is
    got = compute([1.0, 0.0, 0.0, 0.0], groups=[0, 0, 1, 1], baseline="batch", scale="group")
    assert got[2:] == [-0.25, -0.25]


def test_reward_equal_to_the_problems_number_carries_no_signal():
    groups = [g for g in range(5) for _ in range(4)]
    assert compute([float(g) for g in groups], groups) == [0.0] * 20


def test_a_single_counted_row_gets_zero():
    for baseline in ("group", "leave_one_out"):
        assert compute([0.7], baseline=baseline) == [0.0]
        assert compute([0.7, 0.2], mask=[True, False], baseline=baseline) == [0.0, 0.0]


@pytest.mark.parametrize(("baseline", "scale"), CHOICES)
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf, 1e300])
def test_masked_rows_are_as_if_they_were_not_there(baseline, scale, poison):
    with_masked = compute([1.0, poison, 0.0, 0.25], mask=[True, False, True, True], baseline=baseline, scale=scale)
    without = compute([1.0, 0.0, 0.25], baseline=baseline, scale=scale)
    assert with_masked[1] == 0.0
    assert [with_masked[i] for i in (0, 2, 3)] == pytest.approx(without, rel=1e-12)


@pytest.mark.parametrize(("baseline", "scale"), CHOICES)
def test_nothing_counted_and_nothing_there(baseline, scale):
    assert compute([1.0, 0.0], mask=[False, False], baseline=baseline, scale=scale) == [0.0, 0.0]
    nothing = torch.tensor([], dtype=torch.long)
    assert advantages(nothing.double(), nothing, nothing.bool(), baseline, scale).tolist() == []


@settings(max_examples=40, deadline=None)
@given(rows=ROWS, order=st.randoms(use_true_random=False))
def test_the_order_of_rows_does_not_matter(rows, order):
    shuffled = list(range(len(rows)))
    order.shuffle(shuffled)
    rewards, groups, mask = (list(column) for column in zip(*rows, strict=True))
    expected = compute(rewards, groups, mask)
    got = compute([rewards[i] for i in shuffled], [groups[i] for i in shuffled], [mask[i] for i in shuffled])
    assert got == pytest.approx([expected[i] for i in shuffled], rel=1e-9, abs=1e-9)


def test_overlong_penalty_is_dapos_ramp():
    # the paper's own numbers: 16384 tokens free, a buffer of 4096, 20480 at most
    lengths = [0, 16384, 17408, 18432, 20480, 30000]
    assert [overlong_penalty(n, 20480, 4096) for n in lengths] == [0.0, 0.0, -0.25, -0.5, -1.0, -1.0]


def test_overlong_penalty_off_without_buffer():
    assert overlong_penalty(100, max_new_tokens=100, buffer=0) == 0.0


@pytest.mark.parametrize("module", [advantages_module, length_module])
def test_examples(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
