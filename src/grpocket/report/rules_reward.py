"""Signs in what is answered and what is paid for it: one small function each.

A rule looks at the record of a run as it stands after its last step, and says what it saw with the numbers,
one example, and the setting that helps; or None. A sign has to hold over several steps before it is told: a
rule that cries early is not read. Every threshold has its reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import pvariance

from .look import (
    CUT_SHARE,
    FLAT_SHARE,
    SOLVED,
    SPAN,
    WINDOW,
    Severity,
    Sign,
    asked,
    early,
    earned,
    goal,
    last,
    mean,
    recent,
    short,
    span,
    weights,
)
from .run_files import Answer, RunRecord, groups

MIN_ANSWERS = 8
"""Fewer answers than one usual group tell nothing."""
FAILED = 0.05
"""Share of what can be earned that a lucky guess explains."""
DOMINANT = 0.9
"""Share of the reward's variance: the others together then move an advantage by less than a third."""
DRIFTED = 0.2
"""Loss of the language reward, as a share of its weight, that names and symbols don't explain."""
REPEATED = 0.25
"""Share of the last steps' problems that came before within them: their answers can be learned by heart."""
OLD_EPOCH = 20
"""Passes over the data after which little is new."""


def answers_are_cut_off(run: RunRecord) -> Sign | None:
    """Most answers reach max_new_tokens without ending."""
    answers = recent(run)
    cut = [a for a in answers if not a.ended]
    nearly_all = len(cut) > FLAT_SHARE * len(answers)
    most = len(cut) > CUT_SHARE * len(answers) and len(run.steps) >= WINDOW
    if len(answers) < MIN_ANSWERS or not (nearly_all or most) or runs_on(answers):
        return None
    return Sign(
        "fault" if nearly_all else "warning",
        f"{len(cut)} of {len(answers)} answers in {span(run)} reached "
        f"max_new_tokens={run.config.get('max_new_tokens')} before they ended.",
        "raise max_new_tokens, or ask for shorter answers in system_prompt",
        asked(cut[-1]),
    )


def the_stop_token_is_never_sampled(run: RunRecord) -> Sign | None:
    """Answers are complete, but the model writes on until it is cut off."""
    answers = recent(run)
    if len(answers) < MIN_ANSWERS or not runs_on(answers):
        return None
    return Sign(
        "fault",
        f"0 of {len(answers)} answers in {span(run)} ended, although {sum(map(is_closed, answers))} hold "
        "a closed </answer>.",
        "use a model whose chat template ends a turn with its stop token, such as an instruct model, or examples=2",
        asked(answers[-1]),
    )


def runs_on(answers: Sequence[Answer]) -> bool:
    """Whether nothing ends, though most answers are given."""
    return not any(a.ended for a in answers) and sum(map(is_closed, answers)) > len(answers) / 2


def is_closed(answer: Answer) -> bool:
    """Whether the answer was given in full."""
    return "</answer>" in answer.text


def all_answers_are_wrong(run: RunRecord) -> Sign | None:
    """No group has signal, and next to nothing is earned."""
    remedy = (
        "use easier problems (other data, max_terms, max_digits), a stronger model, examples=2, "
        "or more answers a problem (group_size)"
    )
    return no_signal(run, "fault", remedy) if earned(run) <= 1 - SOLVED else None


def all_answers_are_right(run: RunRecord) -> Sign | None:
    """No group has signal, as nearly everything is earned."""
    remedy = "use harder problems, or stop here: what remains is time without learning"
    return no_signal(run, "note", remedy) if earned(run) >= SOLVED else None


def groups_are_all_right_or_all_wrong(run: RunRecord) -> Sign | None:
    """No group has signal: some problems are always solved, the others never."""
    remedy = "use problems in between, a higher temperature, or more answers a problem (group_size)"
    return no_signal(run, "fault", remedy) if 1 - SOLVED < earned(run) < SOLVED else None


def no_signal(run: RunRecord, severity: Severity, remedy: str) -> Sign | None:
    """The answers of nearly every group earn the same."""
    flat = last(run, "frac_reward_zero_std")
    if len(flat) < WINDOW or mean(flat) < FLAT_SHARE or is_constant(run):
        return None
    return Sign(
        severity,
        f"in {mean(flat):.0%} of the groups of {span(run)} all answers earned the same; mean {goal(run)[0]}: "
        f"{earned(run):.0%} of what can be earned.",
        remedy,
        "".join(asked(a) for a in recent(run)[-1:]),
    )


def the_reward_is_constant(run: RunRecord) -> Sign | None:
    """Every answer to every question earns the same, whatever it says."""
    if not is_constant(run):
        return None
    answers = recent(run)
    return Sign(
        "fault",
        f"all {len(answers)} answers in {span(run)} earned {answers[0].reward}, though "
        f"{len({a.text for a in answers})} different texts are among them.",
        "mend the reward function (rewards): it has to tell a good answer from a bad one",
        asked(answers[-1]),
    )


def is_constant(run: RunRecord) -> bool:
    """One value for different answers, from rewards that do not compare with known answers."""
    answers = recent(run) if len(run.steps) >= WINDOW else []
    one = len({a.reward for a in answers}) == 1 and len({a.text for a in answers}) > len(answers) / 2
    return one and "correctness" not in answers[0].parts


