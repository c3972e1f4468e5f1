"""Answers are compared exactly: a table of pairs, and texts that are meant to break the reader."""

import re
import time
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpocket.tasks import quantities
from grpocket.tasks.answers import equal, gold
from grpocket.tasks.formats import TAGS

extract = TAGS.last_answer

TABLE = (Path(__file__).parent / "answers.txt").read_text(encoding="utf-8")
ROW = re.compile(r"(.+?) {2,}(==|!=|~~) {2,}(.+?)( +# .*)?")


def pairs(sign):
    """(known, given) of the table's rows with this sign."""
    rows = [ROW.fullmatch(line) for line in TABLE.splitlines() if line and not line.startswith("# ")]
    return [(cell(row[1]), cell(row[3])) for row in rows if row[2] == sign]


def cell(text):
    return re.sub(r"<U\+(\w{4})>", lambda m: chr(int(m[1], 16)), text.replace("<empty>", ""))


def test_the_table_is_long_enough_to_mean_something():
    assert len(pairs("==")) > 150
    assert len(pairs("!=")) > 150
    assert len(set(pairs("==") + pairs("!=") + pairs("~~"))) == len(pairs("==") + pairs("!=") + pairs("~~"))


@pytest.mark.parametrize(("known", "given_answer"), pairs("=="))
def test_the_same_answer_is_equal_either_way_round(known, given_answer):
    assert equal(given_answer, known) is True
    assert equal(known, given_answer) is True


@pytest.mark.parametrize(("known", "given_answer"), pairs("!="))
def test_another_answer_is_not(known, given_answer):
    assert equal(given_answer, known) is False
    assert equal(known, given_answer) in (False, None)


@pytest.mark.parametrize(("known", "given_answer"), pairs("~~"))
def test_a_formula_written_otherwise_is_another_text(known, given_answer):
    assert equal(given_answer, known) is False


def test_plain_comparisons_are_quick():
    plain = [pair for pair in pairs("==") + pairs("!=") if "\\" not in pair[0] + pair[1]] * 10
    start = time.perf_counter()
    for known, given_answer in plain:
        equal(given_answer, known)
    assert len(plain) / (time.perf_counter() - start) > 5_000  # 46,000 a second, as bench/answers.py counts


@pytest.mark.parametrize("known", ["7", "yes", "1/0", "{1, 2}", "nan", "\\frac{1}{0}"])
@pytest.mark.parametrize("empty", ["", " ", "\n", "\u3000"])
def test_nothing_is_never_an_answer(empty, known):
    assert equal(empty, known) is False
    assert equal(known, empty) is None  # an empty gold is nobody's hit


@pytest.mark.parametrize("known", ["1/0", "nan", "2^", "((", "9^9^9^9", "🙂"])
def test_a_gold_that_is_no_number_is_met_by_itself_only(known):
    assert equal(known, known) is True
    for other in ("0", "1", "nan", "error", "None", "(", "2", "9"):
        assert equal(other, known) is (other == known)


HOSTILE = [
    "9" * 100_000,
    "-" * 100_000,
    "1e999999999",
    "1e-999999999",
    "9^9^9^9^9^9",
    "9**9**9**9",
    "(" * 50_000 + ")" * 50_000,
    "[" * 400 + "]" * 400,
    "{" + "1," * 400 + "2}",
    "1," * 50_000,
    "1/" * 400,
    "1 " * 400,
    "," * 900,
    "\u0301\u0327" * 450,
    "\\frac{" * 150,
    "\\boxed{" * 20_000,
    "<answer>" * 20_000,
    "</answer>" * 20_000,
    "<answer>1</answer>" * 10_000,
    "$" * 999,
]


@pytest.mark.parametrize("text", HOSTILE, ids=lambda t: t[:12])
def test_hostile_text_costs_nothing(text):
    start = time.perf_counter()
    for known in ("42", "{1, 2}", "yes"):
        assert equal(text, known) is False
        assert equal(known, text) in (False, None)
    extract(text)
    gold(text)
    assert time.perf_counter() - start < 0.5


@given(st.text(max_size=40), st.integers())
def test_any_text_is_compared_without_an_error(text, number):
    assert equal(text, str(number)) in (True, False)
    assert equal(text, text) in (True, None)


@given(st.integers(), st.integers())
def test_integers_are_equal_when_they_are(a, b):
    assert equal(str(a), str(b)) is (a == b)
    assert equal(f"{a:,}", str(a)) is True


@given(st.fractions(), st.integers(min_value=1, max_value=99))
def test_fractions_are_equal_whatever_their_terms(value, k):
    assert equal(f"{value.numerator * k}/{value.denominator * k}", str(value)) is True


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=-(10**9), max_value=10**9))
def test_decimals_are_read_exactly(value):
    assert quantities.parse(f"{value:f}") == quantities.Number(Fraction(value))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<answer>7</answer>", "7"),
        ("<answer> 7\n</answer>", "7"),
        ("<answer>6</answer> no, <answer>7</answer>", "7"),
        ("<answer>7</answer> and then 8", "7"),
        ("<answer><answer>7</answer>", "7"),
        ("<answer>7</answer></answer>", "7"),
        ("<answer></answer>", ""),
        ("<answer>7", None),
        ("7</answer>", None),
        ("</answer>7<answer>", None),
        ("<answer>6</answer><answer>7", None),
        ("<ANSWER>7</ANSWER>", None),
        ("7", None),
        ("", None),
    ],
)
def test_the_last_answer_counts_and_only_when_it_is_closed(text, expected):
    assert extract(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("42", "42"),
        (" -1,000 ", "-1,000"),
        ("She sells 9 eggs.\nThat makes 9 * 2 = <<9*2=18>>18.\n#### 18", "18"),
        ("#### 1,234", "1,234"),
        ("#### Step 1\nwe add\n7", "#### Step 1\nwe add\n7"),
        ("####", "####"),
        ("so $x = \\boxed{\\frac{3}{4}}$.", "\\frac{3}{4}"),
        ("\\boxed{1} or \\boxed{2}", "2"),
        ("\\boxed{1", "\\boxed{1"),
        ("<think>3 + 4</think><answer>7</answer>", "7"),
        ("Paris", "Paris"),
    ],
)
def test_the_gold_answer_of_a_worked_solution(text, expected):
    assert gold(text) == expected
