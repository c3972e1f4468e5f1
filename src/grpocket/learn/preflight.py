"""One step rehearsed before the run, at its worst and as it will be: memory, time, and what the answers are like.

The worst is measured, with the longest prompts of the data and answers that no stop token ends. Nothing is kept of
it: no weight is touched, and random numbers have names, so a run with a rehearsal is bitwise the run without one.

What is left out: the penalties for KL in the reward, and the evaluation's own lengths; both are seen once it runs.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import NamedTuple

from .. import memory
from ..config import Config
from ..records import Group, Problem, Prompt, Rollout, Sampling, TrainState
from .cost import blank_groups, optimizer_bytes, rehearse_update, stream_tokens
from .groups import compare, score
from .loop import Setup

ROLLOUT_SECONDS = 8.0
"""Longer answers are sampled only as far as this goes."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What one step was measured to take, and what the run will.

    >>> Rehearsal(48, 0.31, 0.75, 0.1, 31.5, 210.0, 4.5e9, 24e9, 9.8, 13.5, 240.0).run_seconds
    240.0
    """

    sampled: int
    """Tokens up to which answers were sampled; max_new_tokens where there was time."""
    reward: float
    """Of the first step's answers."""
    live: float
    """Share of groups with signal."""
    cut: float
    """Share of answers that did not end."""
    mean_length: float
    """Tokens of an answer; those that did not end count as max_new_tokens."""
    tokens_per_second: float
    memory: float
    """Bytes, at full length."""
    available: float
    """Bytes."""
    step_seconds: float
    """Expected of a step."""
    worst_seconds: float
    """Of a step at full length in which every group has signal."""
    run_seconds: float
    """Expected of all steps and evaluations."""

    def lines(self) -> list[str]:
        """What is to be said."""
        found = [
            f"answers   reward {self.reward:.2f}; {self.live:.0%} of groups with signal; {self.cut:.0%} of answers cut "
            f"at {self.sampled} tokens; mean length {self.mean_length:.0f}",
            f"memory    at most {self.memory / 1e9:.1f} GB of {self.available / 1e9:.1f} GB",
            f"time      about {spoken(self.run_seconds)}: {spoken(self.step_seconds)} a step, "
            f"{spoken(self.worst_seconds)} at the longest; {self.tokens_per_second:.0f} tokens a second",
        ]
        if self.cut > 0.5:
            found.append(
                f"warning: {self.cut:.0%} of the answers don't end within {self.sampled} tokens, so they can hardly be "
                "right; raise max_new_tokens"
            )
        return found


class Sampled(NamedTuple):
    """The first step's answers, as far as there was time, and what sampling takes."""

    rollouts: list[Rollout]
    live: float
    """Share of groups with signal."""
    limit: int
    """Tokens at which answers were cut."""
    tokens: int
    """Of the streams in which all groups would be trained."""
    seconds: float
    worst_seconds: float
    """Where no token ends an answer and the prompts are the longest."""
    memory: float
    """Bytes, at full length."""

    @property
    def cut(self) -> float:
        """Share of answers that did not end."""
        return fmean(rollout.completion.finish_reason == "length" for rollout in self.rollouts)

    @property
    def length(self) -> float:
        """Mean tokens of an answer."""
        return fmean(len(rollout.completion.token_ids) for rollout in self.rollouts)


