import random
from itertools import combinations
from statistics import fmean

import pytest
from scipy.stats import binomtest, bootstrap, t

import tiny
from grpocket.engine.engine import ScriptedEngine
from grpocket.evaluate.accuracy import evaluate
from grpocket.evaluate.intervals import _student, bootstrap_difference, mcnemar, paired_difference, wilson
from grpocket.evaluate.samples import evaluate_samples, pass_at_k
from grpocket.evaluate.verdict import problems_needed, verdict
from grpocket.records import Sampling


def answers(gained, lost, both, neither):
    before = [False] * gained + [True] * lost + [True] * both + [False] * neither
    after = [True] * gained + [False] * lost + [True] * both + [False] * neither
    return before, after


@pytest.mark.parametrize(
    ("table", "low", "high"),
    [
        # Newcombe 1998, Table II, method 10: rows (both, gained, lost, neither) -> interval of (gained - lost) / n
        ((36, 12, 2, 0), 0.0569, 0.3404),
        ((0, 30, 0, 0), 0.8395, 1.0),  # every pair changed: sqrt of two Wilson distances of 0.1135
    ],
)
def test_the_paired_interval_is_newcombes(table, low, high):
    both, gained, lost, neither = table
    got = paired_difference(*answers(gained, lost, both, neither))
    n = sum(table)
    assert got.value == pytest.approx((gained - lost) / n)
    assert got.low == pytest.approx(low, abs=2e-4)
    assert got.high == pytest.approx(high, abs=2e-4)


def test_the_interval_turns_with_its_sides():
    before, after = answers(9, 4, 20, 17)
    one, other = paired_difference(before, after), paired_difference(after, before)
    assert (one.value, one.low, one.high) == pytest.approx((-other.value, -other.high, -other.low))


def test_nothing_changed_is_an_interval_not_a_point():
    got = paired_difference([True, False] * 10, [True, False] * 10)
    assert got.value == 0
    assert got.low < 0 < got.high


def test_wilson_by_hand():
    """15 of 148: Newcombe 1998 (Statistics in Medicine 17, 857-872), Table I, has 0.0624 to 0.1605."""
    got = wilson(15, 148)
    assert (got.low, got.high) == pytest.approx((0.0624, 0.1605), abs=1e-4)
    assert wilson(0, 20).low == 0
    assert wilson(20, 20).high == 1


def test_accuracy_is_strict_greedy_and_its_own():
    said = {
        "a": "<answer>12</answer>",
        "b": "12",
        "c": "<answer>12</answer><answer>2</answer>",
        "d": "<answer> 12. </answer>",
    }
    engine = ScriptedEngine(
        lambda prompt, sample: (*tiny.encode(said[tiny.tokenizer().decode(list(prompt.token_ids))]), 2)
    )
    problems = [tiny.problem(q, "12") for q in said]
    result = evaluate(
        engine,
        problems,
        lambda p: tiny.encode(p.question),
        lambda ids: tiny.tokenizer().decode(list(ids[:-1])),
        Sampling(8, 60, (2,)),
    )
    assert result.correct == (True, False, False, True)
    assert result.accuracy == 0.5
    assert [a.cut for a in result.answered] == [False] * 4


def test_mcnemars_test_is_the_exact_binomial_one():
    for gained, lost in ((0, 0), (1, 0), (6, 0), (5, 0), (9, 4), (4, 9), (30, 30), (200, 120)):
        before, after = answers(gained, lost, 7, 5)
        theirs = binomtest(gained, gained + lost).pvalue if gained + lost else 1.0
        assert mcnemar(before, after) == pytest.approx(theirs, rel=1e-9)


def test_students_quantile():
    for freedom in (9, 19, 49, 199):
        assert _student(freedom) == pytest.approx(t.ppf(0.975, freedom), abs=0.02)


def test_the_bootstrap_finds_the_interval_that_scipy_finds():
    rng = random.Random(0)
    before = [rng.random() for _ in range(200)]
    after = [b + rng.gauss(0.1, 0.2) for b in before]
    got = bootstrap_difference(before, after)
    differences = [a - b for a, b in zip(after, before, strict=True)]
    theirs = bootstrap((differences,), fmean, vectorized=False, n_resamples=2000, method="percentile", rng=1)
    assert got.value == pytest.approx(fmean(differences))
    assert (got.low, got.high) == pytest.approx(theirs.confidence_interval, abs=0.004)
    assert got == bootstrap_difference(before, after)


