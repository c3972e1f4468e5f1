"""The one attention function that transformers calls, and the plans that tell it what to attend to.

transformers lets a model take its attention from a registered function, and hands that function any
extra keyword of the forward call. So a *plan* travels with the call: an object that is given a layer's
query, key and value after RoPE and returns what the layer's attention puts out. Positions are data,
no mask is built and no Cache object is needed.

    Packed      training: [prompt | y1 | ... | yG] streams, every y after the same prompt
    (engine/cache.py holds the two plans of sampling, which read and write its K/V)

The pieces of attention are merged by their log-sum-exp: attention over a set of keys split in two is
the average of both halves, weighted by the softmax mass of each. Backward runs the same way round:
with the *merged* output and log-sum-exp, exp(S - lse) is already the softmax over all keys, so the
gradients of the pieces simply add.

What is left out: padding, dropout and masks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import takewhile
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from ..records import Segment

NAME = "grpocket"


class Plan(Protocol):
    """What a layer's attention attends to."""

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """query [B, Hq, T, D], key and value [B, Hkv, T, D] -> [B, T, Hq, D]."""
        ...


def attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Any = None, *, plan: Plan, **options: Any
) -> tuple[Tensor, None]:
    """The function transformers calls in every layer: all it does is ask the plan."""
    scale = options.get("scaling") or query.shape[-1] ** -0.5
    return plan(module.layer_idx, query, key, value, scale), None


@contextmanager
def hooked(model: Any) -> Iterator[None]:
    """Run `model` with our attention; outside, it is the model transformers made, free for any use."""
    from transformers import AttentionInterface

    AttentionInterface.register(NAME, attention)  # and no mask of that name, so none is built
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    usual = base.config._attn_implementation
    base.set_attn_implementation(NAME)
    try:
        yield
    finally:
        base.set_attn_implementation(usual)


