"""Everything that is to be known of one GPU, in one call: sampling, update, memory and exactness.

    python bench/gpu.py            # under 8 minutes on one H200
    python bench/gpu.py --tiny     # the same on any CPU, with toy sizes: does the script run?

Needs torch, transformers, peft and this repository, nothing else: models of Qwen2.5's shapes are made with random
weights. Group 8, prompts of 128 random tokens, 256 new tokens, LoRA of rank 16 on all linear layers, with random
matrices so that it matters. HF is `generate` of the same PeftModel. The update's share is its counted operations (2 a
weight and token forward, 2 for the gradient by the input; attention and LoRA left out) over the measured rate of a
large product. What fails is told below the table, and the rest goes on. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent / "src"))

import torch
import transformers
from transformers.models.qwen2 import Qwen2Config, Qwen2ForCausalLM

from grpocket import memory
from grpocket.config import Config
from grpocket.engine.engine import Engine
from grpocket.learn.groups import compare
from grpocket.learn.policy import Policy
from grpocket.learn.selfcheck import self_check
from grpocket.learn.update import learn
from grpocket.model.loading import Loaded, add_adapter, choose_device, choose_dtype
from grpocket.records import Problem, Prompt, Reward, Rollout, Sampling

GROUP = 8
DIFFERENCE = "sampling/sampling_logp_difference"


class Size(NamedTuple):
    hidden: int
    mlp: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int = 151_936


class Work(NamedTuple):
    sizes: dict[str, Size]
    rows: tuple[int, ...]
    prompt: int
    new: int
    gemm: int
    seconds: float
    """After so many no new row is begun."""


FULL = Work(
    {"0.5B": Size(896, 4864, 24, 14, 2), "1.5B": Size(1536, 8960, 28, 12, 2)}, (32, 64, 128, 256), 128, 256, 8192, 400
)
TINY = Work({"tiny": Size(64, 128, 2, 4, 2, 512)}, (8, 16), 12, 8, 256, 60)
COLUMNS = {
    "model": "model",
    "rows": "rows",
    "hf": "HF generate, tokens/s",
    "ours": "grpocket, tokens/s",
    "ratio": "ratio",
    "first": "first call, s",
    "update": "update, s",
    "share": "of the product rate",
    "peak_gb": "peak, GB",
    "difference": "largest difference of a log-prob, nats",
}


class Bench:
    """One model, its rows one after another; what fails is noted and told at the end."""

    def __init__(self, name: str, size: Size, work: Work, device: torch.device, failures: list[str]) -> None:
        self.name, self.work, self.device, self.failures = name, work, device, failures
        self.config = Config(group_size=GROUP, max_new_tokens=work.new, lora_rank=16, learning_rate=1e-6)
        self.policy = make_policy(size, self.config, device, work)
        self.engine = Engine(self.policy.network, max(work.rows), static=True)

    def attempt(self, what: str, task: Callable[[], Any]) -> Any:
        """What the task returns, or None when it fails."""
        try:
            return task()
        except Exception:
            self.failures.append(f"{self.name}, {what}: {traceback.format_exc(limit=-4)}")
            return None

    def check(self) -> float | None:
        problems = [Problem(str(at), (), "") for at in range(2)]
        return self.attempt("self-check", lambda: self_check(self.policy, self.engine, problems))

    def measure(self, rows: int, rate: float) -> dict[str, Any]:
        found: dict[str, Any] = {"model": self.name, "rows": rows, "tokens": rows * self.work.new}
        problems = [Problem(str(at), (), "") for at in range(rows // GROUP)]
        prompts = [Prompt(self.policy.render(p), (0, 0, at)) for at, p in enumerate(problems)]
        memory.reset_peak()
        sampled = self.attempt(f"sampling of {rows} rows", lambda: self.sample(prompts))
        if sampled is None:  # the rest can be measured all the same
            self.engine = Engine(self.policy.network, max(self.work.rows), static=False)
            sampled = self.attempt(f"sampling of {rows} rows, not recorded", lambda: self.sample(prompts))
        if sampled:
            found["first"], seconds, completions = sampled
            found["ours"] = found["tokens"] / seconds
            found |= self.attempt(f"update of {rows} rows", lambda: self.update(problems, prompts, completions)) or {}
            found["peak_gb"] = memory.peak() / 1e9
        if "update" in found:
            body, head = weights(self.policy)
            stream = len(prompts) * self.work.prompt + rows * (self.work.new - 1)
            found["share"] = (4 * body * stream + 4 * head * found["tokens"]) / rate / found["update"]
        memory.release()
        if seconds := self.attempt(f"HF generate of {rows} rows", lambda: self.generate_hf(prompts)):
            found["hf"] = found["tokens"] / seconds
        if "hf" in found and "ours" in found:
            found["ratio"] = found["ours"] / found["hf"]
        return found

    def sample(self, prompts: list[Prompt]) -> tuple[float, float, Any]:
        """Seconds of the first call, which records the graph, and of the second; and what it wrote."""
        sampling = self.policy.sampling
        first, _ = timed(self.device, lambda: self.engine.generate(prompts, sampling))
        again, completions = timed(self.device, lambda: self.engine.generate(prompts, sampling))
        return first, again, completions

    def update(self, problems: list[Problem], prompts: list[Prompt], completions: Any) -> dict[str, float]:
        """Seconds of the second update, and how far its log-probs were from the sampler's in the first."""
        rng = random.Random(0)
        rollouts = [
            tuple(Rollout(p.token_ids, c, "", Reward(rng.random(), {})) for c in group)
            for p, group in zip(prompts, completions, strict=True)
        ]
        groups = compare(problems, rollouts, self.config)
        metrics = learn(self.policy, groups, self.config, 0)
        seconds, _ = timed(self.device, lambda: learn(self.policy, groups, self.config, 1))
        return {
            "update": seconds,
            "difference": metrics[f"{DIFFERENCE}/max"],
            "mean_difference": metrics[f"{DIFFERENCE}/mean"],
        }

    def generate_hf(self, prompts: list[Prompt]) -> float:
        """Seconds of transformers' own sampling of the same model."""
        ids = torch.tensor([p.token_ids for p in prompts for _ in range(GROUP)], device=self.device)
        model = self.policy.network.model.eval()
        options = {"do_sample": True, "top_k": 0, "pad_token_id": 0, "attention_mask": torch.ones_like(ids)}

        def generate(tokens: int) -> Any:
            with torch.no_grad():
                return model.generate(input_ids=ids, max_new_tokens=tokens, **options)

        generate(4)
        seconds, written = timed(self.device, lambda: generate(self.work.new))
        model.train()
        assert written.shape[1] == ids.shape[1] + self.work.new
        return seconds


