"""What an update measures of itself: sums over tokens, divided only when they are printed."""

from __future__ import annotations

from dataclasses import dataclass, fields

from torch import Tensor

from ..algo.losses import Clip, clip_stats
from ..config import Config
from ..records import Batch


@dataclass
class Sums:
    """Sums over the tokens that were run, in all micro-batches and passes of a step."""

    loss: float = 0.0
    tokens: float = 0.0
    entropy: float = 0.0
    kl: float = 0.0
    ratio: float = 0.0
    clipped_low: float = 0.0
    clipped_high: float = 0.0
    capped: float = 0.0
    correction: float = 0.0

    def add(self, other: Sums) -> None:
        """Add the figures of another micro-batch."""
        for f in fields(self):
            setattr(self, f.name, getattr(self, f.name) + getattr(other, f.name))

    def metrics(self, config: Config) -> dict[str, float]:
        """Means of what these settings have, under the names dashboards know; nothing where no token was run."""
        if not self.tokens:
            return {}
        found = {"entropy": self.entropy / self.tokens}
        if config.loss == "cispo":
            found["cispo_clip_ratio"] = self.capped / self.tokens
        elif config.loss != "pg":
            found["clip_ratio/low_mean"] = self.clipped_low / self.tokens
            found["clip_ratio/high_mean"] = self.clipped_high / self.tokens
            found["clip_ratio/region_mean"] = (self.clipped_low + self.clipped_high) / self.tokens
        if config.kl_coef and config.kl_in == "loss":
            found["kl"] = self.kl / self.tokens
        if config.correction:
            found["sampling/importance_sampling_ratio/mean"] = self.correction / self.tokens
        return found | {"ratio": self.ratio / self.tokens}


@dataclass
class Mismatch:
    """How far the sampler's log-probs are from the trainer's, before the first update of a step."""

    total: float = 0.0
    worst: float = 0.0
    tokens: int = 0

    def add(self, trainer_T: Tensor, sampled_T: Tensor) -> None:
        """Compare one micro-batch."""
        difference_T = (trainer_T - sampled_T).abs()
        self.total += difference_T.sum().item()
        self.worst = max(self.worst, difference_T.max().item())
        self.tokens += len(difference_T)

    def metrics(self) -> dict[str, float]:
        """Mean and maximum in nats; nothing where no token was run."""
        if not self.tokens:
            return {}
        name = "sampling/sampling_logp_difference"
        return {f"{name}/mean": self.total / self.tokens, f"{name}/max": self.worst}


def measure(batch: Batch, loss: float, ratio_T: Tensor, entropy_T: Tensor, kl_T: Tensor | None, clip: Clip) -> Sums:
    """The sums of one micro-batch."""
    mask = batch.mask_T
    stats = clip_stats(ratio_T, batch.advantages_T, mask, clip)
    return Sums(
        loss=loss,
        tokens=stats.tokens.item(),
        entropy=entropy_T.detach()[mask].sum().item(),
        kl=0.0 if kl_T is None else kl_T.detach().sum().item(),
        ratio=stats.ratio.item(),
        clipped_low=stats.low.item(),
        clipped_high=stats.high.item(),
        capped=stats.capped.item(),
        correction=stats.tokens.item() if batch.correction_T is None else batch.correction_T.sum().item(),
    )
