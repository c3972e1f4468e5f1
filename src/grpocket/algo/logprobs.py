"""Log-probs and entropy of chosen tokens, without ever holding the logits of all of them.

The logits of a step are its largest tensor by far: tokens x vocabulary. Here the head is applied to a
chunk of tokens at a time, over the whole vocabulary (rounding partial products over vocabulary chunks
would bias training). The gradient of each log-prob by its hidden state,

    d logp / d h = (W[target] - p @ W) * scale / temperature ,

has the size of the hidden state, so it is formed while the chunk's probabilities are at hand, and the
backward pass is one multiplication: two products with the head in all, for token-level and
sequence-level losses alike. Only a head that is itself trained needs its logits a second time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 1 << 23
"""Logits held at a time, in elements: 32 MB of float32."""


@dataclass(frozen=True, slots=True)
class LogitTransform:
    """What stands between the head's product z and the softmax: softcap * tanh(scale * z / softcap) / temperature."""

    temperature: float = 1.0
    scale: float = 1.0
    softcap: float | None = None

    def apply_(self, z: Tensor) -> Tensor:
        """Transform z in place."""
        z.mul_(self.scale)
        if self.softcap:
            z.div_(self.softcap).tanh_().mul_(self.softcap)
        return z.div_(self.temperature)

    def chain_(self, grad: Tensor, logits: Tensor) -> Tensor:
        """Turn a gradient by the logits into one by z, in place."""
        if self.softcap:
            grad.mul_(1 - (logits * self.temperature / self.softcap) ** 2)
        return grad.mul_(self.scale / self.temperature)


def token_logprobs(
    hidden_TH: Tensor,
    weight_VH: Tensor,
    target_T: Tensor,
    transform: LogitTransform,
    entropy_gradient: bool = False,
    project: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """(logprobs_T, entropy_T), at least float32, of softmax(transform(hidden @ weight.T)) at the targets.

    Args:
        hidden_TH: hidden states that predict each target.
        weight_VH: the output head, without bias.
        target_T: int64.
        transform: temperature, scale and cap of the logits.
        project: hidden @ weight.T, where there is a faster way.
        entropy_gradient: whether the entropy takes part in the loss; without it, it is a figure to read.
    """
    project = project or (lambda hidden: hidden @ weight_VH.T)
    return _TokenLogprobs.apply(hidden_TH, weight_VH, target_T, transform, entropy_gradient, project)  # type: ignore[return-value]


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        target: Tensor,
        transform: LogitTransform,
        entropy_gradient: bool,
        project: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        logprobs, entropy = (hidden.new_empty(len(target), dtype=wide(hidden)) for _ in range(2))
        wants = ctx.needs_input_grad[0]
        by_hidden = torch.empty_like(hidden) if wants else None
        entropy_by_hidden = torch.empty_like(hidden) if wants and entropy_gradient else None
        for at in _chunks(len(target), len(weight)):
            logits, logprobs_all = _chunk(project(hidden[at]), transform)
            probs = logprobs_all.exp()
            logprobs[at] = logprobs_all.gather(1, target[at, None]).squeeze(1)
            entropy[at] = -torch.linalg.vecdot(probs, logprobs_all)
            if entropy_by_hidden is not None:
                grad = -probs * (logprobs_all + entropy[at, None])
                entropy_by_hidden[at] = transform.chain_(grad, logits).to(weight.dtype) @ weight
            if by_hidden is not None:
                grad = probs.neg_()
                grad.scatter_add_(1, target[at, None], torch.ones_like(grad[:, :1]))
                by_hidden[at] = transform.chain_(grad, logits).to(weight.dtype) @ weight
        ctx.save_for_backward(hidden, weight, target, by_hidden, entropy_by_hidden)
        ctx.transform = transform
        if not entropy_gradient:
            ctx.mark_non_differentiable(entropy)
        return logprobs, entropy

    @staticmethod
    def backward(ctx: Any, grad_logprobs: Tensor, grad_entropy: Tensor | None) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, target, by_hidden, entropy_by_hidden = ctx.saved_tensors
        grad_hidden = grad_weight = None
        if by_hidden is not None:
            grad_hidden = by_hidden * grad_logprobs[:, None].to(by_hidden.dtype)
            if entropy_by_hidden is not None and grad_entropy is not None:
                grad_hidden += entropy_by_hidden * grad_entropy[:, None].to(by_hidden.dtype)
        if ctx.needs_input_grad[1]:
            grad_weight = torch.zeros_like(weight)
            for at in _chunks(len(target), len(weight)):
                logits, logprobs_all = _chunk(hidden[at] @ weight.T, ctx.transform)
                grad = logprobs_all.exp().mul_(-grad_logprobs[at, None])
                grad.scatter_add_(1, target[at, None], grad_logprobs[at, None])
                if entropy_by_hidden is not None and grad_entropy is not None:
                    entropy = -torch.linalg.vecdot(logprobs_all.exp(), logprobs_all)[:, None]
                    grad -= grad_entropy[at, None] * logprobs_all.exp() * (logprobs_all + entropy)
                grad_weight += ctx.transform.chain_(grad, logits).to(weight.dtype).T @ hidden[at]
        return grad_hidden, grad_weight, None, None, None, None


def _chunks(tokens: int, vocabulary: int) -> list[slice]:
    size = max(1, CHUNK_ELEMENTS // vocabulary)
    return [slice(start, start + size) for start in range(0, tokens, size)]


def wide(tensor: Tensor) -> torch.dtype:
    """float32, or float64 where that is what comes in."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _chunk(products: Tensor, transform: LogitTransform) -> tuple[Tensor, Tensor]:
    """(logits, their log-softmax) of one chunk, in float32."""
    logits = transform.apply_(products.to(wide(products)))
    return logits, torch.log_softmax(logits, dim=-1)
