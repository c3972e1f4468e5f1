"""The method on one page: sample groups of answers, score them, reinforce what beat its group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from ..config import Config
from ..records import Engine, Group, Problem, Prompt, TrainState
from .groups import Score, compare, penalise_kl, penalise_length, score
from .policy import Policy
from .schedule import temperature
from .update import learn

Draw = Callable[[int, TrainState], Sequence[tuple[int, Problem]]]
"""(how many, state) -> the next problems, each with its draw index: a pure function of the state."""


class Log(Protocol):
    """Where steps are kept and shown."""

    def timer(self, name: str) -> AbstractContextManager[None]:
        """Time one phase of a step."""
        ...

    def log(self, state: TrainState, groups: Sequence[Group], update: Mapping[str, float]) -> None:
        """Keep and show a finished step; evaluate and save where that is due."""
        ...


@dataclass(frozen=True, slots=True)
class Setup:
    """What a step is made of; only the policy changes.

    >>> Setup(config, policy, engine, reward=Rewards.built_in().score, draw=partial(draw, problems), log=run)
    """

    config: Config
    policy: Policy
    engine: Engine
    reward: Score
    draw: Draw
    log: Log


def train(setup: Setup, state: TrainState) -> TrainState:
    """Train from `state` until `config.steps` steps are done."""
    while state.step < setup.config.steps:
        state = train_step(setup, state)
    return state


def train_step(setup: Setup, state: TrainState) -> TrainState:
    """One step, and the state after it."""
    setup.policy.set_temperature(temperature(setup.config, state.step))
    groups, drawn = collect(setup, state)
    with setup.log.timer("learn"):
        update = learn(setup.policy, groups, setup.config, state.step)
    state = state.advance(drawn)
    setup.log.log(state, groups, {**update, "extra_groups": drawn - setup.config.prompts_per_step})
    return state


def collect(setup: Setup, state: TrainState) -> tuple[list[Group], int]:
    """The step's groups, and how many problems were drawn for them.

    Groups without signal are replaced by those of further problems, as far as `extra_groups` goes; what is
    still missing is filled up with the ones without signal, so that a step always has its size.
    """
    config = setup.config
    kept: list[Group] = []
    dull: list[Group] = []
    drawn, most = 0, config.prompts_per_step + config.extra_groups
    while len(kept) < config.prompts_per_step and drawn < most:
        wanted = min(config.prompts_per_step - len(kept), most - drawn)
        for group in rollout(setup, replace(state, cursor=state.cursor + drawn), wanted):
            (kept if group.has_signal else dull).append(group)
        drawn += wanted
    groups = kept + dull[: config.prompts_per_step - len(kept)]
    if "batch" in (config.advantage_baseline, config.advantage_scale):  # which is the batch that is trained
        groups = compare([g.problem for g in groups], [g.rollouts for g in groups], config)
    return groups, drawn


def rollout(setup: Setup, state: TrainState, count: int) -> list[Group]:
    """Answers to the next `count` problems, scored and compared."""
    config, policy = setup.config, setup.policy
    with setup.log.timer("rollout"):
        drawn = setup.draw(count, state)
        problems = [problem for _, problem in drawn]
        prompts = [Prompt(policy.render(p), key=(state.seed, state.step, index)) for index, p in drawn]
        completions = setup.engine.generate(prompts, policy.sampling)
    with setup.log.timer("score"):
        rollouts = score(problems, prompts, completions, policy.decode, setup.reward)
        groups = compare(problems, [penalise_length(group, config) for group in rollouts], config)
        if config.kl_coef and config.kl_in == "reward":
            groups = compare(problems, penalise_kl(policy, groups, config), config)
    return groups
