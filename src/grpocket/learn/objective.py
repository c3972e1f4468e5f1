"""What is optimised, in words and one formula, out of the settings: printed before the first step."""

from __future__ import annotations

from ..config import Config

RATIO_LOSSES = {
    "grpo": ("1/R sum_r 1/len_r sum_t", "min(ratio A, clip(ratio) A)"),
    "dapo": ("1/N sum_r sum_t", "min(ratio A, clip(ratio) A)"),
    "dr_grpo": ("1/(R max_new_tokens) sum_r sum_t", "min(ratio A, clip(ratio) A)"),
    "gspo": ("1/R sum_r", "min(s A, clip(s) A), s = exp(mean_t(logp - old))"),
    "cispo": ("1/N sum_r sum_t", "stop_gradient(min(ratio, ratio_cap)) A logp"),
    "pg": ("1/(R max_new_tokens) sum_r sum_t", "A logp"),
}
BASELINES = {
    "group": "reward - mean of the group",
    "batch": "reward - mean of the batch",
    "leave_one_out": "reward - mean of the others in the group",
    "none": "reward",
}
SCALES = {"group": " over the group's standard deviation + 1e-6", "batch": " over the batch's + 1e-6", "none": ""}


def describe(config: Config, dtype: str) -> str:
    """The effective objective, in a few lines."""
    return "\n".join([f"objective: maximise {formula(config)}", *details(config, dtype)])


def formula(config: Config) -> str:
    """The objective as one formula."""
    outer, inner = RATIO_LOSSES[config.loss]
    if config.correction:
        inner = f"w ({inner})"
    if config.kl_coef and config.kl_in == "loss":
        inner += f" - {config.kl_coef:g} {config.kl}"
    if config.entropy_coef:
        inner += f" + {config.entropy_coef:g} entropy"
    return f"{outer} [{inner}]"


def details(config: Config, dtype: str) -> list[str]:
    """What the letters of the formula stand for here."""
    low, high = config.clip_range
    clip = f"ratio clipped to [{1 - low:g}, {1 + high:g}]" + (f", at most {config.delta:g}" if config.delta else "")
    clip = {"cispo": f"ratio at most {config.ratio_cap:g}", "pg": "no ratio"}.get(config.loss, clip)
    passes = config.num_updates * config.num_minibatches
    lines = [
        f"  advantage A = {BASELINES[config.advantage_baseline]}{SCALES[config.advantage_scale]}; {clip}; "
        f"{passes} optimizer step{'s' * (passes != 1)} a step",
        f"  R = {config.rows_per_step} responses, N = their tokens, rows without signal counted"
        + (", truncated ones left out" if config.mask_truncated else ""),
        "  KL to the untrained model: " + kl(config),
        f"  sampling at temperature {temperatures(config)}, without top-k or top-p; dtype {dtype}",
    ]
    if config.correction:
        lines.append(f"  w = min(exp(old - sampled), {config.correction_cap:g}), without gradient, by token")
    if config.overlong_buffer:
        lines.append(f"  answers within {config.overlong_buffer} tokens of max_new_tokens lose up to 1.0 of reward")
    if config.extra_groups:
        lines.append(f"  up to {config.extra_groups} further problems a step replace groups without signal")
    return lines


def kl(config: Config) -> str:
    """Whether, where and how the KL counts."""
    if not config.kl_coef:
        return "none, and no reference is run"
    return f"{config.kl_coef:g} {config.kl} in the {config.kl_in}"


def temperatures(config: Config) -> str:
    """The temperature, or its path."""
    if config.final_temperature is None:
        return f"{config.temperature:g}"
    return f"{config.temperature:g} to {config.final_temperature:g}"
