"""Every loss against a slow reference written from the papers, against finite differences, and by hand.

The reference below is plain Python: loops over rows and tokens, derivatives worked out on paper.
"""

import doctest
import inspect
import math
import random
import re
from itertools import chain, product
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from grpocket.algo import correction, losses
from grpocket.algo.advantages import advantages
from grpocket.algo.correction import importance_weights
from grpocket.algo.losses import LOSSES, RATIOS, WEIGHTS, Clip, Totals, clip_stats, token_ratio

ROOT = Path(__file__).parent.parent
CLIPPED = ["grpo", "dapo", "dr_grpo", "gspo"]
LIMIT = 20.0


class Token(NamedTuple):
    logprob: float
    old: float
    trained: bool = True


class Row(NamedTuple):
    advantage: float
    tokens: list[Token]


class Packed(NamedTuple):
    logprobs_T: torch.Tensor
    old_logprobs_T: torch.Tensor
    advantages_T: torch.Tensor
    mask_T: torch.Tensor
    row_T: torch.Tensor


def pack(rows, order=None, dtype=torch.float64):
    """Rows as tensors; `order` scatters the tokens of all rows among each other."""
    flat = [(*token, row.advantage, r) for r, row in enumerate(rows) for token in row.tokens]
    flat = flat if order is None else [flat[i] for i in order]
    logprobs, old, mask, advantage, row = zip(*flat, strict=True) if flat else ((),) * 5
    return Packed(
        torch.tensor(logprobs, dtype=dtype, requires_grad=True),
        torch.tensor(old, dtype=dtype),
        torch.tensor(advantage, dtype=dtype),
        torch.tensor(mask, dtype=torch.bool),
        torch.tensor(row, dtype=torch.long),
    )


def run(name, packed, totals, clip):
    """The contributions of the tokens and the gradient of their sum."""
    contributions_T = LOSSES[name](*packed, totals, clip)
    (gradient_T,) = torch.autograd.grad(contributions_T.sum(), packed.logprobs_T)
    return contributions_T.detach(), gradient_T


def count(rows, max_new_tokens):
    trained = [[t for t in row.tokens if t.trained] for row in rows]
    return Totals(len([r for r in trained if r]), sum(map(len, trained)), max_new_tokens)


# The reference.


def ratio_and_slope(log_ratio):
    """exp within the limit, and its derivative: 0 where it is held."""
    held = min(max(log_ratio, -LIMIT), LIMIT)
    return math.exp(held), math.exp(held) if held == log_ratio else 0.0


def min_clip(ratio, advantage, clip):
    """PPO's min, with INTELLECT-2's delta: the value, and its derivative with respect to the ratio."""
    free, free_slope = ratio * advantage, advantage
    if clip.delta is not None and ratio > clip.delta:
        free, free_slope = clip.delta * advantage, 0.0
    inside = 1 - clip.low <= ratio <= 1 + clip.high
    clipped = min(max(ratio, 1 - clip.low), 1 + clip.high) * advantage
    if inside or free < clipped:
        return free, free_slope
    return clipped, 0.0


def reference_row(name, row, totals, clip):
    """The row's term of the loss, and its derivative with respect to each trained token's log-prob."""
    tokens, advantage = [t for t in row.tokens if t.trained], row.advantage
    if not tokens:
        return 0.0, []
    if name == "gspo":
        s, slope = ratio_and_slope(sum(t.logprob - t.old for t in tokens) / len(tokens))
        value, derivative = min_clip(s, advantage, clip)
        return -value / totals.responses, [-derivative * slope / len(tokens) / totals.responses] * len(tokens)
    denominator = {
        "grpo": totals.responses * len(tokens),
        "dapo": totals.tokens,
        "dr_grpo": totals.responses * totals.max_new_tokens,
        "cispo": totals.tokens,
        "pg": totals.responses * totals.max_new_tokens,
    }[name]
    value, gradient = 0.0, []
    for token in tokens:
        ratio, slope = ratio_and_slope(token.logprob - token.old)
        if name == "pg":
            term, derivative = advantage * token.logprob, advantage
        elif name == "cispo":
            weight = min(ratio, clip.ratio_cap)
            term, derivative = weight * advantage * token.logprob, weight * advantage
        else:
            term, by_ratio = min_clip(ratio, advantage, clip)
            derivative = by_ratio * slope
        value -= term / denominator
        gradient.append(-derivative / denominator)
    return value, gradient


