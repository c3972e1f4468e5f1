"""Data sets and rewards with faults planted, and without."""

import pytest

import tiny
from grpocket.records import Reward, Sample, UserError
from grpocket.tasks.audit import JUNK, audit
from grpocket.tasks.rewards import WEIGHTS
from grpocket.tasks.scoring import Rewards
from grpocket.tasks.survey import survey

PROBLEMS = [tiny.problem(f"How much is {n} and {n} together, please?", str(2 * n), f"a:{n}") for n in range(1, 30)]


def one_by_one(rewards):
    return lambda problem, text: rewards.score([Sample(problem, text)])[0]


def rewards(function, name="correctness"):
    return one_by_one(Rewards({name: (function, 1.0)}))


def test_the_built_in_rewards_pass():
    found = audit(PROBLEMS, one_by_one(Rewards.named()), WEIGHTS)
    assert (found.rows, found.calls, found.best) == (29, 29 * 6, pytest.approx(1.35))
    assert not found.short
    assert not found.paid
    assert not found.raised
    assert len(found.lines()) == 1
    assert "earns 1.35; tried on 29 rows" in found.lines()[0]


FOOLED = {
    "an empty text": lambda completion, answer: float(not completion or f">{answer}<" in completion),
    "the question again": lambda completion, answer: float("together" in completion),
    "empty tags": lambda completion, answer: float("<answer>" in completion),
    "every number from 0 to 100": lambda completion, answer: (
        float(answer in completion.split("<answer>")[-1].split()) or float(f">{answer}<" in completion)
    ),
    "another row's answer": lambda completion, answer: (
        float("</think><answer>" in completion) and float(len(completion) > 40)
    ),
}


@pytest.mark.parametrize("kind", JUNK)
def test_a_reward_that_pays_for_junk_is_told(kind):
    found = audit(PROBLEMS, rewards(FOOLED[kind]), {"correctness": 1.0})
    assert len(found.paid[kind]) == 29
    assert any(line.startswith(f"warning: {kind} is paid like a right answer in 29 of 29") for line in found.lines())


def test_junk_that_is_paid_nothing_is_not_told():
    found = audit(PROBLEMS, rewards(FOOLED["an empty text"]), {"correctness": 1.0})
    assert list(found.paid) == ["an empty text"]


def test_any_correctness_for_junk_is_told_and_as_much_as_the_right_answer_by_any_other_name():
    half = lambda completion, answer: 0.5 if not completion else float(f">{answer}<" in completion)  # noqa: E731
    assert list(audit(PROBLEMS, rewards(half), {"correctness": 1.0}).paid) == ["an empty text"]
    assert not audit(PROBLEMS, rewards(half, "score"), {"score": 1.0}).paid
    short = lambda completion, answer: float(len(completion) < 200)  # noqa: E731
    assert "an empty text" in audit(PROBLEMS, rewards(short, "score"), {"score": 1.0}).paid


def test_a_right_answer_that_is_not_paid_is_told_with_its_row():
    odd = lambda completion, answer: float(f">{answer}<" in completion and int(answer) % 4 == 0)  # noqa: E731
    found = audit(PROBLEMS, rewards(odd), {"correctness": 1.0})
    assert len(found.short) == 15
    assert "15 of 29 rows, first a:1: 0 of 1" in found.lines()[1]


def test_a_reward_that_raises_is_counted_and_told():
    def raises(completion, answer):
        if not completion:
            raise KeyError("empty")
        return float(f">{answer}<" in completion)

    found = audit(PROBLEMS, rewards(raises), {"correctness": 1.0})
    assert len(found.raised) == 29
    assert "raised in 29 of 174 calls, a:1: reward correctness: KeyError" in found.lines()[-1]


def test_a_slow_reward_is_tried_on_fewer_rows():
    found = audit(PROBLEMS, one_by_one(Rewards.named()), WEIGHTS, limit_seconds=0.0)
    assert found.rows == 1


def test_a_part_that_does_not_apply_is_not_missed():
    parts = lambda problem, text: Reward(1.0 if "><" in text else 0.0, {"a": 1.0, "b": None})  # noqa: E731
    assert not audit(PROBLEMS, parts, {"a": 1.0, "b": 0.5}).short


def test_a_survey_counts_by_hand():
    problems = [
        tiny.problem("a b", "1", "f:1"),
        tiny.problem("A  b", "1.0", "f:2"),
        tiny.problem("c", "2", "f:3"),
        tiny.problem("c", "3", "f:4"),
    ]
    found = survey(problems, [5, 6, 8, 8], room=8)
    assert (found.lengths, found.repeated, found.contradicted) == ((5, 7.0, 8), ("f:2", "f:4"), ("f:4",))
    assert "prompts of 5 to 8 tokens, median 7; 2 repeated" in found.lines()[0]
    assert "another answer (f:4)" in found.lines()[1]
    with pytest.raises(UserError, match=r"^2 prompts longer than the 7 tokens .* f:3 \(8 tokens\), f:4 \(8 tokens\);"):
        survey(problems, [5, 6, 8, 8], room=7)
