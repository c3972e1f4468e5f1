"""What is paid, what is not, and how it adds up."""

from functools import partial

import pytest

from grpocket.records import Problem, Sample, UserError
from grpocket.tasks.formats import TAGS
from grpocket.tasks.prompts import EXAMPLES
from grpocket.tasks.rewards import (
    REWARDS,
    WEIGHTS,
    answer_format,
    conciseness,
    correctness,
    exact_match,
    language_consistency,
    repetition,
)
from grpocket.tasks.scoring import Rewards

SYSTEM_PROMPT = TAGS.instruction
QUESTION = "What is 50 - 8?"
GOOD = "<think>50 - 8 = 42.</think><answer>42</answer>"
WORDS = "<think>Take eight away from fifty: 42.</think>\n<answer>42</answer>"


def problem(answer="42", question=QUESTION, **columns):
    return Problem("test:1", ({"role": "user", "content": question},), answer, columns)


def earned(rewards, problem, text):
    """What one answer earns."""
    return rewards.score([Sample(problem, text)])[0]


ALL_NUMBERS = " ".join(map(str, range(101)))
JUNK = {
    "empty": "",
    "space": " \n ",
    "tags only": "<think></think><answer></answer>",
    "tags around space": "<think> </think><answer>\n</answer>",
    "tags around nothing visible": "<think>\u200b</think><answer>\u200b</answer>",
    "dots": "<think>...</think><answer>.</answer>",
    "empty think": "<think></think><answer>42!</answer>",
    "tags five times": "<think></think><answer></answer>" * 5,
    "tags five times, filled": "<think>a</think><answer>7</answer>" * 5,
    "all numbers": f"<think>one of these</think><answer>{ALL_NUMBERS}</answer>",
    "all numbers with commas": f"<think>one of these</think><answer>{ALL_NUMBERS.replace(' ', ', ')}</answer>",
    "all numbers in braces": f"<think>one of these</think><answer>{{{ALL_NUMBERS.replace(' ', ',')}}}</answer>",
    "all numbers, untagged": ALL_NUMBERS,
    "copied prompt": f"{SYSTEM_PROMPT}\n{QUESTION}",
    "copied prompt with examples": f"{SYSTEM_PROMPT}\n" + "\n".join(q + "\n" + a for q, a in EXAMPLES) + QUESTION,
    "question as the answer": f"{QUESTION} <answer>{QUESTION}</answer>",
    "gold inside another number": "<answer>142</answer>",
    "gold in the thought only": "<think>42</think>",
    "open answer": "<think>42</think><answer>42",
    "answer first": "<answer>7</answer><think>42</think>",
    "nested": "<think>42<answer>7</think></answer>",
}


@pytest.mark.parametrize("name", JUNK)
def test_junk_earns_nothing(name):
    assert correctness(JUNK[name], "42") == 0.0
    assert answer_format(JUNK[name], "42") == 0.0


@pytest.mark.parametrize("name", ["empty", "space", "tags only", "tags five times", "all numbers, untagged", "dots"])
def test_language_does_not_pay_for_nothing(name):
    reward = earned(Rewards.named(), problem(), JUNK[name])
    assert reward.value == 0.0
    assert reward.parts["language"] is None


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (GOOD, 1.0),
        (WORDS, 1.0),
        ("\n <think>\na\n</think>\n\n<answer>\n42\n</answer>\n", 1.0),
        ("<think>a < b</think><answer>∞</answer>", 1.0),
        ("So: " + GOOD, 0.0),
        (GOOD + " Done.", 0.0),
        (GOOD + "<think>", 0.0),
        ("<think>a</think> so <answer>42</answer>", 0.0),
        ("<think>a</think><think>b</think><answer>42</answer>", 0.0),
        ("<think>a</think><answer>7</answer><answer>42</answer>", 0.0),
        ("<think>a<answer>42</answer>", 0.0),
        ("<THINK>a</THINK><ANSWER>42</ANSWER>", 0.0),
    ],
)
def test_the_format_is_both_tags_once_in_order_and_nothing_around_them(completion, expected):
    assert answer_format(completion, "42") == expected


def test_a_prefilled_think_is_part_of_the_answer():
    rest = "50 - 8 = 42.</think><answer>42</answer>"
    assert answer_format("<think>" + rest, "42") == 1.0
    assert answer_format("<think>\n" + rest, "42") == 1.0
    assert answer_format(rest, "42") == 0.0


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        (GOOD, 1.0),
        ("<answer>42</answer>", 1.0),
        ("<answer>7</answer> wait <answer>$42.00</answer>", 1.0),
        ("<answer>42</answer> wait <answer>7</answer>", 0.0),
        ("<answer>-42</answer>", 0.0),
        ("<answer>4</answer>", 0.0),
        ("42", 0.0),
    ],
)
def test_correctness_is_the_last_answer_exactly(completion, expected):
    assert correctness(completion, "42") == expected