def one_reward_dominates(run: RunRecord) -> Sign | None:
    """One function other than correctness makes nearly all the difference."""
    parts = {name: parts_of(recent(run), name) for name in dict.fromkeys(n for a in recent(run) for n in a.parts)}
    variances = {name: pvariance(values) for name, values in parts.items() if len(set(values)) > 1}
    if len(variances) < 2 or len(run.steps) < WINDOW:
        return None
    name = max(variances, key=variances.__getitem__)
    share = variances[name] / sum(variances.values())
    if name == "correctness" or share <= DOMINANT:
        return None
    return Sign(
        "warning",
        f'"{name}" makes {share:.0%} of the variance of the reward in {span(run)}; '
        f"{', '.join(n for n in variances if n != name)} hardly count.",
        f'lower the weight of "{name}" in reward_weights',
    )


def parts_of(answers: Sequence[Answer], name: str) -> list[float]:
    """What a function gave, where it had something to say."""
    return [part for a in answers if (part := a.parts.get(name)) is not None]


def format_is_learned_but_not_correctness(run: RunRecord) -> Sign | None:
    """The form pays, and the content never does."""
    form, weight = last(run, "rewards/format/mean"), weights(run).get("format")
    if len(run.steps) < 2 * SPAN or not form or not weight or goal(run)[0] != "correctness":
        return None
    if mean(form) < SOLVED * weight or earned(run) > FAILED:
        return None
    return Sign(
        "warning",
        f"in {span(run)} {mean(form) / weight:.0%} of the format reward was earned, and {earned(run):.1%} of the "
        "correctness.",
        "use easier problems (max_terms, max_digits) or a stronger model; lower the format's weight in reward_weights",
        "".join(asked(a) for a in recent(run)[-1:]),
    )


def a_reward_raises(run: RunRecord) -> Sign | None:
    """A reward function fails on some answers."""
    return failures(run, "errors", "raised", "mend the function: it has to return a number or None for every text")


def a_reward_times_out(run: RunRecord) -> Sign | None:
    """A reward function takes too long on some answers."""
    return failures(run, "timeouts", "ran out of time", "make the function faster, or give it more time")


def failures(run: RunRecord, kind: str, verb: str, remedy: str) -> Sign | None:
    """What `rewards/NAME/errors` and `rewards/NAME/timeouts` count."""
    metrics = {metric for s in run.steps[-WINDOW:] for metric in s.values if metric.startswith("rewards/")}
    counts = {m.split("/")[1]: sum(last(run, m)) for m in sorted(metrics) if m.endswith(f"/{kind}")}
    counts = {name: count for name, count in counts.items() if count}
    if not counts:
        return None
    answers = recent(run)
    lost = [a for a in answers if any(a.parts.get(name) is None for name in counts)]
    return Sign(
        "fault" if sum(counts.values()) > CUT_SHARE * len(answers) else "warning",
        ", ".join(f'"{n}" {verb} on {c:.0f}' for n, c in counts.items())
        + f" of {len(answers)} answers in {span(run)}.",
        remedy,
        "".join(asked(a) for a in lost[-1:]),
    )


def a_known_answer_cannot_be_read(run: RunRecord) -> Sign | None:
    """Correctness has nothing to compare an answer with."""
    unread = [a for a in recent(run) if "correctness" in a.parts and a.parts["correctness"] is None]
    if not unread or sum(last(run, "rewards/correctness/errors") + last(run, "rewards/correctness/timeouts")):
        return None
    return Sign(
        "warning",
        f"correctness had nothing to compare with for {len({a.problem for a in unread})} of "
        f"{len({a.problem for a in recent(run)})} problems in {span(run)}.",
        "mend these rows of the data: their answer is empty, or is none",
        f"{unread[-1].problem}: {asked(unread[-1])}",
    )


def the_language_drifts(run: RunRecord) -> Sign | None:
    """Answers leave the question's language."""
    weight = weights(run).get("language")
    was, now = parts_of(early(run), "language"), parts_of(recent(run), "language")
    if not weight or min(len(was), len(now)) < 2 * MIN_ANSWERS or len(run.steps) < 2 * WINDOW:
        return None
    if mean(now) > mean(was) - DRIFTED * weight:
        return None
    worst = min((a for a in recent(run) if parts_of([a], "language")), key=lambda a: parts_of([a], "language"))
    return Sign(
        "warning",
        f"{mean(was) / weight:.0%} of the language reward was earned in steps 1 to {WINDOW}, "
        f"{mean(now) / weight:.0%} in {span(run)}.",
        'raise the weight of "language" in reward_weights, or name the language, such as language=en',
        short(worst.text),
    )


def problems_repeat(run: RunRecord) -> Sign | None:
    """So few problems that their answers can be learned by heart."""
    drawn = [group[0].question.casefold().strip() for group in groups(recent(run), run.config)]
    again = len(drawn) - len(set(drawn))
    epoch = mean(last(run, "epoch", 1))
    if len(run.steps) >= WINDOW and again > REPEATED * len(drawn):
        told = f"{again} of the {len(drawn)} problems drawn in {span(run)} had been drawn within them before"
    elif epoch > OLD_EPOCH:
        told = f"the data has been gone through {epoch:.0f} times"
    else:
        return None
    return Sign(
        "warning",
        f"{told}.",
        "use more problems (data) or fewer steps, and watch the held-out accuracy (eval_every)",
        next((short(q) for q in drawn if drawn.count(q) > 1), ""),
    )
