"""Prompts: everything is said, in the model's own form, with BOS once."""

import re

import pytest

from grpocket.records import Problem, UserError
from grpocket.tasks.arithmetic import generate
from grpocket.tasks.formats import TAGS
from grpocket.tasks.prompts import EXAMPLES, PromptStyle, opening, render, render_text

SYSTEM_PROMPT = TAGS.instruction
QUESTION = "What is 7 + 5 - 3?"
PROBLEM = Problem("t:1", ({"role": "user", "content": QUESTION},), "9")
BOS, BOS_TEXT = 1, "<s>"


class Characters:
    """A tokenizer with one token a character, and <s> as BOS."""

    bos_token_id: int | None = BOS

    def __init__(self, chat_template=None, adds_bos=True):
        self.chat_template = chat_template
        self.adds_bos = adds_bos

    def __call__(self, text, add_special_tokens=True):
        ids = [BOS if piece == BOS_TEXT else ord(piece) for piece in re.findall("<s>|.", text, re.DOTALL)]
        return {"input_ids": [BOS] * (add_special_tokens and self.adds_bos) + ids}

    def apply_chat_template(self, messages, tokenize=True, add_generation_prompt=False):
        assert not tokenize
        assert add_generation_prompt
        return self.chat_template(messages)


def chatml(messages):
    return "".join(f"[{m['role']}]{m['content']}\n" for m in messages) + "[assistant]"


def chatml_with_bos(messages):
    return BOS_TEXT + chatml(messages)


def opens_think(messages):
    return chatml(messages) + "<think>\n"


def cuts_thoughts(messages):
    return chatml(
        [{**m, "content": m["content"].split("</think>")[-1]} if m["role"] == "assistant" else m for m in messages]
    )


def drops_system(messages):
    return chatml([m for m in messages if m["role"] != "system"])


def refuses_system(messages):
    if messages[0]["role"] == "system":
        raise RuntimeError("System role not supported")
    return chatml(messages)


def refuses_all(messages):
    raise RuntimeError("no\nway")


TEMPLATES = [None, chatml, chatml_with_bos, opens_think, cuts_thoughts, drops_system, refuses_system]


def conversation(*turns):
    return Problem("t:2", tuple({"role": role, "content": content} for role, content in turns), "1")


def decoded(ids):
    return "".join(BOS_TEXT if i == BOS else chr(i) for i in ids)


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("examples", [0, 1, 2])
@pytest.mark.parametrize("prefill", [False, True])
def test_everything_is_said_once_whatever_the_template(template, examples, prefill):
    style = PromptStyle(SYSTEM_PROMPT, examples=examples, prefill_think=prefill)
    text = render_text(PROBLEM, Characters(template), style)
    said = [SYSTEM_PROMPT, *(part for example in EXAMPLES[:examples] for part in example), QUESTION]
    assert [text.count(part) for part in said] == [1] * len(said)
    assert [text.index(part) for part in said] == sorted(text.index(part) for part in said)
    assert bool(opening(text)) is (prefill or template is opens_think)
    assert text.count("<think>") == 1 + examples + bool(opening(text))


@pytest.mark.parametrize("template", [None, chatml, chatml_with_bos])
@pytest.mark.parametrize("adds_bos", [True, False])
def test_bos_stands_in_front_exactly_once(template, adds_bos):
    tokenizer = Characters(template, adds_bos)
    ids = render(PROBLEM, tokenizer, PromptStyle(SYSTEM_PROMPT))
    expected = int(adds_bos or template is chatml_with_bos)
    assert ids.count(BOS) == expected
    assert ids[:1].count(BOS) == expected
    assert decoded(ids).removeprefix(BOS_TEXT) == render_text(
        PROBLEM, tokenizer, PromptStyle(SYSTEM_PROMPT)
    ).removeprefix(BOS_TEXT)


