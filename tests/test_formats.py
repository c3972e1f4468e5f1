"""The form of an answer: written, read back, and not to be fooled."""

import time

import pytest

from grpocket.records import Problem, UserError
from grpocket.tasks.formats import TAGS, form
from grpocket.tasks.prompts import PromptStyle, opening, render_text
from grpocket.tasks.rewards import Rewards, answer_format, correctness
from test_prompts import Characters

TEMPLATES = [
    "<think>{think}</think><answer>{answer}</answer>",
    "<reasoning>{think}</reasoning>\n<result>{answer}</result>",
    "{think}\nFinal answer: {answer}",
    "{think} #### {answer}",
    "{think} \\boxed{{answer}}",
    "<answer>{answer}</answer>",
]
PATTERN = r"(?P<think>.+?)\s*Result: (?P<answer>-?\d+)\.?"


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("answer", ["42", "\\frac{1}{2}", "1, 2"])
def test_what_a_template_writes_it_reads(template, answer):
    made = form(template)
    text = made.write("6 * 7", answer)
    assert made.read(text) == ("6 * 7" if "{think}" in template else "", answer)
    assert made.last_answer(text) == answer
    assert correctness(text, answer, form=made) == 1.0
    assert answer_format(f"\n {text} \n", answer, form=made) == 1.0


@pytest.mark.parametrize("template", TEMPLATES)
def test_junk_earns_nothing_in_any_form(template):
    made = form(template)
    junk = ["", " ", made.write("", ""), made.write("", "") * 5, made.write(" ", "\u200b"), made.instruction]
    junk += [made.write("one of these", " ".join(map(str, range(101)))), f"{made.instruction}\nWhat is 6 * 7?"]
    junk += [made.write("hm", "7") * 5, "42", " ".join(map(str, range(101)))]
    assert [text for text in junk if correctness(text, "42", form=made)] == []
    assert [text for text in junk if answer_format(text, "42", form=made)] == []


def test_the_last_answer_counts_and_braces_match():
    boxed = form("{think}\\boxed{{answer}}")
    assert boxed.last_answer("\\boxed{1} no, \\boxed{\\frac{1}{2}} it is") == "\\frac{1}{2}"
    assert boxed.last_answer("\\boxed{\\frac{1}{2}") is None
    assert TAGS.last_answer("<answer>1</answer> <answer>2") is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("6 * 7 is it. Result: 42", ("6 * 7 is it.", "42")),
        ("So.\nResult: -4.", ("So.", "-4")),
        ("Result: 42", None),
        ("So. Result: many", None),
    ],
)
def test_a_regular_expression_reads(text, found):
    assert form(PATTERN).read(text) == found
    assert correctness(text, "42", form=form(PATTERN)) == float(found is not None and found[1] == "42")


def test_a_catastrophic_expression_is_stopped():
    made = form(r"(?P<think>(a+)+)b(?P<answer>(\w+\s?)*\.)")
    start = time.perf_counter()
    assert made.read("a" * 5000) is None
    assert made.last_answer("ab" + "x " * 5000) is None
    assert time.perf_counter() - start < 2


@pytest.mark.parametrize("unit", ["<think>", "</answer>", "{", "}", " ", "\\boxed{", "####"])
@pytest.mark.parametrize("template", TEMPLATES)
def test_long_texts_cost_little(template, unit):
    start = time.perf_counter()
    form(template).read(unit * 50_000)
    form(template).last_answer(unit * 50_000)
    assert time.perf_counter() - start < 1


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("", "write {answer} once"),
        ("{think}", "write {answer} once"),
        ("<a>{answer}</a><b>{answer}</b>", "write {answer} once"),
        ("<a>{answer}</a>{think}", "write {answer} once"),
        ("{answer}", "put something before {answer}"),
        ("{think} {answer}", "put something before {answer}"),
        ("<a>{think}<a>{answer}", "every mark must differ"),
        ("(?P<answer>(", "not a regular expression"),
    ],
)
def test_a_form_that_cannot_be_read_back_is_refused(pattern, reason):
    with pytest.raises(UserError, match="answer_format=.*" + reason.replace("{", r"\{")):
        form(pattern)


def test_the_prompt_asks_for_the_form_and_shows_it():
    made = form("<reasoning>{think}</reasoning><result>{answer}</result>")
    problem = Problem("t:1", ({"role": "user", "content": "1 + 1?"},), "2")
    text = render_text(problem, Characters(), PromptStyle(None, examples=2, prefill_think=True, form=made))
    assert "Answer in this form: <reasoning>your reasoning</reasoning><result>only the result</result>" in text
    assert text.count("</result>") == 3
    assert "think>" not in text
    assert opening(text, made) == "<reasoning>"
    completion = opening(text, made) + "1 + 1 = 2</reasoning><result>2</result>"
    rewards = Rewards.built_in({"correctness": 1.0, "format": 0.25}, None, made)
    assert rewards.score(problem, completion).value == 1.25
    other = Problem("t:1", problem.messages, "2", {"form": "nonsense"})
    assert rewards.score(other, completion).value == 1.25  # no column changes what the run has settled


def test_a_default_prompt_keeps_its_measured_words():
    assert TAGS.instruction == "Reason in <think></think>, then write only the result in <answer></answer>."


def test_what_a_form_cannot_do_is_refused():
    with pytest.raises(UserError, match="prefill_think: the answer_format has nothing before"):
        PromptStyle("", prefill_think=True, form=form("{think} #### {answer}"))
    for style in ({"system_prompt": None, "examples": 0}, {"system_prompt": "Write Result:", "examples": 1}):
        with pytest.raises(UserError, match="needs a system_prompt that asks for it, and examples=0"):
            PromptStyle(form=form(PATTERN), **style)
    assert PromptStyle("Write Result:", examples=0, form=form(PATTERN)).form.opening == ""
