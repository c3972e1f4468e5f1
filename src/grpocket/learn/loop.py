"""The method on one page: sample groups of answers, score them, reinforce what beat its group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Protocol

from ..config import Config
from ..records import Engine, Group, Problem, Prompt, TrainState
from .groups import Score, compare, penalise_kl, penalise_length, score
from .policy import Policy
from .schedule import temperature
from .update import learn

Draw = Callable[[int, TrainState], Sequence[tuple[int, Problem]]]
"""(how many, state) -> the next problems, each with its draw index: a pure function of the state."""


class Run(Protocol):
    """Where a run is kept and shown."""

    def restore(self, policy: Policy) -> TrainState:
        """Where to continue; step 0 on a fresh run."""
        ...

    def timer(self, name: str) -> AbstractContextManager[None]:
        """Time one phase of a step."""
        ...

    def log(self, state: TrainState, groups: Sequence[Group], update: Mapping[str, float]) -> None:
        """Keep and show a finished step; evaluate and save where that is due."""
        ...


def train(config: Config, policy: Policy, engine: Engine, reward: Score, draw: Draw, run: Run) -> TrainState:
    """Train for `config.steps` steps, continuing where `run` left off."""
    state = run.restore(policy)
    while state.step < config.steps:
        state = train_step(config, policy, engine, reward, draw, run, state)
    return state


def train_step(
    config: Config, policy: Policy, engine: Engine, reward: Score, draw: Draw, run: Run, state: TrainState
) -> TrainState:
    """One step, and the state after it."""
    policy.set_temperature(temperature(config, state.step))
    groups, drawn = collect(config, policy, engine, reward, draw, run, state)
    with run.timer("learn"):
        update = learn(policy, groups, config, state.step)
    state = state.advance(drawn)
    run.log(state, groups, {**update, "extra_groups": drawn - config.prompts_per_step})
    return state


def collect(
    config: Config, policy: Policy, engine: Engine, reward: Score, draw: Draw, run: Run, state: TrainState
) -> tuple[list[Group], int]:
    """The step's groups, and how many problems were drawn for them.

    Groups without signal are replaced by those of further problems, as far as `extra_groups` goes; what is
    still missing is filled up with the ones without signal, so that a step always has its size.
    """
    kept: list[Group] = []
    dull: list[Group] = []
    drawn, most = 0, config.prompts_per_step + config.extra_groups
    while len(kept) < config.prompts_per_step and drawn < most:
        wanted = min(config.prompts_per_step - len(kept), most - drawn)
        for group in rollout(
            config, policy, engine, reward, draw, run, replace(state, cursor=state.cursor + drawn), wanted
        ):
            (kept if group.has_signal else dull).append(group)
        drawn += wanted
    groups = kept + dull[: config.prompts_per_step - len(kept)]
    if config.advantage_baseline == "batch" or config.advantage_scale == "batch":  # of the batch that is trained
        groups = compare([g.problem for g in groups], [g.rollouts for g in groups], config)
    return groups, drawn


def rollout(
    config: Config, policy: Policy, engine: Engine, reward: Score, draw: Draw, run: Run, state: TrainState, count: int
) -> list[Group]:
    """Answers to the next `count` problems, scored and compared."""
    with run.timer("rollout"):
        drawn = draw(count, state)
        problems = [problem for _, problem in drawn]
        prompts = [Prompt(policy.render(p), key=(state.seed, state.step, index)) for index, p in drawn]
        completions = engine.generate(prompts, policy.sampling)
    with run.timer("score"):
        rollouts = score(problems, prompts, completions, policy.decode, reward)
        groups = compare(problems, [penalise_length(group, config) for group in rollouts], config)
        if config.kl_coef and config.kl_in == "reward":
            groups = compare(problems, penalise_kl(policy, groups, config), config)
    return groups
