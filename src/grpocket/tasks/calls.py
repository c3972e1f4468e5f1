"""How a reward function is called: what it names in its signature decides.

The batch form, which is TRL's, names `completions`, `prompts` or `completion_ids` and gives a list; it is called once
for the answers to one problem, so that a call that fails costs one group. The one-sample form names any of
`completion`, `answer`, `question` and `prompt` and gives a number. Both may name columns of the data, or
take all of them by **columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from itertools import groupby
from typing import Any

from ..records import Problem, Sample, UserError
from .worker import EXTRAS, Call

BATCH = ("prompts", "completions", "completion_ids")
ONE = ("completion", "answer", "question", "prompt")
Signature = dict[str, Any]
"""As `worker.describe` has it."""


def is_batch(signature: Signature) -> bool:
    """Whether the function takes all answers to a problem at once."""
    return any(name in signature["parameters"] for name in BATCH)


def calls_for(signature: Signature, samples: Sequence[Sample]) -> list[Call]:
    """The calls that grade the samples, whose rows are in the samples' order."""
    if not is_batch(signature):
        return [_call(signature, {"completion": s.text, **_of_problem(s.problem)}, s.step, None) for s in samples]
    groups = (list(group) for _, group in groupby(samples, key=lambda s: id(s.problem)))
    return [_call(signature, _batch(group), group[0].step, len(group)) for group in groups]


def check_signature(name: str, signature: Signature) -> None:
    """Refuse a function that no completion can be given to.

    Raises:
        UserError: it names neither form, or one name of each.
    """
    known = [*BATCH, *ONE]
    if not any(p in known for p in signature["parameters"]):
        raise UserError(
            f"reward {name}: names neither `completion` (one sample) nor `completions` (batch) in its signature, "
            f"but ({', '.join(signature['parameters'])}); see docs/rewards.md"
        )
    if is_batch(signature) and signature["parameters"].get("completion"):
        raise UserError(f"reward {name}: names `completion` beside {', '.join(BATCH)}; keep one form")


def check_columns(name: str, signature: Signature, problems: Sequence[Problem]) -> None:
    """Refuse a function that wants a column which the data has not.

    Raises:
        UserError: names the column, and the nearest one.
    """
    columns = sorted({column for problem in problems for column in problem.columns})
    offered = [*BATCH, *ONE, *EXTRAS, *columns]
    for parameter, required in signature["parameters"].items():
        if required and parameter not in offered:
            near = get_close_matches(parameter, [*columns, *ONE], n=1)
            hint = f"did you mean {near[0]}?" if near else f"its columns are {', '.join(columns) or 'question, answer'}"
            raise UserError(f"reward {name}: wants `{parameter}`, which the data has not; {hint}")


def _of_problem(problem: Problem) -> dict[str, Any]:
    prompt = problem.question if problem.plain else [dict(m) for m in problem.messages]
    own = {"answer": problem.answer, "question": problem.question, "prompt": prompt}
    return {**problem.columns, **own}


def _batch(group: Sequence[Sample]) -> dict[str, Any]:
    """TRL's arguments: text for a plain prompt, else messages; every column as a list."""
    problem = group[0].problem
    one = _of_problem(problem)
    prompts = [one.pop("prompt")] * len(group)
    completions = [s.text if problem.plain else [{"role": "assistant", "content": s.text}] for s in group]
    columns = {name: [value] * len(group) for name, value in one.items()}
    ids = [list(s.token_ids) for s in group]
    return {**columns, "prompts": prompts, "completions": completions, "completion_ids": ids}


def _call(signature: Signature, offered: dict[str, Any], step: int, rows: int | None) -> Call:
    """Those of the offered arguments that the function takes, and None for what its row lacks."""
    parameters = signature["parameters"]
    extras = [name for name in EXTRAS if name in parameters]
    lacking = [name for name, required in parameters.items() if required and name not in (*offered, *extras)]
    taken = {name: value for name, value in offered.items() if signature["takes_all"] or name in parameters}
    absent = None if rows is None else [None] * rows
    return {"arguments": {**dict.fromkeys(lacking, absent), **taken}, "extras": extras, "step": step, "rows": rows}