def test_an_empty_gold_is_neutral_not_a_hit():
    assert correctness("<answer>42</answer>", " ") is None
    assert correctness("<answer></answer>", "") is None


def test_language_is_that_of_the_question_or_of_the_column():
    english = "<think>Take eight away from fifty.</think><answer>42</answer>"
    assert language_consistency(english, "42", question=QUESTION) == 1.0
    assert language_consistency(english, "42", question="五十减八等于多少？请回答") == 0.0
    assert language_consistency(english, "42", question=QUESTION, language="zh") == 0.0
    assert earned(Rewards.named(), problem(language="ru"), english).parts["language"] == 0.0


def test_the_parts_add_up_in_double_precision():
    reward = earned(Rewards.named(), problem(), WORDS)
    assert reward.parts == {"correctness": 1.0, "format": 0.25, "language": 0.1}
    assert reward.value == pytest.approx(1.35, abs=1e-12)
    assert earned(Rewards.named(), problem(), GOOD).value == 1.25


def test_rewards_do_not_accumulate():
    one = Rewards({"a": (lambda completion, answer: 1.0, 2.0), "b": (lambda completion, answer: 1.0, 0.5)})
    assert [earned(one, problem(), "").value for _ in range(3)] == [2.5, 2.5, 2.5]


def test_none_is_neutral_and_none_alone_is_no_reward():
    def silent(completion, answer):
        return None

    def one(completion, answer):
        return 1.0

    assert earned(Rewards({"silent": (silent, 1.0), "one": (one, 1.0)}), problem(), "").value == 1.0
    alone = earned(Rewards({"silent": (silent, 1.0)}), problem(), "")
    assert alone.value is None
    assert alone.parts == {"silent": None}


def test_a_function_gets_the_columns_it_names():
    def few_terms(completion, answer, num_terms):
        return float(num_terms < 3)

    def everything(completion, answer, **columns):
        own = {"question": QUESTION, "prompt": [{"role": "user", "content": QUESTION}]}
        return float(columns == {"num_terms": 2, **own})

    rewards = Rewards({"few": (few_terms, 1.0), "all": (everything, 1.0)})
    row = problem(num_terms=2, answer="42", question=QUESTION)
    assert earned(rewards, row, "").parts == {"few": 1.0, "all": 1.0}


def test_what_a_partial_has_settled_no_column_changes():
    english = partial(language_consistency, language="en")
    reward = earned(Rewards({"language": (english, 0.1)}), problem(language="zh"), WORDS)
    assert reward.parts["language"] == 0.1


def test_unknown_and_missing_rewards_are_refused():
    with pytest.raises(UserError, match="reward 'corectness' is not known; did you mean correctness"):
        Rewards.named({"corectness": 1.0})
    with pytest.raises(UserError, match="reward 'kindness' is not known; use one of correctness, format"):
        Rewards.named({"kindness": 1.0})
    with pytest.raises(UserError, match="name at least one"):
        Rewards({})


@pytest.mark.parametrize(
    ("given", "gold", "expected"),
    [("Mount  Everest ", "mount everest", 1.0), ("1.0", "1", 0.0), ("K2", "Mount Everest", 0.0), ("", "x", 0.0)],
)
def test_exact_match_is_of_texts(given, gold, expected):
    assert exact_match(f"<think>?</think><answer>{given}</answer>", gold) == expected


def test_conciseness_pays_short_right_answers_only():
    assert conciseness("<answer>42</answer>", "42") > conciseness("<think>well</think><answer>42</answer>", "42") > 0.5
    assert conciseness("x" * 181 + "<answer>42</answer>", "42") == pytest.approx(0.5)
    assert conciseness("<answer>7</answer>", "42") == 0.0
    assert conciseness("", "42") == 0.0
    assert conciseness("<answer>7</answer>", " ") is None


def test_repetition_costs_by_its_share():
    assert repetition("") == repetition("too short") == repetition(WORDS) == 0.0
    assert repetition("one two three four five. " * 2) == pytest.approx(-6 / 31)
    assert repetition("one two three four five. " * 100) < -0.95
    assert repetition("一二三四五六七八九十" * 20) < -0.9


def test_the_weights_are_the_promised_ones():
    assert WEIGHTS == {"correctness": 1.0, "format": 0.25, "language": 0.10}
    assert WEIGHTS.keys() <= REWARDS.keys()


def test_a_language_that_is_given_wins_over_the_questions():
    problem = Problem("p", ({"role": "user", "content": "What is three and four?"},), "7")
    said = "three and four make seven together"
    assert earned(Rewards.named({"language": 1.0}), problem, said).value == 1.0
    assert earned(Rewards.named({"language": 1.0}, language="ru"), problem, said).value == 0.0