def reference(name, rows, totals, clip):
    """The terms of the rows, and the derivative for every token, masked ones included."""
    values, gradient = [], []
    for row in rows:
        value, of_trained = reference_row(name, row, totals, clip)
        values.append(value)
        derivatives = iter(of_trained)
        gradient += [next(derivatives) if t.trained else 0.0 for t in row.tokens]
    return values, gradient


# Ragged batches.

POISON = [math.nan, math.inf, -math.inf]
LOG_RATIOS = st.sampled_from([0.0, 3e-4, -3e-4, 0.1, -0.1, 0.21, -0.25, 0.5, -0.5, 1.7, 15.0, -15.0, 80.0, -800.0])
LOGPROBS = st.floats(-12, 0).map(lambda x: round(x, 3))
ADVANTAGES = st.sampled_from([0.0, 1.0, -1.0, 0.25]) | st.floats(-3, 3).map(lambda x: round(x, 3))
MASKED = st.builds(Token, st.sampled_from(POISON), st.sampled_from([*POISON, -1.0]), st.just(False))


@st.composite
def trained_token(draw):
    logprob = draw(LOGPROBS)
    return Token(logprob, logprob - draw(LOG_RATIOS | st.floats(-1, 1).map(lambda x: round(x, 4))))


TRAINED_ROW = st.builds(Row, ADVANTAGES, st.lists(trained_token() | MASKED, max_size=5))
MASKED_ROW = st.builds(Row, st.sampled_from([0.0, math.nan]), st.lists(MASKED, max_size=4))
BATCHES = st.lists(TRAINED_ROW | MASKED_ROW, min_size=1, max_size=5)
CLIPS = st.builds(
    Clip,
    low=st.sampled_from([0.2, 3e-4, 0.9]),
    high=st.sampled_from([0.2, 0.28, 4e-4]),
    delta=st.sampled_from([None, 1.5, 4.0]),
    ratio_cap=st.sampled_from([1.2, 5.0]),
)


def near_a_corner(name, rows, clip):
    """Whether some ratio lies so near a bound that the derivative there is not one number."""
    bounds = [1 - clip.low, 1 + clip.high, clip.ratio_cap, clip.delta or 1e9]
    for row in rows:
        log_ratios = [t.logprob - t.old for t in row.tokens if t.trained]
        means = [sum(log_ratios) / len(log_ratios)] if name == "gspo" and log_ratios else log_ratios
        if any(abs(x - math.log(b)) < 1e-5 for x, b in product(means, bounds)):
            return True
        if any(abs(abs(x) - LIMIT) < 1e-3 for x in means):
            return True
    return False


@pytest.mark.parametrize("name", list(LOSSES))
@settings(max_examples=100, deadline=None)
@given(rows=BATCHES, clip=CLIPS, others=st.integers(0, 3), order=st.randoms(use_true_random=False))
def test_value_and_gradient_equal_the_reference(name, rows, clip, others, order):
    assume(not near_a_corner(name, rows, clip))
    counted = count(rows, max_new_tokens=6)  # this micro-batch, and `others` rows of six tokens elsewhere
    totals = Totals(counted.responses + others, counted.tokens + 6 * others, 6)
    shuffled = list(range(sum(len(row.tokens) for row in rows)))
    order.shuffle(shuffled)

    packed = pack(rows, shuffled)
    contributions_T, gradient_T = run(name, packed, totals, clip)
    values, gradient = reference(name, rows, totals, clip)

    for r, value in enumerate(values):
        own = contributions_T[packed.row_T == r].sum().item()
        assert own == pytest.approx(value, rel=1e-6, abs=1e-9), f"row {r}"
    assert gradient_T.tolist() == pytest.approx([gradient[i] for i in shuffled], rel=1e-6, abs=1e-15)
    assert contributions_T[~packed.mask_T].tolist() == [0.0] * int((~packed.mask_T).sum())


