"""Signs in how the policy moves, what its gains are worth, and whether the machinery works: one function each.

As in `rules_reward.py`. How far the weights moved is not in the files, so a learning rate that is too low is
told by its own size together with a reward and an entropy that stand still.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..evaluate.intervals import paired_difference
from .look import (
    CUT_SHARE,
    FLAT_SHARE,
    SOLVED,
    SPAN,
    WINDOW,
    Sign,
    asked,
    column,
    earned,
    goal,
    is_change,
    last,
    mean,
    mean_change,
    recent,
    short,
    span,
)
from .run_files import HeldOut, RunRecord, groups

LOW_RATE = {"adapter": 1e-5, "model": 1e-7}
"""What a step of AdamW moves a weight by is about the learning rate; usual are 1e-4 and 1e-6."""
CLIPPED = 0.3
"""Share of tokens whose ratio left the clip range; a few per cent are usual."""
FAR_KL = 1.0
"""Nats a token to the untrained model: what is written is then e times less likely to it, token by token."""
BLOWN = 3.0
"""Growth or fall of the entropy, beside half of the reward lost, that a change of problems doesn't bring about."""
LOW_ENTROPY = 0.1
"""Nats a token below which the samples of a group hardly differ."""
SAME_TEXTS = 0.1
"""Variety of a group: 0 when all its answers are the same text, 1 when no two are."""
GROWN, SHRUNK = 1.5, 0.5
"""Change of the mean length that matters for time, and is no chance with hundreds of answers on either side."""
MISMATCH = 0.02
"""Mean difference of a log-prob in nats: the ratio is then off by a tenth of the usual clip range of 0.2."""
EXPLODED = 10.0
"""Times max_grad_norm and times what it was: nearly nothing but the direction of a few rows is left."""


def the_learning_rate_is_too_low(run: RunRecord) -> Sign | None:
    """There is signal, but nothing moves, and the steps are tiny."""
    rates, flat = last(run, "learning_rate", SPAN), last(run, "frac_reward_zero_std", SPAN)
    kind = "adapter" if run.config.get("lora_rank") else "model"
    if len(run.steps) < 2 * SPAN or mean(flat) > FLAT_SHARE or max(rates, default=1.0) > LOW_RATE[kind]:
        return None
    if is_change(run, "reward") or is_change(run, "entropy"):
        return None
    told = [
        f"{name} from {was:.3g} to {now:.3g}" for name in ("reward", "entropy") for was, now in [mean_change(run, name)]
    ]
    return Sign(
        "warning",
        f"at learning_rate={max(rates):.1e} nothing has moved in {run.steps[-1].step} steps ({', '.join(told)}), "
        f"while {1 - mean(flat):.0%} of the groups had signal.",
        "raise learning_rate; " + ("1e-4 is usual with an adapter" if kind == "adapter" else "1e-6 is usual"),
    )


def the_learning_rate_is_too_high(run: RunRecord) -> Sign | None:
    """The policy runs away: ratios clipped, a large KL, or a reward that falls while the entropy leaves."""
    told = [reason for reason in (clipping(run), distance(run), runaway(run)) if reason]
    if not told or len(run.steps) < WINDOW:
        return None
    return Sign(
        "warning",
        f"at learning_rate={max(last(run, 'learning_rate'), default=0.0):.1e} {'; '.join(told)}.",
        "lower learning_rate to a third; fewer passes (num_updates) and kl_coef hold the policy back as well",
        "".join(asked(a) for a in recent(run)[-1:]),
    )


def clipping(run: RunRecord) -> str:
    """Too many ratios clipped; GSPO's range is so narrow that many are meant to be."""
    clipped = last(run, "clip_ratio/region_mean")
    if run.config.get("loss") == "gspo" or not clipped or mean(clipped) <= CLIPPED:
        return ""
    return f"{mean(clipped):.0%} of the ratios left the clip range in {span(run)}"


