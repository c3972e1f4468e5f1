"""A random model of the real architecture, small enough for any test, with a tokenizer made in code."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from transformers.models.gemma2 import Gemma2Config
from transformers.models.gemma3 import Gemma3TextConfig
from transformers.models.lfm2 import Lfm2Config
from transformers.models.llama import LlamaConfig
from transformers.models.qwen2 import Qwen2Config
from transformers.models.qwen3 import Qwen3Config
from transformers.models.smollm3 import SmolLM3Config

from grpocket.config import Config
from grpocket.engine.engine import Engine
from grpocket.learn.policy import Policy
from grpocket.model.loading import Loaded, add_adapter, checkpoint_activations, stop_ids
from grpocket.records import Completion, Group, Problem, Prompt, Reward, Rollout, Sample

EOS = 2
TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}: {{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {% endif %}"
)
FAMILIES = {
    "llama": LlamaConfig,
    "qwen2": Qwen2Config,
    "qwen3": Qwen3Config,
    "gemma3": Gemma3TextConfig,
    "smollm3": SmolLM3Config,
}


BEYOND = {"gemma2": Gemma2Config, "lfm2": Lfm2Config}
"""Families that our attention does not compute."""


@functools.cache
def tokenizer() -> PreTrainedTokenizerFast:
    """One token a character, and merges of "th" and "e " so that a text has several encodings."""
    characters = [chr(c) for c in range(32, 127)] + ["\n", "é", "×"]
    vocabulary = {token: at for at, token in enumerate(["<unk>", "<s>", "</s>", *characters, "th", "12"])}
    bpe = Tokenizer(models.BPE(vocabulary, [("t", "h"), ("1", "2")], unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Split("\u0000", "isolated")
    bpe.decoder = decoders.Fuse()
    made = PreTrainedTokenizerFast(
        tokenizer_object=bpe, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    made.chat_template = TEMPLATE
    return made


def base_model(family: str = "llama", seed: int = 0, **changes: Any) -> Any:
    """A causal LM with random weights, large enough that its samples differ from each other."""
    settings: dict[str, Any] = {
        "vocab_size": len(tokenizer()),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "max_position_embeddings": 1024,
        "initializer_range": 0.12,
        "bos_token_id": 1,
        "pad_token_id": 0,
        "eos_token_id": EOS,
        "tie_word_embeddings": True,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config((FAMILIES | BEYOND)[family](**(settings | changes)))


def save_model(folder: Path, **changes: Any) -> Path:
    """The model with its tokenizer, as a folder that transformers loads."""
    base_model(**changes).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def policy(
    family: str = "llama", stir: float = 0.0, model_changes: dict[str, Any] | None = None, **settings: Any
) -> Policy:
    """A policy over the random model; `stir` is the size of random adapter weights, 0 for an untouched adapter."""
    config = Config(**({"max_new_tokens": 12, "group_size": 4, "lora_rank": 4} | settings))
    base = base_model(family, **(model_changes or {}))
    model = add_adapter(base, config, "tiny") if config.lora_rank else base
    if config.gradient_checkpointing:
        checkpoint_activations(model)
    loaded = Loaded(model.train(), tokenizer(), stop_ids(base, tokenizer()), 1024)
    made = Policy(loaded, lambda problem: encode(problem.question), "", config)
    if stir:
        stir_adapter(made, stir)
    return made


def stir_adapter(made: Policy, size: float, seed: int = 1) -> None:
    """Random adapter weights, or changes of all weights, so that they matter."""
    generator = torch.Generator().manual_seed(seed)
    kept = 1.0 if made.network.model is made.network.lm else 0.0
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.mul_(kept).add_(torch.randn(parameter.shape, generator=generator) * size)


def each(reward: Callable[[Problem, str], Reward]) -> Callable[[Sequence[Sample]], list[Reward]]:
    """A reward of one answer as the loop wants it: of all of them."""
    return lambda samples: [reward(s.problem, s.text) for s in samples]


def engine(made: Policy, row_budget: int = 64) -> Engine:
    return Engine(made.network, row_budget)


def encode(text: str) -> tuple[int, ...]:
    return tuple(tokenizer()(text, add_special_tokens=False)["input_ids"])


def problem(question: str, answer: str = "", name: str = "") -> Problem:
    return Problem(name or question, ({"role": "user", "content": question},), answer)


def prompts(*questions: str, seed: int = 0, step: int = 0) -> list[Prompt]:
    return [Prompt(encode(q), key=(seed, step, at)) for at, q in enumerate(questions)]


def group(prompt: Prompt, completions: tuple[Completion, ...], advantages: tuple[float, ...], **fields: Any) -> Group:
    """A group as the update gets it."""
    rollouts = tuple(
        Rollout(prompt.token_ids, c, tokenizer().decode(list(c.token_ids)), Reward(a, {}))
        for c, a in zip(completions, advantages, strict=True)
    )
    return Group(problem("?"), rollouts, advantages, fields.get("trained", (True,) * len(rollouts)))


def gradients(made: Policy) -> torch.Tensor:
    """All gradients in one vector; zeros where there are none."""
    return torch.cat([(p.grad if p.grad is not None else torch.zeros_like(p)).flatten() for p in made.parameters()])
