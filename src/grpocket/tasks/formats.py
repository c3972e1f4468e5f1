"""The form an answer is asked for: where the thought stands and where the result.

A form is a template such as "<think>{think}</think><answer>{answer}</answer>", whose literal pieces
(marks) are looked for as they stand, in time that grows with the text alone; or a regular expression
with the groups `think` and `answer`, which is stopped after `SECONDS`. White space around marks is
free. What the fields must hold is for the reward to say.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import regex

from ..records import UserError

DEFAULT = "<think>{think}</think><answer>{answer}</answer>"
RESULT = "only the result"
"""What stands for the answer when a model is asked for a template; a copy of that is no answer."""
SECONDS = 0.1
"""How long a regular expression may look at one text."""

_FIELDS = re.compile(r"\{(think|answer)\}")
_BETWEEN_TAGS = re.compile(r"(?<=>)\s*(?=<)")


def form(pattern: str) -> Form:
    """The form that a template or a regular expression describes.

    Raises:
        UserError: it could not be read back, in one line.
    """
    return Expression.of(pattern) if "(?P<answer>" in pattern else Template.of(pattern)


@dataclass(frozen=True, slots=True)
class Template:
    """Literal pieces around {think} and {answer}.

    >>> Template.of("{think} #### {answer}")
    Template(pattern='{think} #### {answer}', pieces=(('think', '####'), ('answer', '')))
    """

    pattern: str
    pieces: tuple[tuple[str, str], ...]
    """(the field that a mark ends, or "" for white space; the mark, or "" for the end of the text)."""

    @classmethod
    def of(cls, pattern: str) -> Template:
        """Raises `UserError` for a template that could not be read back."""
        first, *rest = _FIELDS.split(pattern)
        fields, texts = rest[::2], rest[1::2]
        if fields not in (["think", "answer"], ["answer"]):
            raise _refused(pattern, "write {answer} once, and {think} before it or not at all")
        pieces = [("", mark) for mark in _marks(first) if mark]
        for field, text in zip(fields, texts, strict=True):
            pieces += [(field if at == 0 else "", mark) for at, mark in enumerate(_marks(text))]
        marks = [mark for _, mark in pieces]
        if "" in marks[:-1] or (fields == ["answer"] and not first.strip()):
            raise _refused(pattern, "put something before {answer} that shows where it begins, such as a tag")
        if len(set(marks)) < len(marks):
            raise _refused(pattern, "every mark must differ from the others")
        return cls(pattern, tuple(pieces))

    @property
    def opening(self) -> str:
        """What stands before the thought, which a prompt may write for the model; empty: nothing."""
        return self.pattern.partition("{think}")[0].strip() if "{think}" in self.pattern else ""

    @property
    def instruction(self) -> str:
        """What asks a model for this form; for the default one in words that small models follow better."""
        if self.pattern == DEFAULT:
            return "Reason in <think></think>, then write only the result in <answer></answer>."
        return "Answer in this form: " + self.write("your reasoning", RESULT)

    def write(self, think: str, answer: str) -> str:
        """An answer in this form."""
        values = {"think": think, "answer": answer}
        return _FIELDS.sub(lambda match: values[match[1]], self.pattern)

    def read(self, text: str) -> tuple[str, str] | None:
        """(think, answer) of a text that is in this form from end to end, with each mark once; else None."""
        if any(text.count(mark) != 1 for _, mark in self.pieces if mark not in ("", "}")):
            return None
        found, at = {"think": ""}, 0
        for field, mark in (*self.pieces, ("", "")):
            end = closing(text, mark, at)
            if end is None or (not field and text[at:end].strip()):
                return None
            if field:
                found[field] = text[at:end].strip()
            at = end + len(mark)
        return None if found["answer"].startswith(RESULT) else (found["think"], found["answer"])

    def last_answer(self, text: str) -> str | None:
        """The last answer in a text that need not be in this form; None when there is none, or it is not closed."""
        at = [field for field, _ in self.pieces].index("answer")
        opens, closes = self.pieces[at - 1][1], self.pieces[at][1]
        _, found, after = text.rpartition(opens)
        end = closing(after, closes, 0) if found else None
        return None if end is None else after[:end].strip()


@dataclass(frozen=True, slots=True)
class Expression:
    """A regular expression with a group `answer`, and perhaps a group `think`.

    >>> Expression.of(r"(?P<think>.+)Result: (?P<answer>[0-9]+)")
    """

    pattern: str
    opening: str = ""
    instruction: str = ""
    """None can be made out of a pattern, nor worked examples: the user's own system prompt must ask for the form."""

    @classmethod
    def of(cls, pattern: str) -> Expression:
        """Raises `UserError` for a pattern that is none."""
        try:
            regex.compile(pattern)
        except regex.error as e:
            raise _refused(pattern, f"not a regular expression ({e}); mend it") from None
        return cls(pattern)

    def read(self, text: str) -> tuple[str, str] | None:
        """(think, answer) of a text that matches from end to end, white space apart; else None."""
        try:
            match = regex.fullmatch(self.pattern, text.strip(), flags=regex.DOTALL, timeout=SECONDS)
        except TimeoutError:
            return None
        groups = match.groupdict("") if match else {}
        return (groups.get("think", "").strip(), groups["answer"].strip()) if match else None

    def last_answer(self, text: str) -> str | None:
        """The answer of a text that matches: where else it might stand, only the pattern knows."""
        found = self.read(text)
        return None if found is None else found[1]


Form = Template | Expression


def closing(text: str, mark: str, start: int) -> int | None:
    """Where the field that begins at `start` ends: before `mark`, which is the matching one if it is a brace."""
    if not mark:
        return len(text)
    if mark != "}":
        end = text.find(mark, start)
        return None if end < 0 else end
    depth = 1
    for at in range(start, len(text)):
        depth += (text[at] == "{") - (text[at] == "}")
        if depth == 0:
            return at
    return None


def _marks(literal: str) -> list[str]:
    return _BETWEEN_TAGS.split(literal.strip())


def _refused(pattern: str, why: str) -> UserError:
    return UserError(f'answer_format="{pattern}": {why}')


TAGS = form(DEFAULT)
"""<think> and <answer>."""