@pytest.mark.parametrize("name", list(LOSSES))
@settings(max_examples=50, deadline=None)
@given(rows=BATCHES, clip=CLIPS)
def test_gradient_equals_finite_differences(name, rows, clip):
    assume(not near_a_corner(name, rows, clip))
    totals, step = count(rows, max_new_tokens=6), 1e-6
    packed = pack(rows)
    _, gradient_T = run(name, packed, totals, clip)

    def difference(t):
        moved = []
        for sign in (1, -1):
            nudge_T = torch.zeros_like(packed.old_logprobs_T)
            nudge_T[t] = sign * step
            # the ratio of cispo is a weight and not differentiated: moving both log-probs leaves it as it is
            old_T = packed.old_logprobs_T + nudge_T if name == "cispo" else packed.old_logprobs_T
            nudged = packed._replace(logprobs_T=packed.logprobs_T.detach() + nudge_T, old_logprobs_T=old_T)
            moved.append(LOSSES[name](*nudged, totals, clip))
        return ((moved[0] - moved[1]).sum() / (2 * step)).item()

    expected = [difference(t) for t in range(len(gradient_T))]
    scale = max((abs(t.logprob) + 1) * 1e-9 for t in chain([Token(0, 0)], *(row.tokens for row in rows)) if t.trained)
    assert gradient_T.tolist() == pytest.approx(expected, rel=1e-6, abs=scale)


# By hand. Row 0: A = 2, ratios 1.5 and 1, log-probs -1 and -2. Row 1: A = -1, ratio 0.5, log-prob -0.5.
# R = 2, N = 3, max_new_tokens = 4.

BY_HAND = [
    Row(2.0, [Token(-1.0, -1.0 - math.log(1.5)), Token(-2.0, -2.0)]),
    Row(-1.0, [Token(-0.5, -0.5 - math.log(0.5))]),
]
HAND_TOTALS = Totals(2, 3, 4)


@pytest.mark.parametrize(
    ("name", "clip", "value", "gradient"),
    [
        # terms: min(3, 2.4) = 2.4; 2; min(-0.5, -0.8) = -0.8. The first and the last are clipped: no gradient.
        # grpo: -(1/2) * ((2.4 + 2) / 2 - 0.8) = -0.7; the middle token: -(1/2) * (1/2) * 2 = -0.5
        ("grpo", Clip(), -0.7, [0, -0.5, 0]),
        # dapo: high 0.28 makes the first term min(3, 2.56): -(2.56 + 2 - 0.8) / 3 = -3.76/3; -2/3
        ("dapo", Clip(high=0.28), -3.76 / 3, [0, -2 / 3, 0]),
        # dr_grpo: -(2.4 + 2 - 0.8) / (2 * 4) = -0.45; -2/8
        ("dr_grpo", Clip(), -0.45, [0, -0.25, 0]),
        # gspo: s_0 = sqrt(1.5 * 1) = 1.2247449 > 1.2: 2.4; s_1 = 0.5 < 0.8: -0.8; -(2.4 - 0.8) / 2 = -0.8, all clipped
        ("gspo", Clip(), -0.8, [0, 0, 0]),
        # gspo at 0.3: s_0 is inside: 2.4494897; row 1: -0.7; -(2.4494897 - 0.7) / 2 = -0.8747449
        # gradient of row 0: -(1/2) * 2 * 1.2247449 / 2 tokens = -0.6123724 each
        ("gspo", Clip(low=0.3, high=0.3), -0.8747449, [-0.6123724, -0.6123724, 0]),
        # cispo, cap 1.2: 1.2 * 2 * -1 = -2.4; 1 * 2 * -2 = -4; 0.5 * -1 * -0.5 = 0.25; -(-6.15) / 3 = 2.05
        # gradient: -1.2 * 2 / 3, -1 * 2 / 3, -0.5 * -1 / 3
        ("cispo", Clip(ratio_cap=1.2), 2.05, [-0.8, -2 / 3, 1 / 6]),
        # pg: -(2 * -1 + 2 * -2 - 1 * -0.5) / 8 = 5.5/8; gradient -2/8, -2/8, 1/8
        ("pg", Clip(), 0.6875, [-0.25, -0.25, 0.125]),
    ],
)
def test_by_hand(name, clip, value, gradient):
    contributions_T, gradient_T = run(name, pack(BY_HAND), HAND_TOTALS, clip)
    assert contributions_T.sum().item() == pytest.approx(value, abs=1e-7)
    assert gradient_T.tolist() == pytest.approx(gradient, abs=1e-7)
    assert [g == 0 for g in gradient_T.tolist()] == [g == 0 for g in gradient]


