"""Problems of reasoning-gym: `reasoning_gym:TASK[:SETTING=VALUE,...]`, made here, by seed, without a download.

Each problem keeps its place (task, settings, index) in the column `reasoning_gym`, and the reward of that name
makes it again from there: what a data file says is never run. The task's own scorer decides, in a worker
process, but only its full mark counts, since many scorers pay a little for anything. Left out are tasks
whose scorers run the answer as Python, and those without one gold answer that is the same in every run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ..records import UserError
from .answers import MAX_LENGTH, equal
from .sandbox import Worker

NUM_PROBLEMS = 600
SECONDS = 5.0
"""For scoring one answer."""

REFUSED = {
    **dict.fromkeys(
        (
            *("n_queens", "string_insertion", "spiral_matrix", "binary_matrix", "countdown", "puzzle24"),
            *("polynomial_multiplication", "simple_integration", "intermediate_integration"),
        ),
        "its scorer runs the model's answer as Python code",
    ),
    **dict.fromkeys(
        ("boxnet", "graph_color", "propositional_logic", "rubiks_cube", "rush_hour"),
        "its problems come without a known answer",
    ),
    **dict.fromkeys(
        ("isomorphic_strings", "knight_swap", "list_functions", "ransom_note", "word_ladder"),
        "its problems differ from run to run",
    ),
    "composite": "name the tasks themselves",
}
EXACT = ("complex_arithmetic", "coin_flip", "game_of_life_halting")
"""Their own scorers give the full mark to some nonsense, such as "nan"; only the gold answer itself counts."""


def rows(spec: str) -> Iterator[dict[str, Any]]:
    """{"question", "answer", "reasoning_gym"} for each problem of "TASK" or "TASK:SETTING=VALUE,...".

    `size` (600) and `seed` (0) are among the settings of every task.

    Raises:
        UserError: reasoning-gym is missing, or there is no such task or setting.
    """
    task, _, written = spec.partition(":")
    settings = {"size": NUM_PROBLEMS, "seed": 0, **dict(_setting(part) for part in written.split(",") if part)}
    dataset = _dataset(task, tuple(settings.items()))
    for index in range(len(dataset)):
        entry = dataset[index]
        place = {"task": task, "settings": settings, "index": index}
        yield {"question": entry["question"], "answer": str(entry["answer"]), "reasoning_gym": place}


def own_score(completion_answer: str, place: Mapping[str, Any]) -> float:
    """1 when the task's own scorer gives the full mark, else 0; runs in a worker.

    Raises:
        Exception: whatever the scorer does with a text that it did not expect.
    """
    dataset = _dataset(place["task"], tuple(place["settings"].items()))
    return float(dataset.score_answer(completion_answer, dataset[place["index"]]) >= 1.0)


def solves(given: str, known: str, place: Mapping[str, Any]) -> bool:
    """Whether an answer is the gold one, or another that the task's own scorer takes."""
    if equal(given, known):
        return True
    if place["task"] in REFUSED or place["task"] in EXACT or not 0 < len(given) <= MAX_LENGTH + 2 * len(known):
        return False
    call = {"arguments": {"completion_answer": given, "place": place}, "extras": [], "step": 0, "rows": None}
    return _worker().run([call])[0][0].get("value") == 1.0


@lru_cache(maxsize=1)
def _worker() -> Worker:
    return Worker("grpocket.tasks.gym", "own_score", SECONDS)


@lru_cache(maxsize=16)
def _dataset(task: str, settings: tuple[tuple[str, Any], ...]) -> Any:
    if not find_spec("reasoning_gym"):
        raise UserError(f"reasoning_gym:{task}: needs reasoning-gym; pip install reasoning-gym==0.1.25")
    import_module("reasoning_gym")
    factory = import_module("reasoning_gym.factory")
    known = sorted(set(factory.DATASETS) - set(REFUSED))
    if task not in known:
        raise UserError(f"reasoning_gym:{task}: {REFUSED.get(task, 'no such task')}; use one of {', '.join(known)}")
    names = [f.name for f in fields(factory.DATASETS[task][1])]
    for name, _ in settings:
        if name not in names:
            raise UserError(f"reasoning_gym:{task}: no setting {name!r}; use {', '.join(names)}")
    try:
        return factory.create_dataset(task, **dict(settings))
    except (AssertionError, TypeError, ValueError) as error:
        raise UserError(f"reasoning_gym:{task}: {' '.join(str(error).split())}; change that setting") from None


def _setting(text: str) -> tuple[str, Any]:
    """ "max_terms=3" -> ("max_terms", 3)"""
    name, equals, value = text.partition("=")
    if not equals:
        raise UserError(f"reasoning_gym: {text!r} is no setting; write NAME=VALUE, as in max_terms=3")
    if value.lower() in ("true", "false"):
        return name.strip(), value.lower() == "true"
    for kind in (int, float):
        try:
            return name.strip(), kind(value)
        except ValueError:
            pass
    return name.strip(), value
