"""A run's folder as one frozen record: what the diagnosis and the report read.

Only files are read, so the run may be finished, still going on, or copied from another machine. A last line
that is still being written is left out. torch is not needed, and nothing of the model is looked at except
whether its adapter still is what it was at the start.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from ..records import StepMetrics, UserError


@dataclass(frozen=True, slots=True)
class Answer:
    """One sampled answer.

    >>> Answer(3, "a:1", "3 + 4 = ?", "7", "<answer>7</answer>", 1.0, {"correctness": 1.0}, 0.7, 9, True)
    """

    step: int
    problem: str
    question: str
    gold: str
    text: str
    reward: float | None
    parts: Mapping[str, float | None]
    """Weighted, by reward name."""
    advantage: float
    tokens: int
    ended: bool
    """Whether a stop token was sampled."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """The greedy answer to one held-out problem, after `step` steps."""

    step: int
    problem: str
    question: str
    gold: str
    text: str
    correct: bool


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What is known of a run, up to its last finished step."""

    name: str
    config: Mapping[str, Any]
    steps: Sequence[StepMetrics] = ()
    answers: Sequence[Answer] = ()
    held_out: Sequence[HeldOut] = ()
    objective: str = ""
    """What is optimised, in words."""
    environment: Mapping[str, Any] = field(default_factory=dict)
    """Versions and machine."""
    untouched: bool = False
    """Whether the saved adapter still is zero, as it was at the start."""

    def until(self, step: int) -> RunRecord:
        """The record as it was after that step: what is read of the adapter belongs to the end alone."""
        return replace(
            self,
            steps=[s for s in self.steps if s.step <= step],
            answers=[a for a in self.answers if a.step <= step],
            held_out=[h for h in self.held_out if h.step <= step],
            untouched=False,
        )

    def evaluations(self) -> dict[int, list[HeldOut]]:
        """The held-out answers by step."""
        found: dict[int, list[HeldOut]] = {}
        for held in self.held_out:
            found.setdefault(held.step, []).append(held)
        return found

    @property
    def planned_steps(self) -> int:
        """How many steps the run is to have."""
        return int(self.config.get("steps") or 0)

    @property
    def is_finished(self) -> bool:
        """Whether the last step is done."""
        return bool(self.steps) and self.steps[-1].step >= self.planned_steps


def groups(answers: Sequence[Answer], config: Mapping[str, Any]) -> Iterator[list[Answer]]:
    """The answers by group: those of one problem and draw, in the order they were sampled."""
    size = int(config.get("group_size") or 8)
    for _, together in groupby(answers, lambda answer: (answer.step, answer.problem)):
        rows = list(together)
        yield from (rows[start : start + size] for start in range(0, len(rows), size))


def read_run(folder: str | Path) -> RunRecord:
    """The record of a run's folder.

    Raises:
        UserError: the folder holds no run, or a file in it is damaged before its last line.
    """
    folder = Path(folder)
    return RunRecord(
        name=folder.resolve().name,
        config=read_config(folder / "config.yaml"),
        steps=[as_step(line) for line in read_lines(folder / "metrics.jsonl")],
        answers=[as_answer(line) for line in read_lines(folder / "rollouts.jsonl")],
        held_out=[as_held_out(line) for line in read_lines(folder / "eval.jsonl")],
        objective=read_text(folder / "objective.txt").strip(),
        environment=json.loads(read_text(folder / "environment.json") or "{}"),
        untouched=adapter_is_zero(folder / "adapter" / "adapter_model.safetensors"),
    )


def read_config(path: Path) -> dict[str, Any]:
    """The settings, as the file has them: those of another version are shown all the same."""
    import yaml

    try:
        config = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        config = None
    if not isinstance(config, dict):
        raise UserError(f"{path.parent}: holds no run; name a folder that `grpocket train` made")
    return config


def read_text(path: Path) -> str:
    """A file's text; empty when there is none."""
    return path.read_text(encoding="utf-8") if path.exists() else ""


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSONL file that is written line by line; an unfinished last line is not there yet."""
    found = []
    for number, line in enumerate(read_text(path).split("\n")[:-1], 1):
        try:
            found.append(dict(json.loads(line)))
        except (ValueError, TypeError):
            raise UserError(f"{path}:{number}: is no JSON object; the file is damaged") from None
    return found


def as_step(line: Mapping[str, Any]) -> StepMetrics:
    """A line of metrics.jsonl; what was not a finite number is left out."""
    return StepMetrics(line["step"], {name: v for name, v in line.items() if name != "step" and v is not None})


def as_answer(line: Mapping[str, Any]) -> Answer:
    """A line of rollouts.jsonl."""
    return Answer(
        *(line[name] for name in ("step", "problem", "question", "answer", "text", "reward", "parts", "advantage")),
        tokens=line["tokens"],
        ended=line["finish_reason"] == "stop",
    )


def as_held_out(line: Mapping[str, Any]) -> HeldOut:
    """A line of eval.jsonl."""
    question, gold = line.get("question", ""), line.get("answer", "")
    return HeldOut(line["step"], line["problem"], question, gold, line["text"], line["correct"])


def adapter_is_zero(path: Path) -> bool:
    """Whether every lora_B in the file is zero: LoRA begins there, so nothing was learned. False without a file."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        size = int.from_bytes(file.read(8), "little")
        tensors = {name: t for name, t in json.loads(file.read(size)).items() if "lora_B" in name}
        for tensor in tensors.values():
            start, stop = tensor["data_offsets"]
            file.seek(8 + size + start)
            if any(file.read(stop - start)):
                return False
    return bool(tensors)
