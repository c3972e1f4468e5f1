"""Questions with known answers: rows of a file or of another source in, `Problem` out.

Understands the column names in common use, prompts that are strings or conversations, the golds of
GSM8K (`#### 42`) and MATH (`\\boxed{42}`), and tiny-grpo's `num_terms` and `num_digits` as filters.
The columns are chosen by the first row and hold for the whole file. Other file formats are left out:
their readers turn "007", dates and long integers into something else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, overload

from ..records import Message, Problem, UserError
from . import answers
from .jsonl import NumberText, Row, RowError, plain, shown
from .sources import rows

QUESTION_COLUMNS = ("question", "prompt", "problem")
ANSWER_COLUMNS = ("answer", "solution", "ground_truth")
ORIGINAL_ANSWER = "original_answer"
"""The column that keeps a gold such as "... so 42. #### 42" when the answer became "42"."""
OFFERED_COLUMNS = ("question", "prompt", "answer")
"""Names under which rewards get the question and the answer anyway; under any other name they get the column."""
ROLES = ("system", "user", "assistant")


class MathDataset(Sequence[tuple[str, str]]):
    """(question, answer) pairs of a JSONL file, or of `hub:` or `reasoning_gym:`; `.problems` has them as records.

    `max_terms` and `max_digits` keep the rows whose `num_terms` and `num_digits` are at most that;
    `limit` keeps the first so many of what is left. A slice is a list of pairs.

    Raises `UserError`, naming file, line and remedy, for whatever cannot be read as it stands.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        max_terms: int | None = None,
        max_digits: int | None = None,
        limit: int | None = None,
    ):
        self.path = Path(path)
        filters = {"num_terms": max_terms, "num_digits": max_digits}
        self._filters = {column: top for column, top in filters.items() if top is not None}
        if limit is not None and limit < 1:
            raise UserError(f"limit={limit} leaves no problems; give at least 1, or leave it out")
        self._columns: _Columns | None = None
        self.problems: tuple[Problem, ...] = tuple(islice(self._read(), limit))
        if not self.problems:
            raise UserError(f"{self.path}: {self._why_empty()}")

    @property
    def columns_taken(self) -> str:
        """One line that says which columns became the question and the answer."""
        assert self._columns is not None
        shortened = any(ORIGINAL_ANSWER in p.columns for p in self.problems)
        gold = f'"{self._columns.answer}"' + (" (its final answer)" if shortened else "")
        count = f"{len(self)} problem" + "s" * (len(self) != 1)
        return f'{self.path.name}: {count}, question from "{self._columns.question}", answer from {gold}'

    def __len__(self) -> int:
        return len(self.problems)

    @overload
    def __getitem__(self, index: int) -> tuple[str, str]: ...
    @overload
    def __getitem__(self, index: slice) -> list[tuple[str, str]]: ...
    def __getitem__(self, index: int | slice) -> tuple[str, str] | list[tuple[str, str]]:
        if isinstance(index, slice):
            return [(p.question, p.answer) for p in self.problems[index]]
        problem = self.problems[index]
        return problem.question, problem.answer

    def _read(self) -> Iterator[Problem]:
        for line, row in rows(self.path):
            try:
                self._columns = self._columns or _Columns.of(row)
                problem = self._columns.problem(f"{self.path.name}:{line}", row)
                if all(_level(problem, column) <= top for column, top in self._filters.items()):
                    yield problem
            except RowError as e:
                raise UserError(f"{self.path}:{line}: {e}") from None

    def _why_empty(self) -> str:
        if self._columns is None:
            return "holds no rows; `grpocket data arithmetic --num 600 > FILE` makes some"
        wanted = ", ".join(f"{column} <= {top}" for column, top in self._filters.items())
        return f"no row has {wanted}; raise the filter"


@dataclass(frozen=True, slots=True)
class _Columns:
    """Which columns of a file are the question and the answer."""

    question: str
    answer: str

    @classmethod
    def of(cls, row: Row) -> _Columns:
        return cls(_first_of(QUESTION_COLUMNS, row), _first_of(ANSWER_COLUMNS, row))

    def problem(self, problem_id: str, row: Row) -> Problem:
        for column in (self.question, self.answer):
            if column not in row:
                raise RowError(f'no column "{column}", which the first row has; found {_names(row)}')
        original = _answer(row[self.answer], self.answer)
        answer = answers.gold(original)
        offered = {self.question, self.answer} & {*OFFERED_COLUMNS}
        columns = {key: plain(value) for key, value in row.items() if key not in offered}
        if answer != original.strip():
            columns.setdefault(ORIGINAL_ANSWER, original)
        as_text = self.question == "prompt" and isinstance(row["prompt"], str)
        return Problem(problem_id, _messages(row[self.question], self.question), answer, columns, as_text)


def _first_of(names: Sequence[str], row: Row) -> str:
    for name in names:
        if found := next((column for column in row if column.casefold() == name), None):
            return found
    raise RowError(f'no column "{names[0]}" (or {", ".join(names[1:])}); found {_names(row)}; rename one of them')


def _names(row: Row) -> str:
    return ", ".join(shown(name) for name in islice(row, 12)) or "no columns at all"


def _answer(value: Any, column: str) -> str:
    if isinstance(value, NumberText):
        return value.text
    if not isinstance(value, str):
        raise RowError(f'"{column}" is {shown(value)}; an answer must be a string or a number')
    if not value.strip():
        raise RowError(f'"{column}" is empty; give the answer, or remove the row')
    return value


def _messages(value: Any, column: str) -> tuple[Message, ...]:
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list):
        raise RowError(f'"{column}" is {shown(value)}; a question must be a string or a list of messages')
    messages = tuple(_message(item, column) for item in value)
    if not messages or messages[-1]["role"] != "user":
        raise RowError(f'"{column}" does not end with a user message; the model must have something to answer')
    if not messages[-1]["content"].strip():
        raise RowError(f'"{column}" is empty; give the question, or remove the row')
    return messages


def _message(value: Any, column: str) -> Message:
    if not isinstance(value, dict):
        raise RowError(f'"{column}" holds {shown(value)}; a message must be like {{"role": "user", "content": "..."}}')
    role, content = value.get("role"), value.get("content")
    if role not in ROLES:
        raise RowError(f'"{column}" has a message with role {shown(role)}; use one of {", ".join(ROLES)}')
    if not isinstance(content, str):
        raise RowError(f'"{column}" has a message with content {shown(content)}; it must be a string')
    extra = [key for key, item in value.items() if key not in ("role", "content") and item is not None]
    if extra:
        raise RowError(f'"{column}" has a message with {_names(dict.fromkeys(extra))}; only role and content are known')
    return {"role": role, "content": content}


def _level(problem: Problem, column: str) -> int:
    value = problem.columns.get(column)
    if not isinstance(value, int) or isinstance(value, bool):
        what = f'"{column}" is {shown(value)}' if column in problem.columns else f'no column "{column}"'
        raise RowError(f"{what}, and a filter asks for it; give every row a whole number, or drop the filter")
    return value
