"""How the cost of a step grows with group size, prompt length, answer length and rows, against the counted floor.

    python bench/scaling.py

The floor is what the machine can't go below: floating-point operations over the measured rate of a large matrix
product, or bytes over the measured bandwidth, whichever takes longer. Operations are counted from the model's matrices
(2 a weight and token forward, 2 more for the gradient by the input), attention and LoRA left out; bytes are those of
the weights, once a decode step. Answers have a fixed length, and every row trains. The last line is JSON.
"""

from __future__ import annotations

import json
import random
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple

import torch

from grpocket import GRPO, Problem, Reward
from grpocket.learn.groups import compare
from grpocket.learn.update import learn
from grpocket.records import Prompt, Rollout

REPEATS = 3
WORDS = ["one", "two", "red", "blue", "stone", "river", "apple", "cloud", "seven", "north", "paper", "music"]


class Case(NamedTuple):
    prompts: int = 4
    group: int = 8
    words: int = 60
    new_tokens: int = 48


CASES = {
    "group size": [Case(1, 2), Case(1, 4), Case(1, 8), Case(1, 16), Case(1, 32)],
    "prompt length": [Case(1, words=20), Case(1, words=60), Case(1, words=240), Case(1, words=480)],
    "answer length": [Case(new_tokens=16), Case(new_tokens=48), Case(new_tokens=96)],
    "rows": [Case(1), Case(2), Case(4), Case(8)],
}


def main() -> None:
    rate, bandwidth = gemm_rate(), read_bandwidth()
    print(f"products {rate / 1e9:.0f} GFLOP/s, reading {bandwidth / 1e9:.0f} GB/s, {torch.get_num_threads()} threads\n")
    trainer = GRPO(examples=0, system_prompt="", learning_rate=1e-6, max_new_tokens=128)
    network = trainer.policy.network
    layers = [m for name, m in network.backbone.named_modules() if type(m) is torch.nn.Linear and "lora" not in name]
    body, head = sum(layer.weight.numel() for layer in layers), network.head.weight.numel()
    trainer.policy.sampling = replace(trainer.policy.sampling, stop_ids=())
    measure(trainer, Case(1, 2, new_tokens=4), body, head, rate, bandwidth)  # warms up
    found = {}
    for name, cases in CASES.items():
        columns = [name, "prompt tokens", "reading prompts", "decode step", "of the floor", "update", "of the floor"]
        print(f"| {' | '.join(columns)} |\n|{'---|' * len(columns)}")
        for case in cases:
            row = measure(trainer, case, body, head, rate, bandwidth)
            found[f"{name} {case}"] = row
            varied = {
                "group size": case.group,
                "prompt length": case.words,
                "answer length": case.new_tokens,
                "rows": case.prompts * case.group,
            }
            fields = [
                str(varied[name]),
                str(row["prompt_tokens"]),
                f"{row['prefill']:.2f} s",
                f"{row['decode'] * 1e3:.0f} ms",
                f"{row['decode_share']:.0%}",
                f"{row['update']:.2f} s",
                f"{row['update_share']:.0%}",
            ]
            print(f"| {' | '.join(fields)} |", flush=True)
        print()
    print(json.dumps(found))


def measure(trainer: GRPO, case: Case, body: int, head: int, rate: float, bandwidth: float) -> dict[str, float]:
    """Seconds of reading the prompts, of a decode step and of the update; medians."""
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=case.words)) for _ in range(case.prompts)]
    problems = [Problem(str(at), ({"role": "user", "content": text},), "") for at, text in enumerate(texts)]
    prompts = [Prompt(trainer.policy.render(p), (0, 0, at)) for at, p in enumerate(problems)]
    sampling = replace(trainer.policy.sampling, num_samples=case.group, max_new_tokens=case.new_tokens)
    completions: Any = None

    def generate(tokens: int) -> float:
        nonlocal completions
        return timed(lambda: trainer.engine.generate(prompts, replace(sampling, max_new_tokens=tokens)))[0]

    prefill = statistics.median(generate(1) for _ in range(REPEATS))
    whole, completions = zip(
        *(timed(lambda: trainer.engine.generate(prompts, sampling)) for _ in range(REPEATS)), strict=True
    )
    decode = (statistics.median(whole) - prefill) / (case.new_tokens - 1)
    config = replace(trainer.config, group_size=case.group, max_new_tokens=case.new_tokens)
    rollouts = [
        tuple(Rollout(p.token_ids, c, "", Reward(rng.random(), {})) for c in g)
        for p, g in zip(prompts, completions[0], strict=True)
    ]
    groups = compare(problems, rollouts, config)
    update = statistics.median(timed(lambda: learn(trainer.policy, groups, config, 0))[0] for _ in range(REPEATS))

    rows, prompt = case.prompts * case.group, len(prompts[0].token_ids)
    stream = case.prompts * prompt + rows * (case.new_tokens - 1)
    update_floor = (4 * body * stream + 4 * head * rows * case.new_tokens) / rate
    decode_floor = max(2 * (body + head) * rows / rate, 4 * (body + head) / bandwidth)
    return {
        "prompt_tokens": prompt,
        "prefill": prefill,
        "decode": decode,
        "decode_share": decode_floor / decode,
        "update": update,
        "update_share": update_floor / update,
    }


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    result = work()
    return time.perf_counter() - start, result


def gemm_rate() -> float:
    """FLOP/s of a large float32 product, the best of several."""
    a, b = torch.randn(2048, 2048), torch.randn(2048, 2048)
    return 2 * 2048**3 / min(timed(lambda: a @ b)[0] for _ in range(12))


def read_bandwidth() -> float:
    """Bytes a second of reading memory that no cache holds, the best of several."""
    a = torch.randn(1 << 27)
    return a.numel() * 4 / min(timed(a.sum)[0] for _ in range(6))


if __name__ == "__main__":
    main()
