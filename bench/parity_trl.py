"""The same tensors through grpocket's losses and through TRL's own `GRPOTrainer._compute_loss`.

    pip install "grpocket[bench]"
    python bench/parity_trl.py

TRL's method runs as it is, on a stub in place of its trainer that holds the settings and hands back the log-probs:
accumulation 1, one process, `use_bias_correction_kl` off. Both get the same ragged batch, padded for TRL and packed
for grpocket. Prints a Markdown table and ends with status 1 when a loss, a gradient or a clip fraction is
further than 1e-6 from TRL's. A second table shows where the two differ on purpose, and why.
"""

from __future__ import annotations

import sys
import warnings
from collections import defaultdict
from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from grpocket.algo.kl import k3
from grpocket.algo.losses import LOSSES, RATIOS, WEIGHTS, Clip, Totals, clip_stats

TOLERANCE = 1e-6
MAX_NEW_TOKENS = 16
CLIP_RATIOS = ("clip_ratio/low_mean", "clip_ratio/high_mean", "clip_ratio/region_mean")


class Padded(NamedTuple):
    """One batch, B responses padded to L tokens."""

    logprobs: Tensor
    old_logprobs: Tensor
    reference_logprobs: Tensor
    mask: Tensor
    advantages: Tensor
    truncated: Tensor


class Case(NamedTuple):
    loss: str
    clip: Clip
    beta: float = 0.0


class Outcome(NamedTuple):
    loss: float
    gradient: Tensor
    metrics: dict[str, float]


CASES = [
    Case("grpo", Clip()),
    Case("grpo", Clip(), beta=0.04),
    Case("grpo", Clip(delta=1.5)),
    Case("dapo", Clip(high=0.28)),
    Case("dapo", Clip(high=0.28), beta=0.04),
    Case("dr_grpo", Clip()),
    Case("dr_grpo", Clip(delta=1.5), beta=0.04),
    Case("gspo", Clip(low=3e-4, high=4e-4)),
    Case("gspo", Clip(), beta=0.04),
    Case("cispo", Clip(ratio_cap=5.0)),
    Case("cispo", Clip(ratio_cap=1.2), beta=0.04),
]


def make_batch(seed: int = 0, num_rows: int = 16) -> Padded:
    """Ragged responses of 1 to 16 tokens, off-policy enough that every side of every clip is met."""
    generator = torch.Generator().manual_seed(seed)

    def normal(scale: float) -> Tensor:
        return torch.randn(num_rows, MAX_NEW_TOKENS, generator=generator) * scale

    logprobs = -normal(1.5).abs()
    lengths = torch.randint(1, MAX_NEW_TOKENS + 1, (num_rows, 1), generator=generator)
    mask = torch.arange(MAX_NEW_TOKENS) < lengths
    advantages = torch.randn(num_rows, generator=generator)
    return Padded(logprobs, logprobs - normal(0.4), logprobs - normal(0.3), mask, advantages, advantages > torch.inf)


def through_trl(case: Case, batch: Padded) -> Outcome:
    from trl import GRPOTrainer

    logprobs = batch.logprobs.clone().requires_grad_()
    mask = (batch.mask & ~batch.truncated[:, None]).to(logprobs.dtype)
    stub: Any = stub_trainer(case, logprobs)
    placeholder = torch.zeros_like(mask, dtype=torch.long)
    inputs = {
        "prompt_ids": placeholder,
        "prompt_mask": placeholder,
        "completion_ids": placeholder,
        "completion_mask": mask,
        "advantages": batch.advantages,
        "old_per_token_logps": batch.old_logprobs,
        "ref_per_token_logps": batch.reference_logprobs,
        "num_items_in_batch": mask.sum(),
    }
    loss = GRPOTrainer._compute_loss(stub, None, inputs)
    loss.backward()
    assert logprobs.grad is not None
    return Outcome(loss.item(), logprobs.grad, {name: values[-1] for name, values in stub._metrics["train"].items()})


def stub_trainer(case: Case, logprobs: Tensor) -> SimpleNamespace:
    """What `_compute_loss` reads from its trainer, and nothing else."""
    is_cispo = case.loss == "cispo"
    return SimpleNamespace(
        loss_type="grpo" if case.loss == "gspo" else case.loss,
        importance_sampling_level="sequence" if case.loss == "gspo" else "token",
        epsilon_low=case.clip.low,
        epsilon_high=case.clip.ratio_cap if is_cispo else case.clip.high,
        beta=case.beta,
        max_completion_length=MAX_NEW_TOKENS,
        args=SimpleNamespace(delta=case.clip.delta, use_bias_correction_kl=False, steps_per_generation=1),
        current_gradient_accumulation_steps=1,
        aux_loss_enabled=False,
        top_entropy_quantile=1.0,
        off_policy_mask_threshold=None,
        use_vllm=False,
        _entropy_bonus_enabled=False,
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(num_processes=1, reduce=lambda x, reduction: x, gather=lambda x: x),
        _get_per_token_logps_and_entropies=lambda *_, **__: (logprobs, torch.zeros_like(logprobs), None),
        _metrics={"train": defaultdict(list)},
    )


