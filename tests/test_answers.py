"""Answers are compared exactly: a table of pairs, and texts that are meant to break the reader."""

import time
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from grpocket.tasks import quantities
from grpocket.tasks.answers import equal, extract, gold

SAME = """
7            | 7
-7           | -7
−7           | -7           # Unicode minus
+7           | 7
- 7          | -7
-0           | 0
007          | 7
7.           | 7
7.0          | 7
0.10         | 0.1
.5           | 0.5
5e-1         | 0.5
1E3          | 1000
1,000        | 1000
12,345,678   | 12345678
1,000.50     | 1000.5
1{,}000      | 1000         # LaTeX
3/4          | 0.75
6/8          | 3/4
-3 / 4       | -0.75
1 1/2        | 1.5
\\frac{3}{4} | 3/4
\\dfrac{3}{4}| 0.75
-\\frac{1}{2}| -0.5
$5           | 5
$5$          | 5            # LaTeX formula
\\$5         | $5
-$5          | -5
$-5          | -5
$1,250.00    | 1250
5 dollars    | $5
5 €          | 5
50%          | 50           # the question asked for a percentage
50           | 50%
50%          | 0.5          # and a percentage is a number too
1/2          | 50%
50 percent   | 50%
50\\%        | 50%
12 km        | 12
12 kilometers| 12km
90°          | 90
90^\\circ    | 90
(5)          | 5
(B)          | B
B)           | B
b.           | B
Yes          | yes
yes.         | Yes
Paris        | paris
New   York   | new york
３           | 3            # full-width digit
٤٢           | 42           # Arabic-Indic digits
1, 2         | 1,2
[1, 2]       | 1, 2
[1.0, 2/1]   | [1, 2]
(1, 2)       | (1,2)
{1, 2}       | {2, 1}
\\{1, 2\\}   | 2, 1
{1, 1, 2}    | {1, 2}
red, blue    | Red,Blue
[0, 1)       | [0, 1.0)
1,000, 2,000 | 1000, 2000
2^10         | 2^10
x + 1        | X + 1
123456789012345678901234567890 | 123456789012345678901234567890.0
"""

DIFFERENT = """
12           | 1            # substring, each way
1            | 12
21           | 1
7            | -7           # a sign is never dropped
-7           | 7
--7          | 7
-$-5         | 5
3 - 7        | -7
7 8          | 7
7 or 8       | 7
7, 8         | 7
7; 8         | 8
about 7      | 7
seven        | 7
x = 7        | 7
3 + 4        | 7            # nothing is computed
3 + 4 = 7    | 7
2^10         | 1024
0.33         | 1/3          # nothing is rounded
0.333333333333333333 | 1/3
3.14159      | 3.14
10000000000000001 | 10000000000000000
1e400        | inf
1,00         | 100          # not thousands
1,0000       | 10000
10,00        | 1000
0,123        | 123
1.000        | 1000
,5           | 5
5,           | 5
1/0          | 0
0/0          | 1/0
1/2/3        | 1/6
3²           | 32           # a power is not a digit
½ 5          | 5
5 apples     | 5            # only known units may stand by
5 million    | 5
5k           | 5
5M           | 5
5 cents      | $5
5 m          | 5 km
€5           | $5
$5%          | 5
$ 5 $ 6      | 5
5%           | 500
0.5          | 50
0.5%         | 50%
(1, 2)       | (2, 1)
[1, 2]       | (1, 2)
[0, 1)       | [0, 1]
[1, 2]       | [1, 2, 3]
{1, 2, 3}    | {1, 2}
{1}          | {1, 2}
[5]          | 5
{(1,2),(3,4)}| {(1,4),(3,2)}
B            | A
A or B       | B
(A)(B)       | B
ABCD         | B
no           | yes
yes and no   | yes
not Paris    | Paris
Pari         | Paris
None         | 0
nan          | 0
True         | 1
0x10         | 16
1_000        | 1000
__import__('os') | 0
"""


def pairs(table):
    lines = [line.partition(" #")[0] for line in table.strip().splitlines()]
    return [tuple(cell.strip().replace("\\\\", "\\") for cell in line.split("|")) for line in lines]


@pytest.mark.parametrize(("given_answer", "known"), pairs(SAME))
def test_the_same_answer_is_equal_either_way_round(given_answer, known):
    assert equal(given_answer, known) is True
    assert equal(known, given_answer) is True


@pytest.mark.parametrize(("given_answer", "known"), pairs(DIFFERENT))
def test_another_answer_is_not(given_answer, known):
    assert equal(given_answer, known) is False
    assert equal(known, given_answer) is False


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
