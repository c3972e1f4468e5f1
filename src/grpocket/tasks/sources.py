"""Where rows come from, by the name that `--data` has: a JSONL file, the hub, or reasoning-gym.

    math_tasks.jsonl    hub:openai/gsm8k:main:train    reasoning_gym:chain_sum:max_terms=3,size=600

Every row passes through JSON, so that what is true of a file (numbers keep their digits, what is wrong is
named with its place) is true of the others.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ..records import UserError
from . import gym, hub, jsonl

SOURCES: dict[str, Callable[[str], Iterator[dict[str, Any]]]] = {"hub": hub.rows, "reasoning_gym": gym.rows}


def rows(name: Path) -> Iterator[tuple[int, jsonl.Row]]:
    """Yield (number, row), counted from 1; in a file, of its line.

    Raises:
        UserError: there is no such source, or a row is not what JSON has.
    """
    kind, colon, spec = name.as_posix().partition(":")
    if not colon or kind not in SOURCES:
        yield from jsonl.rows(name)
        return
    for number, row in enumerate(SOURCES[kind](spec), start=1):
        try:
            yield number, jsonl.parse(json.dumps(row, default=str))
        except jsonl.RowError as error:
            raise UserError(f"{name}:{number}: {error}") from None