def test_a_tokenizer_without_bos_gets_none():
    tokenizer = Characters(adds_bos=False)
    tokenizer.bos_token_id = None
    assert BOS not in render(PROBLEM, tokenizer, PromptStyle(SYSTEM_PROMPT))


def test_the_plain_form():
    style = PromptStyle(system_prompt="Think.", examples=1, prefill_think=True)
    question, answer = EXAMPLES[0]
    expected = f"Think.\n\nQuestion: {question}\nAnswer: {answer}\n\nQuestion: {QUESTION}\nAnswer: <think>"
    assert render_text(PROBLEM, Characters(), style) == expected


def test_worked_examples_are_turns_where_the_template_keeps_them():
    text = render_text(PROBLEM, Characters(chatml), PromptStyle(SYSTEM_PROMPT, examples=1))
    assert f"[user]{EXAMPLES[0][0]}\n[assistant]{EXAMPLES[0][1]}\n[user]{QUESTION}\n[assistant]" in text
    cut = render_text(PROBLEM, Characters(cuts_thoughts), PromptStyle(SYSTEM_PROMPT, examples=1))
    assert cut.startswith(f"[system]{SYSTEM_PROMPT}\n\nQuestion: {EXAMPLES[0][0]}")


def test_a_refused_system_prompt_goes_in_front_of_the_question():
    text = render_text(PROBLEM, Characters(refuses_system), PromptStyle(SYSTEM_PROMPT, examples=0))
    assert text == f"[user]{SYSTEM_PROMPT}\n\n{QUESTION}\n[assistant]"


def test_a_system_message_of_the_users_own_replaces_ours():
    problem = conversation(("system", "Be brief."), ("user", QUESTION))
    text = render_text(problem, Characters(chatml), PromptStyle(SYSTEM_PROMPT, examples=1))
    assert text.startswith("[system]Be brief.\n[user]" + EXAMPLES[0][0])
    assert SYSTEM_PROMPT not in text


def test_a_conversation_of_several_turns_gets_no_examples():
    problem = conversation(("user", "1 + 1?"), ("assistant", "<think>a</think>2"), ("user", "2 + 2?"))
    text = render_text(problem, Characters(chatml), PromptStyle(SYSTEM_PROMPT, examples=2))
    assert text == f"[system]{SYSTEM_PROMPT}\n[user]1 + 1?\n[assistant]<think>a</think>2\n[user]2 + 2?\n[assistant]"


def test_no_system_prompt_when_it_is_empty():
    assert render_text(PROBLEM, Characters(chatml), PromptStyle("", examples=0)) == f"[user]{QUESTION}\n[assistant]"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Answer: <think>", "<think>"),
        ("[assistant]<think>\n", "<think>\n"),
        ("[assistant]<think>\n\n</think>\n\n", ""),
        ("Reason in <think></think>. Answer:", ""),
    ],
)
def test_the_opening_is_what_the_prompt_ends_with(text, expected):
    assert opening(text) == expected


def test_a_template_that_cannot_be_used_is_refused_in_one_line():
    with pytest.raises(UserError, match="t:1: the model's chat template can't be used: no way; try") as caught:
        render(PROBLEM, Characters(refuses_all), PromptStyle(SYSTEM_PROMPT))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="leaves out the system prompt or a worked example"):
        render(PROBLEM, Characters(lambda messages: "hello"), PromptStyle(SYSTEM_PROMPT))


@pytest.mark.parametrize("examples", [-1, 3])
def test_there_are_two_examples(examples):
    with pytest.raises(UserError, match=f"examples={examples}: there are 2; give 0 to 2"):
        PromptStyle(SYSTEM_PROMPT, examples=examples)


def test_no_generated_problem_finds_its_own_answer_in_the_examples():
    for question, _ in EXAMPLES:
        lengths = {len(number) for number in re.findall("[0-9]+", question)}
        assert len(lengths) > 1
    assert all(
        len({len(n) for n in re.findall("[0-9]+", r["question"])}) == 1 for r in generate(500, 0, (2, 3), (1, 3))
    )
