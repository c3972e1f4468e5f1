import pytest

import tiny
from grpocket.engine.engine import ScriptedEngine
from grpocket.evaluate.accuracy import evaluate
from grpocket.evaluate.intervals import paired_difference, wilson
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
