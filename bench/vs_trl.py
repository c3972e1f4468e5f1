"""One training step of TRL and one of grpocket, on the same model, prompts, group, lengths and LoRA, in alternation.

    python bench/vs_trl.py --prompts 4 --rounds 2

Needs the extra `[bench]` (trl 1.16.0). Every measurement is a process of its own, so that peak memory is its own too;
each runs a first step that is not counted. Answers have a fixed length: no token ends one. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from typing import Any

warnings.simplefilter("ignore")

GROUP = 8
WORDS = [
    "one",
    "two",
    "red",
    "blue",
    "stone",
    "river",
    "apple",
    "cloud",
    "seven",
    "north",
    "paper",
    "music",
    "light",
    "green",
    "table",
    "house",
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=["trl", "grpocket"], help="measure one side in this process")
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--prompt_words", type=int, default=60, help="words of each prompt, different in every prompt")
    parser.add_argument("--new_tokens", type=int, default=48)
    parser.add_argument("--steps", type=int, default=2, help="counted steps of each process")
    parser.add_argument("--rounds", type=int, default=2, help="processes of each side, in alternation")
    options = parser.parse_args()
    if options.side:
        side = {"trl": run_trl, "grpocket": run_grpocket}[options.side]
        steps, generation = side(options)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(json.dumps({"step": min(steps), "generation": min(generation), "peak_gb": peak}))
    else:
        compare(options)


def compare(options: argparse.Namespace) -> None:
    found: dict[str, list[dict[str, float]]] = {"trl": [], "grpocket": []}
    for _ in range(options.rounds):
        for side, measured in found.items():
            command = [sys.executable, __file__, "--side", side, *sys.argv[1:]]
            done = subprocess.run(command, check=True, capture_output=True, text=True)
            measured.append(json.loads(done.stdout.splitlines()[-1]))
            print(side, measured[-1], flush=True)
    print("| | TRL | grpocket | ratio |\n|---|---|---|---|")
    ratios = {}
    for name, unit in (("step", "s"), ("generation", "s"), ("peak_gb", "GB")):
        trl, ours = (statistics.median(m[name] for m in found[side]) for side in ("trl", "grpocket"))
        ratios[name] = statistics.median(
            a[name] / b[name] for a, b in zip(found["trl"], found["grpocket"], strict=True)
        )
        print(f"| {name} | {trl:.2f} {unit} | {ours:.2f} {unit} | {ratios[name]:.2f} |")
    print(json.dumps({"prompts": options.prompts, "prompt_words": options.prompt_words, "ratios": ratios}))


def questions(options: argparse.Namespace) -> list[list[dict[str, str]]]:
    rng = random.Random(0)
    texts = (" ".join(rng.choices(WORDS, k=options.prompt_words)) for _ in range(options.prompts))
    return [[{"role": "user", "content": text}] for text in texts]


def run_grpocket(options: argparse.Namespace) -> tuple[list[float], list[float]]:
    from dataclasses import replace

    from grpocket import GRPO, Problem, Reward
    from grpocket.learn import loop

    trainer = GRPO(
        group_size=GROUP,
        prompts_per_step=options.prompts,
        max_new_tokens=options.new_tokens,
        examples=0,
        system_prompt="",
        learning_rate=1e-6,
    )
    trainer.policy.sampling = replace(trainer.policy.sampling, stop_ids=())
    problems = [Problem(str(at), tuple(messages), "") for at, messages in enumerate(questions(options))]
    rng, clock = random.Random(0), Clock()

    def reward(samples: Any) -> list[Reward]:
        return [Reward(rng.random(), {}) for _ in samples]

    draw = lambda count, state: list(enumerate(problems))  # noqa: E731
    setup = loop.Setup(trainer.config, trainer.policy, trainer.engine, reward, draw, clock)
    for _ in range(options.steps + 1):
        with clock.step():
            trainer.state = loop.train_step(setup, trainer.state)
    return clock.steps[1:], clock.generation[1:]


class Clock:
    """A run that keeps times only."""

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.generation: list[float] = []

    def step(self) -> Timer:
        return Timer(self.steps)

    def timer(self, name: str) -> Timer:
        return Timer(self.generation if name == "rollout" else [])

    def say(self, text: str) -> None:
        print(text)

    def log(self, *_: Any) -> None:
        """Nothing is kept."""


class Timer:
    """Appends the seconds spent inside."""

    def __init__(self, found: list[float]) -> None:
        self.found = found

    def __enter__(self) -> None:
        self.start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.found.append(time.perf_counter() - self.start)


def run_trl(options: argparse.Namespace) -> tuple[list[float], list[float]]:
    """TRL at its best on this machine: micro-batches of one group, accumulated."""
    from datasets import Dataset
    from peft import LoraConfig, PeftModelForCausalLM
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    from grpocket.model.embedded import embedded_folder

    clock, rng = Clock(), random.Random(0)
    generate = PeftModelForCausalLM.generate

    def timed(*args: Any, **kwargs: Any) -> Any:
        with clock.timer("rollout"):
            return generate(*args, **kwargs)

    PeftModelForCausalLM.generate = timed  # type: ignore[method-assign]

    class Times(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.start = time.perf_counter()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            clock.steps.append(time.perf_counter() - self.start)

    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=str(embedded_folder()),
            reward_funcs=lambda completions, **_: [rng.random() for _ in completions],
            args=GRPOConfig(
                output_dir=folder,
                per_device_train_batch_size=GROUP,
                gradient_accumulation_steps=options.prompts,
                num_generations=GROUP,
                max_completion_length=options.new_tokens,
                generation_kwargs={"min_new_tokens": options.new_tokens},
                max_steps=options.steps + 1,
                learning_rate=1e-6,
                beta=0.0,
                use_cpu=True,
                bf16=False,
                gradient_checkpointing=False,
                report_to="none",
                save_strategy="no",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list([{"prompt": m} for m in questions(options)] * (options.steps + 1)),
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM"),
            callbacks=[Times()],
        )
        trainer.train()
    return clock.steps[1:], clock.generation[1:]


if __name__ == "__main__":
    main()