def rehearse(setup: Setup, problems: Sequence[Problem], held_out: int, row_budget: int) -> Rehearsal:
    """Rehearse a step, on the problems that training begins with and on those with the longest prompts.

    Raises:
        UserError: the memory will not do.
    """
    config, policy = setup.config, setup.policy
    available = memory.available()
    longest = sorted(problems, key=lambda p: len(policy.render(p)))[-config.prompts_per_step :]
    update = rehearse_update(policy, longest, config, available)
    sampled = rehearse_sampling(setup, longest, held_out, row_budget)

    size, most = config.prompts_per_step, config.max_new_tokens
    drawn, trained = expected_groups(config, sampled.live)
    mean_length = sampled.length + sampled.cut * (most - sampled.limit)  # what was cut goes on
    rollout_seconds = sampled.seconds * mean_length / sampled.length
    token_seconds = config.num_updates * update.seconds / update.tokens
    learn_seconds = token_seconds * sampled.tokens * mean_length / sampled.length
    step_seconds = (drawn * rollout_seconds + trained * learn_seconds) / size
    full_tokens = stream_tokens(policy, blank_groups(policy, longest, config.group_size, most))
    worst_rollout = sampled.worst_seconds * most / sampled.limit * (size + config.extra_groups) / size
    evaluated = held_out * (1 + config.evaluations_after(0))
    return Rehearsal(
        sampled=sampled.limit,
        reward=fmean([r.reward.value for r in sampled.rollouts if r.reward.value is not None] or [0.0]),
        live=sampled.live,
        cut=sampled.cut,
        mean_length=mean_length,
        tokens_per_second=mean_length * config.group_size * drawn / step_seconds,
        memory=max(sampled.memory, update.memory) + optimizer_bytes(policy),
        available=available,
        step_seconds=step_seconds,
        worst_seconds=worst_rollout + token_seconds * full_tokens,
        run_seconds=config.steps * step_seconds + evaluated * rollout_seconds / config.rows_per_step,
    )


# Sampling


def rehearse_sampling(setup: Setup, longest: Sequence[Problem], held_out: int, row_budget: int) -> Sampled:
    """Sample the first step's answers, and then answers that no stop token ends to the longest prompts."""
    config, policy = setup.config, setup.policy
    first = [problem for _, problem in setup.draw(config.prompts_per_step, TrainState(config.seed))]
    sampling = replace(policy.sampling, max_new_tokens=affordable_length(setup, first))
    memory.reset_peak()
    groups, seconds = sample_groups(setup, first, sampling)
    _, worst_seconds = sample_groups(setup, longest, replace(sampling, stop_ids=()))
    return Sampled(
        rollouts=[rollout for group in groups for rollout in group.rollouts],
        live=fmean(group.has_signal for group in groups),
        limit=sampling.max_new_tokens,
        tokens=stream_tokens(policy, groups),
        seconds=seconds,
        worst_seconds=worst_seconds,
        memory=memory.peak() + unsampled_cache(setup, sampling.max_new_tokens, held_out, row_budget),
    )


def sample_groups(setup: Setup, problems: Sequence[Problem], sampling: Sampling) -> tuple[list[Group], float]:
    """Answers to the problems as the first step would get them, scored and compared, and the seconds it took."""
    start = time.perf_counter()
    policy, seed = setup.policy, setup.config.seed
    prompts = [Prompt(policy.render(problem), key=(seed, 0, index)) for index, problem in enumerate(problems)]
    completions = setup.engine.generate(prompts, sampling)
    rollouts = score(problems, prompts, completions, policy.decode, setup.reward)
    return compare(problems, rollouts, setup.config), time.perf_counter() - start


def affordable_length(setup: Setup, problems: Sequence[Problem]) -> int:
    """How far the answers can be sampled in ROLLOUT_SECONDS, judged by their first tokens."""
    most = setup.config.max_new_tokens
    probe = replace(setup.policy.sampling, max_new_tokens=min(8, most), stop_ids=())
    _, seconds = sample_groups(setup, problems, probe)
    return max(probe.max_new_tokens, min(most, int(ROLLOUT_SECONDS * probe.max_new_tokens / seconds)))


def unsampled_cache(setup: Setup, length: int, held_out: int, row_budget: int) -> int:
    """Bytes of the keys and values that were not there: of tokens after `length`, and of an evaluation's rows."""
    config = setup.config
    rows = min(row_budget, config.rows_per_step)
    most_rows = min(row_budget, max(config.rows_per_step, held_out))
    return (most_rows * config.max_new_tokens - rows * length) * setup.policy.network.suffix_bytes


# The run


def expected_groups(config: Config, live: float) -> tuple[float, float]:
    """(groups sampled, groups trained) in a step, when this share of groups has signal.

    The share was seen on few groups, so it counts as if two more had been seen, one of them with signal.
    """
    size = config.prompts_per_step
    share = (live * size + 1) / (size + 2)
    drawn = min(size / share, size + config.extra_groups)
    every_group = config.entropy_coef or (config.kl_coef and config.kl_in == "loss")
    return drawn, size if every_group else min(size, share * drawn)


def spoken(seconds: float) -> str:
    """Seconds in the unit that suits them."""
    if seconds < 90:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