@pytest.mark.parametrize("name", CLIPPED)
@pytest.mark.parametrize(
    ("advantage", "ratio", "value", "gradient"),
    [
        (1.0, 0.5, -0.5, -0.5),
        (1.0, 1.0, -1.0, -1.0),
        (1.0, 1.5, -1.2, 0.0),  # good and already likelier: no more of it
        (-1.0, 0.5, 0.8, 0.0),  # bad and already rarer: no more of it
        (-1.0, 1.0, 1.0, 1.0),
        (-1.0, 1.5, 1.5, 1.5),
        (0.0, 1.5, 0.0, 0.0),
    ],
)
def test_the_gradient_is_zero_exactly_where_the_clip_says(name, advantage, ratio, value, gradient):
    packed = pack([Row(advantage, [Token(-1.0, -1.0 - math.log(ratio))])])
    contributions_T, gradient_T = run(name, packed, Totals(1, 1, 1), Clip())
    assert contributions_T.item() == pytest.approx(value)
    assert gradient_T.item() == (0.0 if gradient == 0.0 else pytest.approx(gradient))


@pytest.mark.parametrize("name", CLIPPED)
def test_delta_bounds_what_a_bad_token_can_do(name):
    packed = pack([Row(-1.0, [Token(-1.0, -1.0 - math.log(5.0))])])
    assert run(name, packed, Totals(1, 1, 1), Clip())[1].item() == pytest.approx(5.0)
    contributions_T, gradient_T = run(name, packed, Totals(1, 1, 1), Clip(delta=4.0))
    assert (contributions_T.item(), gradient_T.item()) == (pytest.approx(4.0), 0.0)


@pytest.mark.parametrize("advantage", [1.0, -1.0])
@pytest.mark.parametrize(("ratio", "weight"), [(0.5, 0.5), (1.0, 1.0), (4.0, 4.0), (9.0, 5.0)])
def test_cispo_keeps_every_gradient_and_caps_its_weight(advantage, ratio, weight):
    packed = pack([Row(advantage, [Token(-1.0, -1.0 - math.log(ratio))])])
    _, gradient_T = run("cispo", packed, Totals(1, 1, 1), Clip())
    assert gradient_T.item() == pytest.approx(-advantage * weight)


# Denominators.


def unequal_rows(seed=0, num_rows=8):
    rng = random.Random(seed)
    return [
        Row(
            rng.gauss(0, 1),
            [
                Token(x := -rng.random() * 3, x - rng.gauss(0, 0.3), rng.random() < 0.9)
                for _ in range(rng.randint(0, 9))
            ],
        )
        for _ in range(num_rows)
    ]


def gradient_in_parts(name, rows, parts, totals, clip):
    size = math.ceil(len(rows) / parts)
    value, gradient = 0.0, []
    for start in range(0, len(rows), size):
        contributions_T, gradient_T = run(name, pack(rows[start : start + size]), totals, clip)
        value += contributions_T.sum().item()
        gradient += gradient_T.tolist()
    return value, gradient


