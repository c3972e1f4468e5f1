"""Run folders made up: a pretended policy gets better along curves, and the real writers write its files.

A curve is a function of the progress x from 0 to 1. What a test gives replaces the healthy curve of that name.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import fmean, pstdev
from typing import Any

from grpocket.config import Config
from grpocket.records import Completion, Group, Problem, Reward, Rollout
from grpocket.report.metrics import append_lines, rollout_lines, step_metrics

Curve = Callable[[float], float]
HEALTHY: dict[str, Curve] = {
    "right": lambda x: 0.15 + 0.7 * x,  # share of right answers
    "form": lambda x: min(1.0, 0.4 + 1.5 * x),  # share in the format
    "own_language": lambda x: 1.0,  # share of an answer's letters in the question's language
    "length": lambda x: 30.0,  # mean tokens
    "cut": lambda x: 0.05 * (1 - x),  # share that reaches max_new_tokens
    "variety": lambda x: 1.0 - 0.5 * x,  # share of answers with words of their own
    "entropy": lambda x: 0.9 - 0.7 * x,
    "grad_norm": lambda x: 0.3,
    "mismatch": lambda x: 3e-6,
    "luck": lambda x: 0.25,  # how far problems differ in difficulty
    "held_out": lambda x: float("nan"),  # as `right` unless given
}
WORDS = ("so", "then", "now", "first", "we get", "that is", "adding", "next", "hence", "and")


def write_run(
    folder: Path,
    seed: int = 0,
    num_problems: int = 400,
    num_held: int = 100,
    update: Callable[[float], Mapping[str, float]] = lambda x: {},
    reward: Callable[[Reward, str, random.Random], Reward] = lambda reward, text, rng: reward,
    finished: float = 1.0,
    curves: Mapping[str, Curve] | None = None,
    **settings: Any,
) -> Path:
    """The folder of a run, `finished` of its steps done; `update` adds metrics, `reward` changes what is paid."""
    config = Config(**({"steps": 24, "held_out": num_held, "data": "sums.jsonl", "output_dir": str(folder)} | settings))
    shape = HEALTHY | dict(curves or {})
    rng = random.Random(f"{folder.name}/{seed}")
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    (folder / "objective.txt").write_text("objective: maximise 1/R sum_r 1/len_r sum_t [min(ratio A, clip(ratio) A)]\n")
    problems = [sum_problem(rng, at) for at in range(num_problems + num_held)]
    held = [(p, rng.random()) for p in problems[num_problems:]]
    evaluate(folder, 0, held, shape, 0.0, rng)
    drawn = 0
    for step in range(1, round(config.steps * finished) + 1):
        x = step / config.steps
        groups = []
        for _ in range(config.prompts_per_step):
            problem, shift = problems[drawn % num_problems], shape["luck"](x) * rng.uniform(-1, 1)
            groups.append(group(problem, config, shape, x, shift, reward, rng))
            drawn += 1
        flat = all(not g.has_signal for g in groups)
        noisy = {name: shape[name](x) * rng.uniform(0.75, 1.25) for name in ("entropy", "grad_norm", "mismatch")}
        found = {"loss": rng.gauss(0, 1e-6), "learning_rate": config.learning_rate, "skipped_steps": 0.0}
        found["grad_norm"] = 0.0 if flat else noisy["grad_norm"]
        if not flat:
            name = "sampling/sampling_logp_difference"
            found |= {"entropy": noisy["entropy"], "ratio": 1.0, "clip_ratio/region_mean": 0.0}
            found |= {f"{name}/mean": noisy["mismatch"], f"{name}/max": 9 * noisy["mismatch"]}
        found |= update(x)
        metrics = step_metrics(step, groups, found, {"rollout": rng.uniform(4, 6), "learn": rng.uniform(5, 8)})
        last = step == config.steps
        more: dict[str, float] = {"epoch": drawn / num_problems}
        if last or (config.eval_every and step % config.eval_every == 0):
            more["eval/accuracy"] = evaluate(folder, step, held, shape, x, rng)
        append_lines(folder / "metrics.jsonl", [{"step": step, **metrics.values, **more}])
        append_lines(folder / "rollouts.jsonl", rollout_lines(step, groups, []))
    return folder


def sum_problem(rng: random.Random, at: int) -> Problem:
    a, b = 10 + at, rng.randrange(10, 100)
    return Problem(f"sums.jsonl:{at + 1}", ({"role": "user", "content": f"What is {a} + {b}?"},), str(a + b))


def evaluate(folder: Path, step: int, held: Sequence[tuple[Problem, float]], shape: Mapping[str, Curve], x: float, rng):
    """Greedy answers: a problem is solved when its own fixed difficulty is below the curve, or by luck."""
    level = shape["held_out"](x)
    level = shape["right"](x) if level != level else level
    lines = []
    for problem, difficulty in held:
        correct = (difficulty + rng.gauss(0, 0.05)) < level
        given = problem.answer if correct else str(int(problem.answer) + rng.choice((-10, -1, 1, 10)))
        text = f"<think>{problem.question[8:-1]} = {given}</think><answer>{given}</answer>"
        known = {"question": problem.question, "answer": problem.answer}
        lines.append({"step": step, "problem": problem.id, **known, "correct": correct, "text": text, "tokens": 30})
    append_lines(folder / "eval.jsonl", lines)
    return fmean(line["correct"] for line in lines) if lines else 0.0


def group(problem: Problem, config: Config, shape: Mapping[str, Curve], x: float, shift: float, reward, rng) -> Group:
    rollouts = [rollout(problem, config, shape, x, shift, reward, rng) for _ in range(config.group_size)]
    values = [r.reward.value or 0.0 for r in rollouts]
    mean, scale = fmean(values), pstdev(values)
    advantages = tuple((v - mean) / (scale + 1e-6) if scale else 0.0 for v in values)
    return Group(problem, tuple(rollouts), advantages, tuple(r.reward.value is not None for r in rollouts))


def rollout(
    problem: Problem, config: Config, shape: Mapping[str, Curve], x: float, shift: float, reward, rng
) -> Rollout:
    cut = rng.random() < shape["cut"](x)
    # A problem's luck moves every answer of its group; certain failure and certain success stay certain.
    level = shape["right"](x)
    right = not cut and rng.random() < min(1.0, max(0.0, level + shift * min(1.0, 4 * level, 4 * (1 - level))))
    form = not cut and rng.random() < shape["form"](x)
    own = f" {rng.choice(WORDS)} {rng.choice(WORDS)} {rng.randrange(99)}" if rng.random() < shape["variety"](x) else ""
    given = problem.answer if right else str(int(problem.answer) + (rng.choice((-10, -1, 1, 10)) if own else 1))
    thought = f"{problem.question[8:-1]}{own} = {given}"
    text = f"<think>{thought}</think><answer>{given}</answer>" if form else f"{thought} <answer>{given}</answer>"
    text = text[: len(text) // 2] if cut else text
    parts = {"correctness": float(right), "format": float(form), "language": shape["own_language"](x)}
    weights = dict(zip(config.rewards, config.reward_weights, strict=True))
    paid = {name: weight * parts[name] for name, weight in weights.items()}
    earned = Reward(sum(paid.values()), paid)
    tokens = config.max_new_tokens if cut else max(2, round(shape["length"](x) * rng.uniform(0.7, 1.3)))
    tokens = min(tokens, config.max_new_tokens)
    completion = Completion((5,) * tokens, (-0.5,) * tokens, "length" if cut else "stop")
    return Rollout((1,) * 40, completion, text, reward(earned, text, rng))
