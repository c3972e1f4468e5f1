"""A problem as the token ids that the model continues.

What is said, in order: a system prompt that asks for the form, worked examples, the question, and
if wanted the opening `<think>`. How it is said is the model's own chat template, or a plain
"Question: ... Answer:" for a model without one. A conversation of the user's own is kept as it is.
Truncation is left out: a prompt that is too long is for the caller to refuse.

Special tokens that are written out in a question are read as such, as everywhere with templates.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..records import Message, Problem, UserError
from .formats import TAGS, Expression, Form, Template

EXAMPLES: tuple[tuple[str, str], ...] = (
    ("What is 12 - 4 + 5?", "<think>12 - 4 = 8, 8 + 5 = 13</think><answer>13</answer>"),
    ("What is 3 + 15 - 20?", "<think>3 + 15 = 18, 18 - 20 = -2</think><answer>-2</answer>"),
)
"""Questions with model answers. Their numbers differ in length, which those of `arithmetic` never do,
so that no generated problem finds its own answer in the prompt."""


class Tokenizer(Protocol):
    """What is needed of a transformers tokenizer."""

    chat_template: Any
    """None or empty: the model has no chat format."""
    bos_token_id: Any

    def apply_chat_template(self, *args: Any, **kwargs: Any) -> Any:
        """(messages, tokenize=False, add_generation_prompt=True) -> text"""
        ...

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """(text, add_special_tokens=...) -> {"input_ids": [...]}"""
        ...


@dataclass(frozen=True, slots=True)
class PromptStyle:
    """What surrounds a question.

    >>> PromptStyle(examples=2)
    """

    system_prompt: str | None = ""
    """Put first, unless the problem brings a system message of its own. Empty: none; None: it asks for the form."""
    examples: int = 1
    """How many worked examples come before the question: 0 to 2."""
    prefill_think: bool = False
    """Begin the answer with <think>, which the model then need not learn to write."""
    form: Form = TAGS
    """The form in which examples are shown, and whose opening is <think> or another."""

    def __post_init__(self):
        if self.prefill_think and not self.form.opening:
            raise UserError("prefill_think: the answer_format has nothing before {think}; leave one of them out")
        if isinstance(self.form, Expression) and (self.examples or self.system_prompt is None):
            raise UserError(
                "answer_format: a regular expression needs a system_prompt that asks for it, and examples=0"
            )
        if not 0 <= self.examples <= len(EXAMPLES):
            raise UserError(f"examples={self.examples}: there are {len(EXAMPLES)}; give 0 to {len(EXAMPLES)}")


def render(problem: Problem, tokenizer: Tokenizer, style: PromptStyle) -> tuple[int, ...]:
    """The prompt's token ids, with BOS in front exactly once where the model wants it."""
    text = render_text(problem, tokenizer, style)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    bos = tokenizer.bos_token_id
    if bos is not None and ids[:1] != [bos] and tokenizer("a")["input_ids"][:1] == [bos]:
        ids = [bos, *ids]
    return tuple(ids)


def render_text(problem: Problem, tokenizer: Tokenizer, style: PromptStyle) -> str:
    """The prompt as text."""
    text = _chat(problem, tokenizer, style) if tokenizer.chat_template else _plain(_layout_turns(problem, style))
    if style.prefill_think and not opening(text, style.form):
        text += style.form.opening if text[-1:].isspace() or tokenizer.chat_template else " " + style.form.opening
    return text


def opening(prompt_text: str, form: Form = TAGS) -> str:
    """What of the answer the prompt has already written: "<think>", or what else the form begins with; or nothing.

    Some chat templates open it by themselves. Rewards are given opening + completion, so that the
    format is judged on the whole answer.
    """
    match = re.search(re.escape(form.opening) + r"\s*\Z", prompt_text) if form.opening else None
    return match.group() if match else ""


def _plain(messages: Sequence[Message]) -> str:
    """For base models, which have seen questions with answers more often than any chat format."""
    form = {"system": "{}\n\n", "user": "Question: {}\n", "assistant": "Answer: {}\n\n"}
    return "".join(form[m["role"]].format(m["content"]) for m in messages) + "Answer:"


def _chat(problem: Problem, tokenizer: Tokenizer, style: PromptStyle) -> str:
    """The first layout that the model's template accepts and says in full.

    Templates refuse system messages (Gemma), drop them, or cut <think> out of earlier turns (Qwen3,
    DeepSeek-R1); a worked example without its reasoning would teach the wrong thing.
    """
    refusal = "it leaves out the system prompt or a worked example"
    for layout in (_layout_turns, _layout_system, _layout_user):
        try:
            text = tokenizer.apply_chat_template(layout(problem, style), tokenize=False, add_generation_prompt=True)
        except Exception as e:  # templates raise what they like, jinja2's TemplateError as a rule
            refusal = " ".join(str(e).split()) or type(e).__name__
            continue
        if all(said in text for said in _must_say(problem, style)):
            return text
    raise UserError(
        f"{problem.id}: the model's chat template can't be used: {refusal}; try another model or examples=0"
    )


def _layout_turns(problem: Problem, style: PromptStyle) -> list[Message]:
    """System prompt, examples as turns, question."""
    system, rest = _parts(problem, style)
    turns = [turn for question, answer in _examples(problem, style) for turn in (_user(question), _assistant(answer))]
    return [*_system(system), *turns, *rest]


def _layout_system(problem: Problem, style: PromptStyle) -> list[Message]:
    """Examples written into the system prompt."""
    system, rest = _parts(problem, style)
    shown = (f"Question: {question}\nAnswer: {answer}" for question, answer in _examples(problem, style))
    return [*_system("\n\n".join(filter(None, (system, *shown)))), *rest]


def _layout_user(problem: Problem, style: PromptStyle) -> list[Message]:
    """Everything written in front of the first user message."""
    messages = _layout_system(problem, style)
    if messages[0]["role"] != "system":
        return messages
    first = next(i for i, message in enumerate(messages) if message["role"] == "user")
    messages[first] = _user(messages[0]["content"] + "\n\n" + messages[first]["content"])
    return messages[1:]


def _must_say(problem: Problem, style: PromptStyle) -> Iterator[str]:
    yield _parts(problem, style)[0].strip()
    for question, answer in _examples(problem, style):
        yield question
        yield answer


def _parts(problem: Problem, style: PromptStyle) -> tuple[str, Sequence[Message]]:
    """The system prompt, the user's own before ours, and the conversation without it."""
    first = problem.messages[0]
    if first["role"] == "system":
        return first["content"], problem.messages[1:]
    return style.form.instruction if style.system_prompt is None else style.system_prompt, problem.messages


def _examples(problem: Problem, style: PromptStyle) -> tuple[tuple[str, str], ...]:
    """None for a conversation of several turns: it shows the model by itself how to answer."""
    several = any(message["role"] == "assistant" for message in problem.messages)
    if several or not isinstance(style.form, Template):
        return ()
    return tuple((question, style.form.write(*_parted(answer))) for question, answer in EXAMPLES[: style.examples])


def _parted(answer: str) -> tuple[str, str]:
    """(thought, result) of one of the worked examples."""
    found = TAGS.read(answer)
    assert found is not None
    return found


def _system(content: str) -> list[Message]:
    return [{"role": "system", "content": content}] if content else []


def _user(content: str) -> Message:
    return {"role": "user", "content": content}


def _assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}
