"""What is kept of a step: a line of metrics.jsonl, and its answers in rollouts.jsonl; of an evaluation: eval.jsonl.

The names are those of TRL where the meaning is the same, so that dashboards carry over. Two differ on purpose:
the parts of the reward (`rewards/NAME/mean`) are weighted, so that they add up to the reward; and everything about
answers counts every answer that was sampled, also of problems dropped for want of signal.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, pstdev, stdev
from typing import Any

from ..evaluate.accuracy import Evaluation
from ..records import Group, Rollout, StepMetrics, UserError


def step_metrics(
    step: int, groups: Sequence[Group], update: Mapping[str, float], seconds: Mapping[str, float]
) -> StepMetrics:
    """Everything known of a finished step."""
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    total = sum(seconds.values())
    tokens = sum(len(r.completion.token_ids) for r in rollouts)
    prompts = sum(len(group.rollouts[0].prompt_ids) for group in groups)
    values = dict(update)
    values |= _rewards(groups) | _parts(rollouts) | _faults(rollouts) | _completions(rollouts)
    values |= {f"{name}_seconds": spent for name, spent in seconds.items()}
    values |= {
        "step_time": total,
        "num_tokens": tokens + prompts,
        "tokens_per_second": tokens / total if total else 0.0,
    }
    return StepMetrics(step, values)


def _rewards(groups: Sequence[Group]) -> dict[str, float]:
    by_group = [[r.reward.value for r in g.rollouts if r.reward.value is not None] for g in groups]
    spreads = [stdev(values) if len(values) > 1 else 0.0 for values in by_group]
    return {
        "reward": _mean(value for values in by_group for value in values),
        "reward_std": _mean(spreads),
        "frac_reward_zero_std": _mean(not group.has_signal for group in groups),
    }


def _parts(rollouts: Sequence[Rollout]) -> dict[str, float]:
    found: dict[str, float] = {}
    for name in dict.fromkeys(name for r in rollouts for name in r.reward.parts):
        values = [part for r in rollouts if (part := r.reward.parts.get(name)) is not None]
        if values:  # a function that had nothing to say in this step gave no 0
            found |= {f"rewards/{name}/mean": fmean(values), f"rewards/{name}/std": pstdev(values)}
    return found


def _faults(rollouts: Sequence[Rollout]) -> dict[str, int]:
    """Answers that a reward failed on, or was too slow for."""
    faults = [(name, fault) for r in rollouts for name, fault in r.reward.faults.items()]
    return {
        f"rewards/{name}/{kind}s": sum(n == name and f is not None and f.kind == kind for n, f in faults)
        for name in dict.fromkeys(name for name, _ in faults)
        for kind in ("error", "timeout")
    }


def _completions(rollouts: Sequence[Rollout]) -> dict[str, float]:
    lengths = [len(r.completion.token_ids) for r in rollouts]
    ended = [len(r.completion.token_ids) for r in rollouts if r.completion.finish_reason == "stop"]
    return {
        "completions/mean_length": _mean(lengths),
        "completions/min_length": min(lengths, default=0),
        "completions/max_length": max(lengths, default=0),
        "completions/mean_terminated_length": _mean(ended),
        "completions/clipped_ratio": 1 - len(ended) / len(lengths) if lengths else 0.0,
    }


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return fmean(found) if found else 0.0


def rollout_lines(step: int, groups: Sequence[Group], dropped: Sequence[Group]) -> list[dict[str, Any]]:
    """One JSON object for each answer of a step; `trained` is false for those of dropped groups."""
    return [
        {
            "step": step,
            "problem": group.problem.id,
            "question": group.problem.question,
            "answer": group.problem.answer,
            "text": rollout.text,
            "reward": rollout.reward.value,
            "parts": dict(rollout.reward.parts),
            "advantage": advantage,
            "trained": trained and at < len(groups),
            "tokens": len(rollout.completion.token_ids),
            "finish_reason": rollout.completion.finish_reason,
        }
        for at, group in enumerate([*groups, *dropped])
        for rollout, advantage, trained in zip(group.rollouts, group.advantages, group.trained, strict=True)
    ]


def evaluation_lines(step: int, evaluation: Evaluation) -> list[dict[str, Any]]:
    """One JSON object for each held-out problem."""
    return [
        {
            "step": step,
            "problem": a.problem.id,
            "question": a.problem.question,
            "answer": a.problem.answer,
            "correct": a.correct,
            "text": a.text,
            "tokens": a.tokens,
            "cut": a.cut,
        }
        for a in evaluation.answered
    ]


def append_lines(path: Path, lines: Iterable[Mapping[str, Any]]) -> None:
    """Append objects to a JSONL file, and put it on the disk.

    Raises:
        UserError: the file can't be written; the disk may be full.
    """
    try:
        with path.open("a", encoding="utf-8", newline="") as file:
            file.writelines(map(as_line, lines))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise UserError(
            f"{path}: could not be written ({error.strerror}); mend that, then: grpocket train --resume {path.parent}"
        ) from None


def as_line(values: Mapping[str, Any]) -> str:
    """An object as a line; what is not a finite number becomes null, so that every reader can read it."""
    return json.dumps(_finite(values), ensure_ascii=False, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(v) for key, v in value.items()}
    return value
