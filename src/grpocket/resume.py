"""From a run's folder back to where the run stood.

A run is its settings, its newest whole checkpoint, and its logs up to there; what the logs say of later steps
is cut off and done again. Nothing is guessed: changed settings are listed, other problems are refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import groupby
from pathlib import Path
from typing import Any

import torch

from .config import Config
from .evaluate.accuracy import Answered, Evaluation
from .learn.checkpoint import newest, replace_text
from .records import Problem, TrainState, UserError
from .report.metrics import as_line
from .settings import from_values, read_yaml


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a run stands, and in which folder.

    >>> Standing(Path("runs/math_tasks-1"), TrainState(seed=0, step=20, cursor=80), num_tokens=51200)
    """

    folder: Path
    state: TrainState
    num_tokens: int = 0
    """Tokens read and sampled so far."""
    data: str | None = None
    """Fingerprint of its problems; None before the first checkpoint."""
    checkpoint: Path | None = None
    """Where weights and optimizer of this step are; None before the first checkpoint."""
    machine: Mapping[str, int] = field(default_factory=dict)
    """What was chosen for the machine and decides the last bits: threads, rows sampled and tokens learned together."""

    def to_json(self, machine: Mapping[str, int]) -> str:
        """What state.json holds, with what was chosen for the machine by now."""
        state = self.state
        values = {"seed": state.seed, "step": state.step, "cursor": state.cursor}
        return json.dumps(values | {"num_tokens": self.num_tokens, "data": self.data, "machine": machine}, indent=1)


def stood(folder: Path, config: Config) -> Standing:
    """Where the run in `folder` stood at its newest whole checkpoint, or at its beginning.

    As many threads are used as then, unless `config` says otherwise: sums depend on it in their last bits.

    Raises:
        UserError: there are checkpoints, and none can be used.
    """
    found = newest(folder / "checkpoints", warn=print)
    if found is None:
        return Standing(folder, TrainState(config.seed))
    try:
        values = json.loads((found / "state.json").read_text(encoding="utf-8"))
        state = TrainState(*(int(values[name]) for name in ("seed", "step", "cursor")))
        machine = {name: int(values["machine"][name]) for name in ("threads", "rows", "enough", "limit")}
        standing = Standing(folder, state, int(values["num_tokens"]), str(values["data"]), found, machine)
        threads = machine["threads"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise UserError(f"{found / 'state.json'}: is not the state of a run ({error!r})") from None
    if config.threads is None and threads != torch.get_num_threads():
        print(f"warning: {threads} threads instead of {torch.get_num_threads()}, as before the run was stopped")
        torch.set_num_threads(threads)
    return standing


def changed_settings(folder: Path, settings: Mapping[str, Any], allow_changes: bool) -> Config:
    """The settings of the run in `folder`, with those given beside them; what that changes is listed.

    Raises:
        UserError: no run is there, or a change needs `allow_changes`.
    """
    kept = read_yaml(folder / "config.yaml")
    before, config = from_values(kept), from_values(kept | dict(settings))
    changes = before.changes(config)
    told = {name: f"{name} was {old!r} and is now {new!r}" for name, (old, new) in changes.items()}
    if (serious := config.computes_otherwise(changes)) and not allow_changes:
        raise UserError(
            f"{folder}: {'; '.join(told[name] for name in serious)}. That is another run; "
            "leave it out, or say --allow-changes (allow_changes=True in Python)"
        )
    for line in told.values():
        print(f"changed: {line}")
    return config


def fingerprint(train: Sequence[Problem], held: Sequence[Problem]) -> str:
    """What two sets of problems have in common only if they are the same, in the same order."""
    rows = [[(p.messages, p.answer, p.columns) for p in problems] for problems in (train, held)]
    return sha256(json.dumps(rows, sort_keys=True, default=str).encode("utf-8", "surrogatepass")).hexdigest()


def check_data(standing: Standing, data: str, allow_changes: bool) -> bool:
    """Whether the problems are those that the run began with.

    Raises:
        UserError: they are not, and nobody allowed that.
    """
    same = standing.data in (None, data)
    if not same and not allow_changes:
        raise UserError(
            f"{standing.folder}: these are not the problems that the run began with; give it the same, "
            "or say --allow-changes (allow_changes=True in Python)"
        )
    return same


def cut_back(folder: Path, step: int, held: Sequence[Problem]) -> dict[int, Evaluation]:
    """Leave in the logs what belongs to the first `step` steps; the evaluations that are whole, by step."""
    for name in ("metrics.jsonl", "rollouts.jsonl"):
        rewrite(folder / name, lambda line: line["step"] <= step)
    by_step = groupby((line for _, line in lines(folder / "eval.jsonl")), key=lambda line: line["step"])
    answers = {at: list(group) for at, group in by_step if at <= step}
    whole = {at: group for at, group in answers.items() if held and len(group) == len(held)}
    rewrite(folder / "eval.jsonl", lambda line: line["step"] in whole)
    return {
        at: Evaluation(
            tuple(
                Answered(problem, line["text"], line["correct"], line["tokens"], line["cut"])
                for problem, line in zip(held, group, strict=True)
            )
        )
        for at, group in whole.items()
    }


def lines(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """(text, object) of every line that was written to its end."""
    found = []
    if path.is_file():
        for text in path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]:
            with suppress(ValueError):
                found.append((text + "\n", json.loads(text)))
    return found


def rewrite(path: Path, belongs: Callable[[dict[str, Any]], bool]) -> None:
    """Leave only the lines that belong, as they are."""
    if path.is_file():
        replace_text(path, "".join(text for text, line in lines(path) if belongs(line)))


def amend(path: Path, step: int, values: Mapping[str, float]) -> None:
    """Add to what a log says of a step."""
    if path.is_file():
        texts = (as_line({**line, **values}) if line["step"] == step else text for text, line in lines(path))
        replace_text(path, "".join(texts))