@pytest.mark.parametrize("name", list(LOSSES))
@pytest.mark.parametrize("parts", [2, 3, 4, 8])
def test_micro_batches_do_not_change_the_gradient(name, parts):
    rows = unequal_rows()
    totals = count(rows, max_new_tokens=10)
    value, gradient = gradient_in_parts(name, rows, 1, totals, Clip())
    parts_value, parts_gradient = gradient_in_parts(name, rows, parts, totals, Clip())
    assert parts_value == pytest.approx(value, rel=1e-6)
    assert parts_gradient == pytest.approx(gradient, rel=1e-6, abs=1e-15)


@pytest.mark.parametrize("name", list(LOSSES))
def test_the_order_of_rows_does_not_change_the_gradient(name):
    rows = unequal_rows()
    totals = count(rows, max_new_tokens=10)
    _, gradient = gradient_in_parts(name, rows, 1, totals, Clip())
    _, backwards = gradient_in_parts(name, rows[::-1], 1, totals, Clip())
    per_row = [backwards[start:stop] for start, stop in spans(rows[::-1])][::-1]
    assert list(chain(*per_row)) == pytest.approx(gradient, rel=1e-6, abs=1e-15)


def spans(rows):
    start = 0
    for row in rows:
        yield start, start + len(row.tokens)
        start += len(row.tokens)


@pytest.mark.parametrize("name", list(LOSSES))
@pytest.mark.parametrize("poison", [math.nan, math.inf, -math.inf])
def test_masked_tokens_are_as_if_they_were_not_there(name, poison):
    clean = [row._replace(tokens=[t for t in row.tokens if t.trained]) for row in unequal_rows()]
    bad = Token(poison, poison, trained=False)
    poisoned = [row._replace(tokens=[bad, *row.tokens, bad]) for row in clean] + [Row(poison, [bad, bad])]
    totals = count(clean, max_new_tokens=10)
    assert count(poisoned, 10) == totals
    value, gradient = gradient_in_parts(name, clean, 1, totals, Clip())
    poisoned_value, poisoned_gradient = gradient_in_parts(name, poisoned, 1, totals, Clip())
    assert poisoned_value == pytest.approx(value, rel=1e-12)
    trained = pack(poisoned).mask_T.tolist()
    assert [g for g, t in zip(poisoned_gradient, trained, strict=True) if t] == pytest.approx(gradient, rel=1e-12)
    assert all(g == 0.0 for g, t in zip(poisoned_gradient, trained, strict=True) if not t)


@pytest.mark.parametrize("name", list(LOSSES))
@pytest.mark.parametrize("rows", [[], [Row(1.0, [])], [Row(1.0, [Token(math.nan, 0.0, False)] * 3)]])
def test_nothing_trained_is_a_zero_loss_with_a_zero_gradient(name, rows):
    contributions_T, gradient_T = run(name, pack(rows), Totals(0, 0, 8), Clip())
    packed = pack(rows)
    weights_T = WEIGHTS[name](packed.mask_T, packed.row_T, Totals(0, 0, 8))
    assert contributions_T.tolist() == gradient_T.tolist() == weights_T.tolist() == [0.0] * len(gradient_T)


@pytest.mark.parametrize("name", list(LOSSES))
def test_extreme_ratios_stay_finite_in_float32(name):
    rows = [Row(a, [Token(x, y)]) for a in (1.0, -1.0, 0.0) for x, y in ((0.0, -1e4), (-1e4, 0.0), (-100.0, -1.0))]
    contributions_T, gradient_T = run(name, pack(rows, dtype=torch.float32), count(rows, 8), Clip())
    assert contributions_T.isfinite().all()
    assert gradient_T.isfinite().all()


@pytest.mark.parametrize("name", CLIPPED)
def test_a_token_that_became_impossible_has_no_gradient(name):
    rows = [Row(a, [Token(-math.inf, -1.0)]) for a in (1.0, -1.0, 0.0)]
    contributions_T, gradient_T = run(name, pack(rows, dtype=torch.float32), count(rows, 8), Clip())
    assert contributions_T.isfinite().all()
    assert gradient_T.tolist() == [0.0] * 3