def distance(run: RunRecord) -> str:
    """Far from the untrained model."""
    kl = last(run, "kl")
    return f"the KL is {mean(kl):.2f} nats a token in {span(run)}" if kl and mean(kl) > FAR_KL else ""


def runaway(run: RunRecord) -> str:
    """Half of the best reward is lost, and the entropy has multiplied or vanished."""
    if len(run.steps) < 2 * SPAN:
        return ""
    blocks = range(0, len(run.steps) - WINDOW, WINDOW)
    best = max(blocks, key=lambda at: mean(column(run, "reward", at, at + WINDOW)))
    was, now = mean(column(run, "reward", best, best + WINDOW)), mean(last(run, "reward"))
    entropy, entropy_now = column(run, "entropy", best, best + WINDOW), last(run, "entropy")
    if was <= 0 or now > was / 2 or not entropy or not entropy_now:
        return ""
    then, leaves = mean(entropy), mean(entropy_now)
    if then / BLOWN < leaves < then * BLOWN:
        return ""
    steps = f"steps {run.steps[best].step} to {run.steps[best + WINDOW - 1].step}"
    return (
        f"the reward fell from {was:.2f} in {steps} to {now:.2f} in {span(run)}, "
        f"while the entropy went from {then:.2f} to {leaves:.2f}"
    )


def the_entropy_has_collapsed(run: RunRecord) -> Sign | None:
    """A group's answers are all alike, though the task is not solved."""
    flat, entropy = last(run, "frac_reward_zero_std"), last(run, "entropy")
    if len(run.steps) < WINDOW or earned(run) >= SOLVED or mean(flat) < CUT_SHARE:
        return None
    together = [g for g in groups(recent(run), run.config) if len(g) > 1]
    different = [len({a.text for a in group}) for group in together]
    variety = [(n - 1) / (len(group) - 1) for n, group in zip(different, together, strict=True)]
    if mean(entropy) > LOW_ENTROPY or mean(variety or [1.0]) > SAME_TEXTS:
        return None
    return Sign(
        "fault",
        f"in {span(run)} a group of {len(together[-1])} answers held {mean(different):.1f} different texts"
        + (f" at an entropy of {mean(entropy):.3f} nats a token" if entropy else "")
        + f", with {earned(run):.0%} of what can be earned.",
        "begin again with a lower learning_rate, with entropy_coef=0.01, or at a higher temperature",
        asked(together[-1][-1]),
    )


def answers_grow_without_getting_better(run: RunRecord) -> Sign | None:
    """Length goes up, and what counts does not."""
    remedy = "set overlong_buffer, or loss=dr_grpo, which does not favour long wrong answers"
    return drift(run, lambda growth: growth >= GROWN, remedy)


def answers_shrink_without_getting_better(run: RunRecord) -> Sign | None:
    """Length goes down, and what counts does not rise."""
    return drift(run, lambda growth: growth <= SHRUNK, "look at what short answers are paid for (reward_weights)")


def drift(run: RunRecord, leaves: Callable[[float], bool], remedy: str) -> Sign | None:
    """A change of the mean length while what the run is for does not rise."""
    lengths = "completions/mean_length"
    (was, now), (name, metric, _) = mean_change(run, lengths), goal(run)
    then, today = mean_change(run, metric)
    if len(run.steps) < 2 * SPAN or not was or not leaves(now / was) or not is_change(run, lengths):
        return None
    if today > then and is_change(run, metric):
        return None
    return Sign(
        "warning",
        f"the mean length went from {was:.0f} to {now:.0f} tokens in {run.steps[-1].step} steps, {name} from "
        f"{then:.2f} to {today:.2f}.",
        remedy,
        "".join(asked(a) for a in recent(run)[-1:]),
    )


