"""Several weighted rewards as one, built in or the user's own, and what happens when one of them fails.

A reward that fails on a row must not look like an answer that is wrong: the row gets no value, so it neither
trains nor counts in its group, and the fault is counted, and shown the first time. Built-in rewards and
functions that no other process could import run in this process, all others in a worker each.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from ..records import Fault, Problem, Reward, Sample, UserError
from .calls import calls_for, check_columns, check_signature
from .formats import TAGS, Form
from .rewards import REWARDS, WEIGHTS, RewardCallable, settled
from .sandbox import InProcess, Runner, Worker

Graded = list[float | Fault | None]
"""What one function gave, a row each."""


class Rewards:
    """Several weighted rewards as one.

    >>> Rewards({"length": (lambda completion: float(len(completion) < 80), 0.5)})

    Raises:
        UserError: there is none, or one whose signature can't be served.
    """

    def __init__(
        self,
        functions: Mapping[str, tuple[RewardCallable | Runner, float]],
        timeout: float = 10.0,
        say: Callable[[str], None] = print,
    ) -> None:
        if not functions:
            raise UserError("there are no rewards; name at least one")
        self._rewards = [(name, _runner(name, f, timeout), weight) for name, (f, weight) in functions.items()]
        self._say = say
        self._shown: set[tuple[str, str]] = set()
        for name, runner, _ in self._rewards:
            check_signature(name, runner.signature)

    @classmethod
    def named(
        cls,
        weights: Mapping[str, float] = WEIGHTS,
        language: str | None = None,
        timeout: float = 10.0,
        functions: Mapping[str, RewardCallable] | None = None,
        form: Form = TAGS,
    ) -> Rewards:
        """Rewards by name: those of `REWARDS`, "FILE.py:FUNCTION", "module:FUNCTION", or a name in `functions`.

        Args:
            weights: by name.
            language: what answers keep to; the question's when not given.
            timeout: seconds that one call of a function in a worker may take.
            functions: those that only this process has, by the name that `name_of` gave them.
            form: the form that answers are asked for.

        Raises:
            UserError: there is no such reward, no such file or function, or it can't be called.
        """
        own = {name: settled(reward, language, form) for name, reward in REWARDS.items()} | dict(functions or {})
        found: dict[str, tuple[RewardCallable | Runner, float]] = {}
        for spec, weight in weights.items():
            name = spec.rpartition(":")[2].strip("<>")
            if name in found:
                raise UserError(f"reward {spec}: another reward is called {name!r} too; rename one of them")
            found[name] = (own[spec] if spec in own else _worker(spec, timeout), weight)
        return cls(found, timeout)

    @property
    def weights(self) -> dict[str, float]:
        """The most that each part can earn."""
        return {name: weight for name, _, weight in self._rewards}

    @property
    def unguarded(self) -> list[str]:
        """The functions of the user's that run in this process, where nothing can end them."""
        return [name for name, runner, _ in self._rewards if name not in REWARDS and isinstance(runner, InProcess)]

    def check(self, problems: Sequence[Problem]) -> None:
        """Refuse a function that asks for a column which the problems have not.

        Raises:
            UserError: names the column.
        """
        for name, runner, _ in self._rewards:
            check_columns(name, runner.signature, problems)

    def score(self, samples: Sequence[Sample]) -> list[Reward]:
        """What each sample earned: the weighted parts and their sum.

        The value is None where no reward had anything to say, and where one failed.
        """
        graded = {name: self._grade(name, runner, samples) for name, runner, _ in self._rewards}
        return [self._reward({name: values[at] for name, values in graded.items()}) for at in range(len(samples))]

    def close(self) -> None:
        """End the worker processes; the next `score` starts them again."""
        for _, runner, _ in self._rewards:
            runner.close()

    def _grade(self, name: str, runner: Runner, samples: Sequence[Sample]) -> Graded:
        outcomes = runner.run(calls_for(runner.signature, samples))
        values = [_value(outcome) for rows in outcomes for outcome in rows]
        for value, sample in zip(values, samples, strict=True):
            if isinstance(value, Fault):
                self._show(name, value, sample.problem)
        return values

    def _reward(self, row: Mapping[str, float | Fault | None]) -> Reward:
        weights = self.weights
        parts = {n: None if v is None or isinstance(v, Fault) else weights[n] * v for n, v in row.items()}
        faults = {n: v if isinstance(v, Fault) else None for n, v in row.items()}
        earned = [part for part in parts.values() if part is not None]
        value = math.fsum(earned) if earned and not any(faults.values()) else None
        return Reward(value, parts, faults={n: fault for n, fault in faults.items() if fault or n not in REWARDS})

    def _show(self, name: str, fault: Fault, problem: Problem) -> None:
        """One line for the first fault of each sort."""
        sort = (name, fault.text.partition(":")[0])
        if sort not in self._shown:
            self._shown.add(sort)
            count = f"; further ones are counted in rewards/{name}/{fault.kind}s"
            self._say(f"warning: reward {name}: {fault.text} (problem {problem.id}){count}")


def name_of(function: str | RewardCallable) -> tuple[str, RewardCallable | None]:
    """The name that a configuration keeps of a reward, and the function itself where no other process can have it.

    >>> name_of(REWARDS["format"])
    ('format', None)
    """
    if isinstance(function, str):
        return function, None
    for name, built_in in REWARDS.items():
        if function is built_in:
            return name, None
    if importable := _importable(function):
        return importable, None
    return f"<{_name(function).strip('<>')}>", function


def _name(function: RewardCallable) -> str:
    return getattr(function, "__name__", type(function).__name__)


def _importable(function: RewardCallable) -> str | None:
    """ "FILE.py:FUNCTION" or "package.module:FUNCTION".

    Not for the program that is running: importing it once more would run it once more.
    """
    module = sys.modules.get(getattr(function, "__module__", None) or "__main__")
    name = _name(function)
    file = getattr(module, "__file__", None)
    if module is None or file is None or module.__name__ == "__main__" or getattr(module, name, None) is not function:
        return None
    path = Path(file)
    if module.__package__ or path.suffix != ".py":
        return f"{module.__name__}:{name}"
    return f"{path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}:{name}"


def _worker(spec: str, timeout: float) -> Worker:
    place, colon, name = spec.rpartition(":")
    if spec.startswith("<"):
        raise UserError(f"reward {spec}: was a function inside a program; give it again, by GRPO(rewards=[...])")
    if not colon:
        near = get_close_matches(spec, REWARDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"use one of {', '.join(REWARDS)}, or FILE.py:FUNCTION"
        raise UserError(f"reward {spec!r} is not known; {hint}")
    return Worker(place, name, timeout)


def _runner(name: str, function: RewardCallable | Runner, timeout: float) -> Runner:
    if isinstance(function, Worker | InProcess):
        return function
    try:
        return InProcess(function, timeout)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise UserError(f"reward {name}: can't be called: {error}") from None


def _value(outcome: Mapping[str, Any]) -> float | Fault | None:
    if "timeout" in outcome:
        return Fault("timeout", f"time-out: {outcome['timeout']}")
    if "error" in outcome:
        return Fault("error", outcome["error"], outcome.get("traceback", ""))
    return outcome["value"]