@pytest.mark.parametrize("name", list(LOSSES))
def test_only_the_current_policy_gets_a_gradient(name):
    packed = pack(unequal_rows())
    old_T = packed.old_logprobs_T.requires_grad_()
    LOSSES[name](*packed._replace(old_logprobs_T=old_T), Totals(8, 40, 10), Clip()).sum().backward()
    assert old_T.grad is None


@pytest.mark.parametrize("name", list(LOSSES))
def test_weights_are_those_of_the_loss(name):
    # ratio 1, A = -1; log-prob 1 (no matter that none is) for the losses that multiply by it
    rows = [Row(-1.0, [Token(1.0, 1.0, t.trained) for t in row.tokens]) for row in unequal_rows()]
    packed, totals = pack(rows), count(rows, 10)
    contributions_T, _ = run(name, packed, totals, Clip())
    weights_T = WEIGHTS[name](packed.mask_T, packed.row_T, totals)
    torch.testing.assert_close(contributions_T, weights_T.double(), rtol=1e-6, atol=0.0)


def test_the_weights_of_a_mean_add_up_to_one():
    rows = [row for row in unequal_rows() if any(t.trained for t in row.tokens)]
    packed, totals = pack(rows), count(rows, 10)
    for name in ("grpo", "dapo"):
        assert WEIGHTS[name](packed.mask_T, packed.row_T, totals).sum().item() == pytest.approx(1.0)


# What theory says.


@pytest.mark.parametrize("name", list(LOSSES))
def test_on_fresh_rollouts_every_loss_is_reinforce_with_its_own_weights(name):
    rows = [row._replace(tokens=[t._replace(old=t.logprob) for t in row.tokens]) for row in unequal_rows()]
    packed, totals = pack(rows), count(rows, 10)
    _, gradient_T = run(name, packed, totals, Clip())
    weights_T = WEIGHTS[name](packed.mask_T, packed.row_T, totals)
    torch.testing.assert_close(gradient_T, -packed.advantages_T * weights_T, rtol=1e-6, atol=1e-15)


@pytest.mark.parametrize("name", ["grpo", "gspo"])
def test_on_fresh_rollouts_the_loss_is_zero_whatever_was_earned(name):
    group_B = torch.zeros(4, dtype=torch.long)
    earned_B = advantages(torch.tensor([1.0, 0.25, 0.0, 0.0]), group_B, group_B == 0)
    rows = [Row(a, [Token(-1.0, -1.0)] * n) for a, n in zip(earned_B.tolist(), (1, 5, 2, 7), strict=True)]
    contributions_T, gradient_T = run(name, pack(rows), count(rows, 8), Clip())
    assert contributions_T.sum().item() == pytest.approx(0.0, abs=1e-7)
    assert gradient_T.abs().max() > 0.01


def test_pg_is_the_gradient_of_the_expected_reward():
    # all 9 responses of two tokens over a vocabulary of 3, each weighted with its probability
    theta_V = torch.tensor([0.3, -0.2, 0.5], dtype=torch.float64, requires_grad=True)
    pairs = list(product(range(3), range(3)))
    reward_B = torch.tensor([float(a + 2 * b * a - b) for a, b in pairs], dtype=torch.float64)
    logprobs_B2 = theta_V.log_softmax(0)[torch.tensor(pairs)]
    probability_B = logprobs_B2.sum(1).exp()
    (exact_V,) = torch.autograd.grad((probability_B * reward_B).sum(), theta_V, retain_graph=True)

    row_T = torch.arange(9).repeat_interleave(2)
    loss_T = losses.pg(
        logprobs_B2.flatten(), logprobs_B2.flatten(), reward_B[row_T], row_T >= 0, row_T, Totals(1, 2, 5), Clip()
    )
    (got_V,) = torch.autograd.grad((loss_T * probability_B.detach()[row_T]).sum(), theta_V)
    torch.testing.assert_close(got_V * -5, exact_V, rtol=1e-6, atol=1e-9)


