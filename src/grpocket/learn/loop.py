"""The method on one page: sample groups of answers, score them, reinforce what beat its group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Protocol

from ..config import Config
from ..records import Engine, Group, Problem, Prompt, TrainState
from .groups import Score, compare, penalise_kl, penalise_length, score, stop_if_none_was_graded
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

    def say(self, text: str) -> None:
        """Show a line."""
        ...

    def log(
        self, state: TrainState, groups: Sequence[Group], dropped: Sequence[Group], update: Mapping[str, float]
    ) -> None:
        """Keep and show a finished step: the groups that were trained, and those dropped for want of signal."""
        ...


@dataclass(frozen=True, slots=True)
class Setup:
    """What a step is made of; only the policy changes.

    >>> Setup(config, policy, engine, reward=Rewards.named().score, draw=partial(draw, problems), log=run)
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
    groups, dropped = collect(setup, state)
    with setup.log.timer("learn"):
        update = learn(setup.policy, groups, setup.config, state.step, setup.log.say)
    state = state.advance(len(groups) + len(dropped))
    setup.log.log(state, groups, dropped, update)
    return state


def collect(setup: Setup, state: TrainState) -> tuple[list[Group], list[Group]]:
    """The step's groups, and those that were dropped for others.

    Groups without signal are replaced by those of further problems, as far as `extra_groups` goes; what is
    still missing is filled up with the ones without signal, so that a step always has its size.
    """
    size = setup.config.prompts_per_step
    kept: list[Group] = []
    dull: list[Group] = []
    while len(kept) < size and (left := size + setup.config.extra_groups - len(kept) - len(dull)):
        ahead = replace(state, cursor=state.cursor + len(kept) + len(dull))
        for group in rollout(setup, ahead, min(size - len(kept), left)):
            (kept if group.has_signal else dull).append(group)
    stop_if_none_was_graded(kept + dull)
    missing = size - len(kept)
    return finish(setup, kept + dull[:missing]), dull[missing:]


def rollout(setup: Setup, state: TrainState, count: int) -> list[Group]:
    """Answers to the next `count` problems, scored and compared."""
    policy = setup.policy
    with setup.log.timer("rollout"):
        drawn = setup.draw(count, state)
        problems = [problem for _, problem in drawn]
        prompts = [Prompt(policy.render(p), key=(state.seed, state.step, index)) for index, p in drawn]
        completions = setup.engine.generate(prompts, policy.sampling)
    with setup.log.timer("score"):
        rollouts = score(problems, prompts, completions, policy.decode, setup.reward)
        return compare(problems, [penalise_length(group, setup.config) for group in rollouts], setup.config)


def finish(setup: Setup, groups: Sequence[Group]) -> list[Group]:
    """The groups with what depends on the policy, or on which groups are trained together."""
    config = setup.config
    rollouts = [group.rollouts for group in groups]
    if config.kl_coef and config.kl_in == "reward":
        with setup.log.timer("learn"):
            rollouts = penalise_kl(setup.policy, groups, config)
    return compare([group.problem for group in groups], rollouts, config)