def unsupported(config: Any) -> str | None:
    """Why the plans do not compute a model's attention; None when they do."""
    text = config.get_text_config()
    kinds = set(getattr(text, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}
    if kinds:
        return f"it has layers of kind {', '.join(sorted(kinds))}"
    if getattr(text, "attn_logit_softcapping", None):
        return "it caps its attention scores"
    return None


# One piece of attention, forward and backward. Query heads that share a key head lie along the length
# where all keys are seen (`all_keys`), and along the heads with a stride of 0 where order matters.


def piece(query: Tensor, key: Tensor, value: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    """Attention of query [Hkv, R, T, D] to key, value [Hkv, S, D]: output [Hkv, R, T, D], lse [Hkv, R, T]."""
    if query.is_cuda:
        return _math_piece(query, key, value, scale, causal)
    q, k, v = _shaped(query, key, value, causal)
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, causal, scale=scale)
    return out.reshape(query.shape), lse.reshape(query.shape[:3])


def piece_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, scale: float, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of one piece, given the output and log-sum-exp of *all* pieces together."""
    if query.is_cuda:
        return _math_piece_backward(grad, query, key, value, out, lse, scale, causal)
    q, k, v = _shaped(query, key, value, causal)
    backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    grads = backward(
        grad.reshape(q.shape), q, k, v, out.reshape(q.shape), lse.reshape(q.shape[:3]), 0.0, causal, scale=scale
    )
    grad_q, grad_k, grad_v = grads
    if causal:  # one copy of the keys' gradient for each query head that shares them
        grad_k, grad_v = grad_k.sum(1), grad_v.sum(1)
    return grad_q.reshape(query.shape), grad_k.reshape(key.shape), grad_v.reshape(value.shape)


def _shaped(query: Tensor, key: Tensor, value: Tensor, causal: bool) -> tuple[Tensor, Tensor, Tensor]:
    heads, repeat, length, dim = query.shape
    if causal:  # batch = key head, heads = the query heads sharing it
        shape = (heads, repeat, *key.shape[1:])
        return query, key.unsqueeze(1).expand(shape), value.unsqueeze(1).expand(shape)
    return query.reshape(1, heads, repeat * length, dim), key.unsqueeze(0), value.unsqueeze(0)


def _scores(query: Tensor, key: Tensor, scale: float, causal: bool) -> Tensor:
    scores = (query.float() @ key.float().transpose(-1, -2).unsqueeze(1)) * scale
    if causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        scores = scores.masked_fill(future, float("-inf"))
    return scores


def _math_piece(query: Tensor, key: Tensor, value: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    scores = _scores(query, key, scale, causal)
    lse = scores.logsumexp(-1)
    out = (scores - lse.unsqueeze(-1)).exp() @ value.float().unsqueeze(1)
    return out.to(query.dtype), lse


def _math_piece_backward(
    grad: Tensor, query: Tensor, key: Tensor, value: Tensor, out: Tensor, lse: Tensor, scale: float, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    probs = (_scores(query, key, scale, causal) - lse.unsqueeze(-1)).exp()
    grad, out = grad.float(), out.float()
    grad_scores = (
        probs * (grad @ value.float().transpose(-1, -2).unsqueeze(1) - (grad * out).sum(-1, keepdim=True)) * scale
    )
    grad_q = grad_scores @ key.float().unsqueeze(1)
    grad_k = torch.einsum("hrts,hrtd->hsd", grad_scores, query.float())
    grad_v = torch.einsum("hrts,hrtd->hsd", probs, grad)
    return grad_q.to(query.dtype), grad_k.to(key.dtype), grad_v.to(value.dtype)


def merge(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    """Two pieces over disjoint keys -> attention over all of them, with its log-sum-exp."""
    weight_b = torch.sigmoid(lse_b - lse_a).unsqueeze(-1).to(out_a.dtype)
    return torch.lerp(out_a, out_b, weight_b), torch.logaddexp(lse_a, lse_b)


def shared_prefix(prompts: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """The tokens that every prompt begins with, at least one token of each left over; () for a single prompt."""
    if len(prompts) < 2:
        return ()
    shared = takewhile(lambda column: len(set(column)) == 1, zip(*(p[:-1] for p in prompts), strict=False))
    return tuple(column[0] for column in shared)


# Training


class Packed:
    """The plan of the update: a shared prefix, then prompts, each with completions that continue it.

    The prefix attends to itself, causally, and everything else to the whole prefix. A prompt attends to
    itself, causally; a completion to the whole prompt and, causally, to itself. So what is shared is
    computed once, exactly as if it stood before every completion.
    """

    def __init__(self, prefix: int, segments: Sequence[Segment]) -> None:
        self.pieces = tuple(_pieces(prefix, segments))

    def __call__(self, layer: int, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """[1, Hq, S, D] of the whole stream."""
        heads = key.shape[1]
        grouped = query[0].unflatten(0, (heads, -1))  # [Hkv, R, T, D]
        out: Tensor = _PackedAttention.apply(grouped, key[0], value[0], self.pieces, scale)  # type: ignore[assignment]
        return out.flatten(0, 1).transpose(0, 1).unsqueeze(0)


class _Piece(NamedTuple):
    """Which stretch of the stream attends to which."""

    queries: slice
    keys: slice
    causal: bool
    adds: bool
    """Whether these queries have attended to something before, to be merged with."""


def _pieces(prefix: int, segments: Sequence[Segment]) -> Iterator[_Piece]:
    shared, rest = slice(0, prefix), slice(prefix, segments[-1].stop)
    if prefix:
        yield _Piece(shared, shared, causal=True, adds=False)
        yield _Piece(rest, shared, causal=False, adds=False)
    for segment in segments:
        prompt = slice(segment.start, segment.start + segment.prompt)
        yield _Piece(prompt, prompt, causal=True, adds=prefix > 0)
        if segment.stop > prompt.stop:
            yield _Piece(slice(prompt.stop, segment.stop), prompt, causal=False, adds=prefix > 0)
        start = prompt.stop
        for length in segment.completions:
            own = slice(start, start := start + length)
            if length:
                yield _Piece(own, own, causal=True, adds=True)


class _PackedAttention(torch.autograd.Function):
    """query [Hkv, R, T, D], key and value [Hkv, T, D] -> [Hkv, R, T, D]."""

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, pieces: tuple[_Piece, ...], scale: float
    ) -> Tensor:
        out = torch.empty_like(query, memory_format=torch.contiguous_format)
        lse = query.new_empty(query.shape[:3], dtype=torch.promote_types(query.dtype, torch.float32))
        for queries, keys, causal, adds in pieces:
            part = piece(query[:, :, queries], key[:, keys], value[:, keys], scale, causal)
            if adds:
                part = merge(out[:, :, queries], lse[:, :, queries], *part)
            out[:, :, queries], lse[:, :, queries] = part
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.pieces, ctx.scale = pieces, scale
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, None, None]:  # type: ignore[override]
        query, key, value, out, lse = ctx.saved_tensors
        grad_q, grad_k, grad_v = (torch.zeros_like(t) for t in (query, key, value))
        for queries, keys, causal, _ in ctx.pieces:
            rows = (slice(None), slice(None), queries)
            dq, dk, dv = piece_backward(
                grad[rows], query[rows], key[:, keys], value[:, keys], out[rows], lse[rows], ctx.scale, causal
            )
            grad_q[rows] += dq
            grad_k[:, keys] += dk
            grad_v[:, keys] += dv
        return grad_q, grad_k, grad_v, None, None
