"""What a run would meet and take, in a few lines: its data, its reward, its numbers, its memory and its time."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

from .learn.loop import Setup
from .learn.preflight import rehearse
from .memory import reset_peak
from .records import Problem
from .run import LastStep
from .tasks.audit import audit
from .tasks.draw import draw
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
    everything = list({id(problem): problem for problem in (*problems, *held)}.values())
    lengths = [len(trainer.policy.prompt_ids(problem)) for problem in everything]
    room = trainer.policy.context - trainer.config.max_new_tokens
    lines = [*survey(everything, lengths, room).lines(), trainer.check(train[:2])]
    if rehearsal:
        config, reward = trainer.config, trainer.rewards.score
        lines += audit(train, reward, dict(zip(config.rewards, config.reward_weights, strict=True))).lines()
        draw_next = functools.partial(draw, train)
        setup = Setup(config, trainer.policy, trainer.engine, reward, draw_next, LastStep())
        lines += rehearse(setup, train, len(held)).lines()
        reset_peak()
    return "\n".join(lines)