@pytest.mark.parametrize(("n", "gain", "loss"), [(50, 0.3, 0.1), (50, 0.2, 0.2), (100, 0.4, 0.05), (200, 0.15, 0.1)])
def test_newcombes_interval_holds_the_truth_in_95_percent_of_runs(n, gain, loss):
    rng = random.Random(n + int(100 * gain))
    held = 0
    for _ in range(1000):
        kinds = rng.choices("glbn", (gain, loss, 0.25, 0.75 - gain - loss), k=n)
        interval = paired_difference([k in "lb" for k in kinds], [k in "gb" for k in kinds])
        held += interval.low <= gain - loss <= interval.high
    assert 930 <= held <= 970


@pytest.mark.parametrize(("n", "samples", "lift"), [(25, 4, 0.1), (50, 8, 0.0), (100, 4, 0.2)])
def test_the_bootstrap_holds_the_truth_in_95_percent_of_runs(n, samples, lift):
    """Problems of every difficulty; the model gets each right by a chance that grows by `lift`."""
    rng = random.Random(n)
    held = 0
    for _ in range(1000):
        chances = [rng.random() * (1 - lift) for _ in range(n)]
        before, after = (
            [sum(rng.random() < chance + more for _ in range(samples)) / samples for chance in chances]
            for more in (0.0, lift)
        )
        interval = bootstrap_difference(before, after, resamples=300)
        held += interval.low <= lift <= interval.high
    assert 930 <= held <= 970


@pytest.mark.parametrize(("n", "gain"), [(20, 0.05), (50, 0.1), (100, 0.3)])
def test_noise_is_called_better_or_worse_in_at_most_5_percent_of_runs(n, gain):
    rng = random.Random(n)
    claimed = 0
    for _ in range(1000):
        kinds = rng.choices("glbn", (gain, gain, 0.3, 0.7 - 2 * gain), k=n)
        words = verdict([k in "lb" for k in kinds], [k in "gb" for k in kinds])
        claimed += words.startswith(("better", "worse"))
    assert claimed <= 50


@pytest.mark.parametrize(("changed", "difference"), [(0.1, 0.05), (0.3, 0.1), (0.5, 0.2)])
def test_the_number_of_problems_that_is_named_shows_the_difference_in_80_percent_of_runs(changed, difference):
    rng = random.Random(1)
    n = problems_needed(changed, difference)
    gain = (changed + difference) / 2
    shown = 0
    for _ in range(1000):
        kinds = rng.choices("glbn", (gain, changed - gain, 0.3, 0.7 - changed), k=n)
        shown += verdict([k in "lb" for k in kinds], [k in "gb" for k in kinds]).startswith("better")
    assert 740 <= shown <= 860


def test_a_verdict_in_words():
    assert verdict([False] * 50 + [True] * 50, [True] * 100) == "better by 0.50 [0.40, 0.60]"
    assert verdict([True] * 100, [False] * 50 + [True] * 50) == "worse by 0.50 [0.40, 0.60]"
    few = verdict(*answers(3, 1, 20, 26))
    assert few == "not distinguishable from noise with 50 problems; 300 would show a difference of 0.05"
    assert verdict(*answers(50, 48, 450, 452)) == (
        "not distinguishable from noise with 1000 problems, enough to show a difference of 0.05"
    )
    assert verdict(*answers(5, 0, 20, 25)).startswith("not")  # the interval alone would say better
    assert verdict([], []) == "no verdict: nothing was held out"


def test_pass_at_k_counts_every_choice_of_k_answers():
    for n, c in ((1, 0), (1, 1), (5, 2), (6, 6), (6, 0), (7, 1)):
        rows = [True] * c + [False] * (n - c)
        for k in range(1, n + 1):
            choices = list(combinations(rows, k))
            assert pass_at_k(n, c, k) == pytest.approx(sum(map(any, choices)) / len(choices))


def test_samples_are_drawn_at_temperature_one_and_graded_strictly():
    asked = []

    class Recording(ScriptedEngine):
        def generate(self, prompts, sampling):
            asked.append(sampling)
            return super().generate(prompts, sampling)

    answer = lambda prompt, sample: (*tiny.encode(f"<answer>{sample}</answer>"), 2)  # noqa: E731
    problems = [tiny.problem("a", "1"), tiny.problem("b", "9")]
    got = evaluate_samples(
        Recording(answer),
        problems,
        lambda p: tiny.encode(p.question),
        lambda ids: tiny.tokenizer().decode(list(ids[:-1])),
        Sampling(8, 60, (2,), temperature=0.3),
        samples=4,
    )
    assert got.correct_PK == ((False, True, False, False), (False,) * 4)
    assert (got.shares, got.mean, got.pass_at(4)) == ((0.25, 0.0), 0.125, 0.5)
    assert (asked[0].temperature, asked[0].num_samples) == (1.0, 4)
