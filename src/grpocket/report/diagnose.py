"""Why a run does not learn, by name: the rules in one table, and when each of them held.

The rules are in `rules_reward.py` and `rules_policy.py`, each a pure function of the run's record.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from . import rules_policy as policy
from . import rules_reward as reward
from .look import WINDOW, Severity, Sign
from .run_files import RunRecord, as_answer, as_held_out, as_step

RULES: tuple[Callable[[RunRecord], Sign | None], ...] = (
    reward.answers_are_cut_off,
    reward.the_stop_token_is_never_sampled,
    reward.all_answers_are_wrong,
    reward.all_answers_are_right,
    reward.groups_are_all_right_or_all_wrong,
    reward.the_reward_is_constant,
    reward.one_reward_dominates,
    reward.format_is_learned_but_not_correctness,
    reward.a_reward_raises,
    reward.a_reward_times_out,
    reward.a_known_answer_cannot_be_read,
    reward.the_language_drifts,
    reward.problems_repeat,
    policy.the_learning_rate_is_too_low,
    policy.the_learning_rate_is_too_high,
    policy.the_entropy_has_collapsed,
    policy.answers_grow_without_getting_better,
    policy.answers_shrink_without_getting_better,
    policy.the_reward_rises_while_accuracy_falls,
    policy.sampler_and_trainer_disagree,
    policy.the_adapter_is_unchanged,
    policy.the_gradient_is_zero,
    policy.the_gradient_explodes,
)
NAMES = tuple(rule.__name__.replace("_", " ") for rule in RULES)
"""A finding is called what its rule is called."""
MOST_LOOKS = 500
"""In a longer run not every step is looked at again afterwards."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A sign with its name, and the steps after which it held.

    >>> Finding("answers are cut off", Sign("fault", "...", "raise max_new_tokens"), since=1, until=5)
    """

    name: str
    sign: Sign
    """As it was seen last."""
    since: int
    """The first step after which it held."""
    until: int
    """The last one."""

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return self.sign.severity

    @property
    def when(self) -> str:
        """The steps after which it held."""
        return f"Seen after step {self.since}" + (
            f", last after step {self.until}." if self.until > self.since else "."
        )

    def __str__(self) -> str:
        lines = [f"{self.severity}: {self.name}. {self.sign.evidence}", f"  remedy: {self.sign.remedy}"]
        return "\n".join(lines + ([f"  example: {self.sign.example}"] if self.sign.example else []))


def diagnose(run: RunRecord) -> list[Finding]:
    """What holds after the run's last step."""
    now = run.steps[-1].step if run.steps else 0
    signs = ((name, rule(run)) for name, rule in zip(NAMES, RULES, strict=True)) if run.steps else ()
    return [Finding(name, sign, now, now) for name, sign in signs if sign]


def history(run: RunRecord) -> list[Finding]:
    """Everything that held after some step, in the order it appeared, as it was seen last."""
    found: dict[str, Finding] = {}
    stride = max(1, len(run.steps) // MOST_LOOKS)
    looks = [run.until(s.step) for s in run.steps[:-1:stride]]
    for look in [*looks, run]:
        for finding in diagnose(look):
            first = found.get(finding.name, finding)
            found[finding.name] = replace(finding, since=first.since)
    return list(found.values())


class Watch:
    """Follows a run that goes on, and tells a finding when it first holds.

    Of the answers only those that a rule looks at are kept: the first steps' and the last steps'.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.record = RunRecord("", config)
        self._told: set[str] = set()

    def catch_up(self, record: RunRecord) -> None:
        """Begin with what a stopped run left; what that shows has been told."""
        self.record = record
        self._told = {finding.name for finding in diagnose(record)}

    def evaluated(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Take in the lines of an evaluation."""
        self.record = replace(self.record, held_out=[*self.record.held_out, *map(as_held_out, lines)])

    def step(self, metrics: Mapping[str, Any], rollouts: Sequence[Mapping[str, Any]]) -> list[Finding]:
        """Take in the lines of a finished step; what is found that was not told yet."""
        now, record = metrics["step"], self.record
        kept = [a for a in record.answers if a.step <= WINDOW or a.step > now - WINDOW]
        self.record = replace(
            record, steps=[*record.steps, as_step(metrics)], answers=[*kept, *map(as_answer, rollouts)]
        )
        new = [finding for finding in diagnose(self.record) if finding.name not in self._told]
        self._told |= {finding.name for finding in new}
        return new
