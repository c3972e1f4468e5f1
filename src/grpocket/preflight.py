"""What a run would meet and take, in a few lines: its data, its reward, its numbers, its memory and its time."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .learn.loop import Setup
from .learn.preflight import rehearse
from .memory import reset_peak
from .records import Problem, Reward, Sample
from .run import LastStep
from .tasks.audit import audit
from .tasks.draw import draw
from .tasks.formats import Template
from .tasks.survey import survey

if TYPE_CHECKING:
    from .trainer import GRPO


def look_ahead(
    trainer: GRPO, problems: Sequence[Problem], train: Sequence[Problem], held: Sequence[Problem], rehearsal: bool
) -> str:
    """What was found; the data and the numbers are looked at in any case, `rehearsal` tries reward and step as well.

    Raises:
        UserError: prompts, log-probs or memory will not do.
    """
    trainer.rewards.check(train)
    everything = list({id(problem): problem for problem in (*problems, *held)}.values())
    lengths = [len(trainer.policy.prompt_ids(problem)) for problem in everything]
    room = trainer.policy.context - trainer.config.max_new_tokens
    lines = [*survey(everything, lengths, room).lines(), trainer.check(train[:2])]
    if loose := trainer.rewards.unguarded:
        lines.append(f"rewards   {', '.join(loose)} can't be imported by another process; run here, without a time-out")
    if rehearsal:
        config, reward = trainer.config, trainer.rewards.score

        def earned(problem: Problem, text: str) -> Reward:
            return reward([Sample(problem, text)])[0]

        if isinstance(trainer.form, Template):  # nothing can be written in the form of a regular expression
            lines += audit(train, earned, trainer.rewards.weights, trainer.form).lines()
        draw_next = functools.partial(draw, train)
        setup = Setup(config, trainer.policy, trainer.engine, reward, draw_next, LastStep())
        lines += rehearse(setup, train, len(held), trainer.engine.row_budget).lines()
        reset_peak()
    return "\n".join(lines)