def the_reward_rises_while_accuracy_falls(run: RunRecord) -> Sign | None:
    """What is paid for is no longer what is wanted."""
    evaluations = run.evaluations()
    if len(evaluations) < 2:
        return None
    *earlier, now = sorted(evaluations)
    best = max(earlier, key=lambda step: mean(h.correct for h in evaluations[step]))
    before, after = in_common(evaluations[best], evaluations[now])
    difference = paired_difference([h.correct for h in before], [h.correct for h in after])
    start = min(best, len(run.steps))
    was, paid = column(run, "reward", max(0, start - WINDOW), max(start, WINDOW)), last(run, "reward")
    if not before or difference.high >= 0 or not was or mean(paid) <= mean(was):
        return None
    lost = next(a for b, a in zip(before, after, strict=True) if b.correct and not a.correct)
    return Sign(
        "fault",
        f"from step {best} to {now} held-out accuracy changed by {difference} on {len(after)} problems, while the "
        f"reward went from {mean(was):.2f} to {mean(paid):.2f}.",
        "read what is paid for (rollouts.jsonl), and mend the reward or reward_weights",
        f"{lost.question or lost.problem} -> {short(lost.text)}",
    )


def in_common(before: Sequence[HeldOut], after: Sequence[HeldOut]) -> tuple[list[HeldOut], list[HeldOut]]:
    """The answers to the problems of both evaluations, in the same order."""
    then = {h.problem: h for h in before}
    both = [h for h in after if h.problem in then]
    return [then[h.problem] for h in both], both


def sampler_and_trainer_disagree(run: RunRecord) -> Sign | None:
    """The log-probs of the sampler are not those of the trainer."""
    means = last(run, "sampling/sampling_logp_difference/mean")
    if len(means) < WINDOW or mean(means) <= MISMATCH or run.config.get("correction"):
        return None
    worst = max(last(run, "sampling/sampling_logp_difference/max"), default=max(means))
    return Sign(
        "fault",
        f"they differ by {mean(means):.3f} nats a token on average in {span(run)}, and by {worst:.2f} at most.",
        "use dtype=float32, or correction=true for an engine that is not exact",
    )


def the_adapter_is_unchanged(run: RunRecord) -> Sign | None:
    """What was saved is what there was at the start."""
    if not run.untouched or not run.steps:
        return None
    return Sign(
        "fault",
        f"every lora_B in the saved adapter is 0 after {run.steps[-1].step} steps: it is the untrained model.",
        "look for groups with signal, and at learning_rate and lora_targets: no gradient has reached the adapter",
    )


def the_gradient_is_zero(run: RunRecord) -> Sign | None:
    """There is signal, and no gradient."""
    norms, flat = last(run, "grad_norm"), last(run, "frac_reward_zero_std")
    if len(norms) < WINDOW or any(norms) or mean(flat) > FLAT_SHARE:
        return None
    return Sign(
        "fault",
        f"grad_norm was 0 in {span(run)}, though {1 - mean(flat):.0%} of the groups had signal.",
        "look at mask_truncated (when every answer is cut off, none is trained) and at lora_targets",
    )


def the_gradient_explodes(run: RunRecord) -> Sign | None:
    """The gradient is no finite number, or grows beyond use."""
    skipped, norms = sum(last(run, "skipped_steps")), last(run, "grad_norm")
    before = mean(column(run, "grad_norm", 0, WINDOW))
    limit = EXPLODED * max(float(run.config.get("max_grad_norm") or 1.0), before)
    grown = len(run.steps) >= 2 * WINDOW and len(norms) == WINDOW and mean(norms) > limit
    if not skipped and not grown:
        return None
    told = [f"{skipped:.0f} optimizer steps were skipped because their gradient was not finite"] if skipped else []
    told += [f"grad_norm was {mean(norms):.3g} on average, after {before:.3g} in the beginning"] if grown else []
    return Sign(
        "fault",
        f"in {span(run)} {'; '.join(told)}.",
        "lower learning_rate, use dtype=float32, and look for rewards that are huge",
    )
