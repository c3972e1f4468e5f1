"""The method on one page: sample groups of answers, score them, reinforce what beat its group."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

from ..config import Config
from ..records import Engine, Group, Problem, Prompt, TrainState
from .groups import Score, compare, score
from .policy import Policy
from .update import optimizer_step

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
    with run.timer("rollout"):
        drawn = draw(config.prompts_per_step, state)
        problems = [problem for _, problem in drawn]
        prompts = [Prompt(policy.render(p), key=(state.seed, state.step, index)) for index, p in drawn]
        completions = engine.generate(prompts, policy.sampling)
    with run.timer("score"):
        groups = compare(problems, score(problems, prompts, completions, policy.decode, reward))
    with run.timer("learn"):
        update = optimizer_step(policy, groups, config, state.step)
    state = state.advance(len(drawn))
    run.log(state, groups, update)
    return state
