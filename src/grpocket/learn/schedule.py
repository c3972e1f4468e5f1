"""What changes with the steps by plan: learning rate and temperature. Steps are counted from 0."""

from __future__ import annotations

import math

from ..config import Config


def learning_rate(config: Config, step: int) -> float:
    """Rises linearly over `warmup_steps`, then stays, or falls to zero at the end of the run."""
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / (config.warmup_steps + 1)
    share = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return config.learning_rate * DECAYS[config.schedule](min(1.0, share))


DECAYS = {
    "constant": lambda share: 1.0,
    "linear": lambda share: 1.0 - share,
    "cosine": lambda share: 0.5 * (1.0 + math.cos(math.pi * share)),
}
"""Share of the run that is over -> share of the learning rate that is left."""


def temperature(config: Config, step: int) -> float:
    """From `temperature` at the first step to `final_temperature` at the last."""
    if config.final_temperature is None:
        return config.temperature
    share = min(1.0, step / max(1, config.steps - 1))
    return config.temperature + share * (config.final_temperature - config.temperature)