# What is counted, and what corrects the sampler.


def test_clip_stats_by_hand():
    ratios, masked = [0.5, 0.5, 0.6, 0.7, 1.0, 1.5, 1.5, 9.0, 9.0], Token(math.nan, math.inf, trained=False)
    signs = [1.0, -1.0, -1.0, -1.0, 1.0, 1.0, -1.0, 1.0, -1.0]
    rows = [Row(a, [Token(-1.0, -1.0 - math.log(r))]) for a, r in zip(signs, ratios, strict=True)]
    packed = pack([*rows, Row(1.0, [masked])])
    ratio_T = token_ratio(packed.logprobs_T, packed.old_logprobs_T, packed.mask_T, packed.row_T)
    stats = clip_stats(ratio_T, packed.advantages_T, packed.mask_T, Clip())
    # low: 0.5, 0.6, 0.7 with A < 0. high: 1.5 and 9 with A > 0. capped: 9 with A > 0
    assert [float(x) for x in stats] == pytest.approx([sum(ratios), 3, 2, 5, 1, 9])
    assert not stats.ratio.requires_grad


@pytest.mark.parametrize("name", CLIPPED)
@settings(max_examples=50, deadline=None)
@given(rows=st.lists(TRAINED_ROW, min_size=1, max_size=4))
def test_clip_stats_count_the_tokens_whose_gradient_is_cut_off(name, rows):
    assume(not near_a_corner(name, rows, Clip()))
    packed, totals = pack(rows), count(rows, 6)
    ratio_T = RATIOS[name](packed.logprobs_T, packed.old_logprobs_T, packed.mask_T, packed.row_T)
    _, gradient_T = run(name, packed, totals, Clip())
    mask_T = packed.mask_T & (ratio_T.log().abs() < LIMIT - 1e-6)  # a ratio that is held has no gradient either
    stats = clip_stats(ratio_T, packed.advantages_T, mask_T, Clip())
    cut_T = mask_T & (gradient_T == 0) & (packed.advantages_T != 0)
    assert stats.region.item() == cut_T.sum().item() == stats.low.item() + stats.high.item()
    assert stats.tokens.item() == mask_T.sum().item()


def test_importance_weights_by_hand():
    old_T = torch.tensor([-1.0, -1.0, -1.0, math.nan, 0.0], requires_grad=True)
    sampled_T = torch.tensor([-1.0, -1.0 - math.log(1.5), -3.0, -1.0, -1e4])
    weights_T = importance_weights(old_T, sampled_T, torch.tensor([True, True, True, False, True]), cap=2.0)
    assert weights_T.tolist() == pytest.approx([1.0, 1.5, 2.0, 0.0, 2.0])
    assert not weights_T.requires_grad


def test_importance_weights_make_the_mean_that_of_the_trainer():
    sampled_V = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log()
    old_V = torch.tensor([0.4, 0.35, 0.25], dtype=torch.float64).log()
    weights_V = importance_weights(old_V, sampled_V, sampled_V < 0, cap=2.0)
    torch.testing.assert_close(sampled_V.exp() * weights_V, old_V.exp())


# The documentation.


def stripped(text):
    return "\n".join(line.strip() for line in text.splitlines() if line.strip())


def test_the_code_in_the_documentation_is_the_code():
    page = (ROOT / "docs" / "algorithms.md").read_text(encoding="utf-8")
    source = "\n".join(stripped(path.read_text(encoding="utf-8")) for path in Path(losses.__file__).parent.glob("*.py"))
    blocks = [stripped(block) for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL)]
    assert blocks
    assert [block for block in blocks if block not in source] == []
    for name, function in LOSSES.items():
        body = stripped(inspect.getsource(function).split('"""')[2])
        assert any(body in block for block in blocks), f"{name} is not quoted"


@pytest.mark.parametrize("module", [losses, correction])
def test_examples(module):
    assert doctest.testmod(module).failed == 0
