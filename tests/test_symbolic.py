"""Formulas go to the algebra system, nothing else does, and nothing it does can hold up a run."""

import time

import pytest

from grpocket.tasks import symbolic
from grpocket.tasks.rewards import correctness
from grpocket.tasks.symbolic import equal
from test_answers import pairs

HOSTILE = [
    "9^9^9^9^9+x",
    "x^{9^{9^{9}}}+1",
    "(" * 90 + "x" + ")" * 90,
    "\\sqrt{" * 20 + "x" + "}" * 20,
    "10^{10^{10^{10}}}!+x",
    "x!!!!!!!!!!!!!!!!!!!!",
    "(x+1)^{99999}-(x-1)^{99999}",
    "\\sum_{k=1}^{999999999} k x",
    "\\int_0^1 x^{x^{x^x}} dx",
    "\\binom{999999999}{499999999}x",
]


@pytest.fixture
def algebra():
    pytest.importorskip("math_verify")


@pytest.mark.parametrize(("known", "given"), pairs("~~") + [p for p in pairs("==") if "\\" in p[0]])
def test_formulas_are_equal_when_algebra_says_so(algebra, known, given):
    assert equal(given, known) is True


def test_what_the_table_calls_different_stays_different(algebra):
    assert [pair for pair in pairs("!=") if equal(pair[1], pair[0])] == []


def test_numbers_and_words_are_not_asked_about(monkeypatch):
    monkeypatch.setattr(symbolic, "_worker", lambda: pytest.fail("asked"))
    for known, given in (("1024", "2^10"), ("Paris", "Pairs"), ("7", "x+1"), ("New-York", "York-New"), ("B", "x^2")):
        assert equal(given, known) is False
    assert equal("x + 1", "x+1") is True


@pytest.mark.parametrize("given", HOSTILE)
def test_a_hostile_formula_costs_a_second_at_most(algebra, given):
    equal("1+x", "x+1")  # starts the worker
    start = time.perf_counter()
    assert equal(given, "x^2+x+1") is False
    assert time.perf_counter() - start < 10  # 1.5 s on an idle machine, and a new worker comes with the next call
    assert equal(given, "x^2+x+1") is False
    assert equal("1+x", "x+1") is True


def test_a_group_of_the_same_hostile_answers_is_paid_for_once(algebra):
    start = time.perf_counter()
    assert [correctness(f"<answer>{HOSTILE[6]}</answer>", "x^3+x+1") for _ in range(64)] == [0.0] * 64
    assert time.perf_counter() - start < 10


def test_without_the_package_text_is_compared_and_that_is_said_once(monkeypatch):
    monkeypatch.setattr(symbolic, "find_spec", lambda name: None)
    symbolic._worker.cache_clear()
    symbolic.same_formula.cache_clear()
    with pytest.warns(UserWarning, match="compared as text; pip install math-verify") as caught:
        assert [equal(given, "x^2+y") for given in ("y+x^2", "x^2 + y", "y + 2")] == [False, True, False]
    assert len(caught) == 1
    symbolic._worker.cache_clear()
    symbolic.same_formula.cache_clear()