def through_grpocket(case: Case, batch: Padded) -> Outcome:
    logprobs = batch.logprobs.clone().requires_grad_()
    row_T = torch.arange(len(batch.mask))[:, None].expand_as(batch.mask)[batch.mask]
    mask_T = ~batch.truncated[row_T]
    advantages_T = batch.advantages[row_T]
    logprobs_T, old_T, reference_T = (x[batch.mask] for x in (logprobs, batch.old_logprobs, batch.reference_logprobs))
    totals = Totals(int((~batch.truncated).sum()), int(mask_T.sum()), MAX_NEW_TOKENS)

    loss_T = LOSSES[case.loss](logprobs_T, old_T, advantages_T, mask_T, row_T, totals, case.clip)
    kl_T = k3(logprobs_T, reference_T, mask_T) * WEIGHTS[case.loss](mask_T, row_T, totals)
    loss = loss_T.sum() + case.beta * kl_T.sum()
    loss.backward()
    assert logprobs.grad is not None

    stats = clip_stats(RATIOS[case.loss](logprobs_T, old_T, mask_T, row_T), advantages_T, mask_T, case.clip)
    shares = {
        n: (s / stats.tokens).item() for n, s in zip(CLIP_RATIOS, (stats.low, stats.high, stats.region), strict=True)
    }
    return Outcome(loss.item(), logprobs.grad, shares | {"cispo_clip_ratio": (stats.capped / stats.tokens).item()})


def gradient_distance(ours: Tensor, theirs: Tensor) -> float:
    """The largest difference, against the largest entry."""
    return ((ours - theirs).abs().max() / theirs.abs().max()).item()


def clip_distance(case: Case, ours: Outcome, theirs: Outcome) -> float | None:
    """The largest difference of a clip fraction; for gspo none, as TRL counts responses there and grpocket tokens."""
    if case.loss == "gspo":
        return None
    names = ["cispo_clip_ratio"] if case.loss == "cispo" else CLIP_RATIOS
    return max(abs(ours.metrics[name] - theirs.metrics[name]) for name in names)


def compare(case: Case, batch: Padded) -> bool:
    """One line of the table; whether everything is within the tolerance."""
    ours, theirs = through_grpocket(case, batch), through_trl(case, batch)
    by_loss = abs(ours.loss - theirs.loss) / max(abs(theirs.loss), 1e-12)
    by_gradient = gradient_distance(ours.gradient, theirs.gradient)
    by_clip = clip_distance(case, ours, theirs)
    held = theirs.gradient[batch.mask].eq(0).float().mean().item()
    print(
        f"| {describe(case)} | {ours.loss:+.9f} | {theirs.loss:+.9f} | {by_loss:.1e} | {by_gradient:.1e} "
        f"| {'counted otherwise' if by_clip is None else f'{by_clip:.1e}'} | {held:.0%} |"
    )
    return max(by_loss, by_gradient, by_clip or 0.0) <= TOLERANCE


def describe(case: Case) -> str:
    if case.loss == "cispo":
        clip = f"cap {case.clip.ratio_cap:g}"
    else:
        clip = f"clip {case.clip.low:g}/{case.clip.high:g}" + (
            f", delta {case.clip.delta:g}" if case.clip.delta else ""
        )
    return f"{case.loss}, {clip}" + (f", k3 KL {case.beta:g}" if case.beta else "")


def differ_on_purpose(batch: Padded) -> None:
    """Cases where both are asked the same and answer differently, with the reason."""
    rows = torch.arange(len(batch.mask))
    truncated = batch._replace(truncated=rows < 4)
    for loss in ("grpo", "dr_grpo"):
        ours, theirs = (f(Case(loss, Clip()), truncated) for f in (through_grpocket, through_trl))
        print(
            f"| 4 of 16 responses masked as truncated, {loss} | {ours.loss:+.6f} | {theirs.loss:+.6f} "
            "| grpocket divides by the 12 that train; TRL by all 16, so masking weakens the step |"
        )
    far = batch._replace(old_logprobs=batch.old_logprobs - torch.where(rows == 0, 800.0, 0.0)[:, None])
    far = far._replace(advantages=torch.where(rows == 0, 1.0, far.advantages))
    ours, theirs = (f(Case("grpo", Clip()), far) for f in (through_grpocket, through_trl))
    print(
        f"| one response with log-ratios near 800, A > 0, largest gradient | {ours.gradient.abs().max():.3f} "
        f"| {theirs.gradient.abs().max():.3f} | grpocket holds log-ratios within 20; exp overflows in TRL: 0 * inf |"
    )


def main() -> int:
    warnings.simplefilter("ignore")
    torch.set_default_dtype(torch.float64)
    import trl

    batch = make_batch()
    print(
        f"TRL {trl.__version__}, torch {torch.__version__}, float64, {len(batch.mask)} responses, "
        f"{batch.mask.sum()} tokens\n"
    )
    print(
        "| case | loss, grpocket | loss, TRL | loss differs by | gradient | clip fractions | tokens without gradient |"
    )
    print("|---|---|---|---|---|---|---|")
    passed = [compare(case, batch) for case in CASES]
    print("\nDistances are relative, for clip fractions absolute; the gradient's is the largest entry's.")
    print("gspo: TRL's clip fractions are shares of responses, grpocket's of tokens.\n")
    print("| different on purpose | grpocket | TRL | why |")
    print("|---|---|---|---|")
    differ_on_purpose(batch)
    why = "1e-4 shrinks the advantages of nearly equal rewards; the paper adds nothing"
    print(f"| what is added to the std in advantages | 1e-6 | 1e-4 | {why} |")
    print(f"\n{sum(passed)} of {len(passed)} within {TOLERANCE:g}")
    return 0 if all(passed) else 1


if __name__ == "__main__":
    sys.exit(main())