class NoTokenizer:
    """Nothing here is text."""

    def decode(self, ids: Any) -> str:
        return ""


def make_policy(size: Size, config: Config, device: torch.device, work: Work) -> Policy:
    settings = Qwen2Config(
        vocab_size=size.vocabulary,
        hidden_size=size.hidden,
        intermediate_size=size.mlp,
        num_hidden_layers=size.layers,
        num_attention_heads=size.heads,
        num_key_value_heads=size.kv_heads,
        max_position_embeddings=4096,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    with device:
        base: Any = Qwen2ForCausalLM(settings)
    model = add_adapter(base.to(choose_dtype("auto", device)), config, "random").train()
    rng = random.Random(0)
    prompts = [tuple(rng.randrange(size.vocabulary) for _ in range(work.prompt)) for _ in range(max(work.rows))]
    loaded = Loaded(model, NoTokenizer(), (), 4096)
    policy = Policy(loaded, lambda problem: prompts[int(problem.id)], "", config)
    policy.sampling = Sampling(GROUP, work.new, ())
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.01)
    return policy


def weights(policy: Policy) -> tuple[int, int]:
    """Elements of all linear layers without LoRA's, and of the head."""
    layers = policy.network.backbone.named_modules()
    body = sum(m.weight.numel() for name, m in layers if type(m) is torch.nn.Linear and "lora_" not in name)
    return body, policy.network.head.weight.numel()


def timed(device: torch.device, task: Callable[[], Any]) -> tuple[float, Any]:
    settle(device)
    start = time.perf_counter()
    result = task()
    settle(device)
    return time.perf_counter() - start, result


def settle(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def gemm_rate(device: torch.device, n: int) -> float:
    """FLOP/s of a large product in the precision that is trained in, the mean of ten."""
    a, b = (torch.randn(n, n, device=device).to(choose_dtype("auto", device)) for _ in range(2))
    timed(device, lambda: [a @ b for _ in range(3)])
    seconds, _ = timed(device, lambda: [a @ b for _ in range(10)])
    return 10 * 2 * n**3 / seconds


def cell(value: Any) -> str:
    if value is None:
        return "failed"
    if isinstance(value, float):
        return f"{value:.0f}" if value >= 100 else f"{value:.3g}"
    return str(value)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="toy sizes, on the CPU")
    parser.add_argument("--model", choices=FULL.sizes, help="only this size")
    options = parser.parse_args()
    work, device = (TINY, torch.device("cpu")) if options.tiny else (FULL, choose_device("cuda"))
    start, failures, found = time.perf_counter(), [], []
    rate = gemm_rate(device, work.gemm)
    machine = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    print(f"{machine}, torch {torch.__version__}, transformers {transformers.__version__}, ", end="")
    print(f"products {rate / 1e12:.3g} TFLOP/s\n")
    print(f"| {' | '.join(COLUMNS.values())} |\n|{'---|' * len(COLUMNS)}", flush=True)
    checks = {}
    for name in [options.model] if options.model else work.sizes:
        bench = Bench(name, work.sizes[name], work, device, failures)
        checks[name] = bench.check()
        for rows in work.rows:
            if time.perf_counter() - start > work.seconds:
                failures.append(f"{name}, {rows} rows: left out, the time was up")
                continue
            found.append(bench.measure(rows, rate))
            print(f"| {' | '.join(cell(found[-1].get(column)) for column in COLUMNS)} |", flush=True)
        del bench
        memory.release()
    print(f"\nself-check, largest difference in nats: {checks}; {time.perf_counter() - start:.0f} s in all")
    for failure in failures:
        print(f"\n{failure}")
    print(json.dumps({"machine": machine, "flops": rate, "self_check": checks, "rows": found}))


if __name__ == "__main__":
    main()
