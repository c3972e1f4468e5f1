"""Calls one reward function: in a process of its own that `sandbox.py` starts, or in the caller's.

In a process of its own, calls come in and outcomes go out as lines of JSON. It needs nothing but the standard
library, so a fresh interpreter is up at once and holds only what the function itself imports. Time is
kept by the parent: a function that does not come back can't be trusted to look at a clock.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import json
import math
import os
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from difflib import get_close_matches
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import SimpleNamespace
from typing import Any, TextIO

Call = Mapping[str, Any]
"""{"arguments": {...}, "extras": ["trainer_state"], "step": 3, "rows": 8}; `rows` is None in the one-sample form."""
Outcomes = list[dict[str, Any]]
"""One a row: {"value": 0.5}, {"value": None}, {"error": "ValueError: no", "traceback": "..."}, {"timeout": "..."}."""
EXTRAS = ("trainer_state", "log_extra", "log_metric")
"""What TRL passes beside the data: the first with the step alone, the other two do nothing."""


def run(function: Callable[..., Any], calls: list[Call], timeout: float) -> Iterator[tuple[int, Outcomes]]:
    """(which call, its outcomes), one call after the other; async ones at the same time, each with its time-out."""
    if is_async(function):
        answers = asyncio.run_coroutine_threadsafe(together(function, calls, timeout), event_loop())
        yield from enumerate(answers.result())
        return
    for at, call in enumerate(calls):
        try:
            yield at, checked(function(**arguments(call)), call["rows"])
        except (Exception, SystemExit) as error:
            yield at, [failure(error)] * (call["rows"] or 1)


async def together(function: Callable[..., Any], calls: list[Call], timeout: float) -> list[Outcomes]:
    """The outcomes of an async function's calls."""

    async def one(call: Call) -> Outcomes:
        limit = asyncio.timeout(timeout)
        try:
            async with limit:
                return checked(await function(**arguments(call)), call["rows"])
        except (Exception, SystemExit) as error:
            late = {"timeout": f"no answer within {timeout:g} s"}
            return [late if limit.expired() else failure(error)] * (call["rows"] or 1)

    return await asyncio.gather(*map(one, calls))


@functools.cache
def event_loop() -> asyncio.AbstractEventLoop:
    """A loop in a thread of its own, kept for good: clients that a function opened once stay usable."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, daemon=True).start()
    return loop


def is_async(function: Callable[..., Any]) -> bool:
    """Whether a call gives an awaitable; the function may be an object that is called."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(getattr(function, "__call__", None))  # noqa: B004


def arguments(call: Call) -> dict[str, Any]:
    """What the function is called with."""
    nothing = lambda *_: None  # noqa: E731
    extras = {"trainer_state": SimpleNamespace(global_step=call["step"]), "log_extra": nothing, "log_metric": nothing}
    return {**call["arguments"], **{name: extras[name] for name in call["extras"]}}


def checked(value: Any, rows: int | None) -> Outcomes:
    """What a function gave, row by row; anything with a float value is a number, as numpy's and torch's are."""
    if rows is None:
        return [number(value)]
    if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__iter__"):
        return [{"error": f"wrong type: gave {shown(value)}; return a list with one number for each completion"}] * rows
    values = list(value)
    if len(values) != rows:
        return [{"error": f"wrong length: gave {len(values)} values for {rows} completions"}] * rows
    return [number(item) for item in values]


def number(value: Any) -> dict[str, Any]:
    """One row's outcome."""
    if value is None:
        return {"value": None}
    if not hasattr(type(value), "__float__"):
        return {"error": f"wrong type: gave {shown(value)}; return a number, or None where it does not apply"}
    found = float(value)
    if not math.isfinite(found):
        return {"error": f"not finite: gave {found}; return a finite number, or None where it does not apply"}
    return {"value": found}


def failure(error: BaseException) -> dict[str, Any]:
    """An exception as one line, and the traceback below our own frame."""
    inner = error.__traceback__.tb_next if error.__traceback__ else None
    lines = traceback.format_exception(type(error), error, inner)
    return {"error": one_line(f"{type(error).__name__}: {error}"), "traceback": printable("".join(lines))}


def shown(value: Any) -> str:
    """A value in an error message: not too long."""
    return one_line(repr(value), 60)


def one_line(text: str, most: int = 300) -> str:
    """The text without line breaks and control characters."""
    text = " ".join(printable(text).split())
    return text if len(text) <= most else text[: most - 3] + "..."


def printable(text: str) -> str:
    """The text without what moves a cursor or changes a colour: a model may have written it."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text)


def describe(function: Callable[..., Any]) -> dict[str, Any]:
    """How the function wants to be called, as JSON.

    Raises:
        ValueError: it has no signature, or one that cannot be given by name.
    """
    parameters = inspect.signature(function).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty]
    if unnamed := [p.name for p in parameters if p.kind is p.POSITIONAL_ONLY and p.name in required]:
        raise ValueError(f"parameter {unnamed[0]!r} can only be given by position; remove the / from its signature")
    settled = getattr(function, "keywords", {})  # by functools.partial
    by_name = [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    named = [name for name in by_name if name not in settled]
    return {
        "parameters": {name: name in required for name in named},
        "takes_all": any(p.kind is p.VAR_KEYWORD for p in parameters),
        "is_async": is_async(function),
    }


def load(place: str, name: str) -> Callable[..., Any]:
    """The function `name` of a file or of an installed module."""
    if place.endswith(".py"):
        sys.path.insert(0, str(Path(place).parent))
        spec = spec_from_file_location(Path(place).stem, place)
        assert spec is not None
        assert spec.loader is not None
        module = sys.modules[spec.name] = module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        module = import_module(place)
    function = getattr(module, name, None)
    if not callable(function):
        near = get_close_matches(name, [n for n in dir(module) if callable(getattr(module, n))], n=1)
        hint = f"did you mean {near[0]}?" if near else "define it there"
        raise LookupError(f"there is no function {name!r} in {Path(place).name}; {hint}")
    return function


# The process.


def main() -> None:
    """Answer calls until the parent hangs up."""
    calls, replies = private_pipes()

    def reply(message: dict[str, Any]) -> None:
        replies.write(json.dumps(message) + "\n")
        replies.flush()

    setup = json.loads(calls.readline())
    limit_memory(setup["memory"])
    sys.path[:] = setup["path"]
    try:
        function = load(setup["place"], setup["name"])
        reply(describe(function))
    except (Exception, SystemExit) as error:
        kind = "" if type(error) is LookupError else f"{type(error).__name__}: "
        reply({"refused": one_line(f"{kind}{error}")})
        return
    for line in calls:
        # No call outlives its parent: should that be killed, nobody is left to keep the time.
        signal.alarm(math.ceil(setup["timeout"]) + 5)
        for at, rows in run(function, json.loads(line), setup["timeout"]):
            signal.alarm(math.ceil(setup["timeout"]) + 5)
            reply({"at": at, "rows": rows})
        signal.alarm(0)


def private_pipes() -> tuple[TextIO, TextIO]:
    """The pipes of the parent, out of the function's reach: what it prints goes to stderr, what it reads is empty."""
    calls, replies = os.fdopen(os.dup(0), encoding="utf-8"), os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(2, 1)
    return calls, replies


def limit_memory(limit: int) -> None:
    """At most so many bytes; and if memory runs out all the same, this process is the one to go, not the parent."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (limit if hard < 0 else min(limit, hard), hard))
    with suppress(OSError):  # Linux alone has this
        Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    main()
