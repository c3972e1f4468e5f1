"""Linear layers as they are run: every adapter folded in, every matrix packed for this machine.

Between two optimizer steps the weights stand still, so W + scale * B @ A is formed once and both sampling
and training multiply by it. It lives in buffers of our own; the base is never written, and an
interruption can't corrupt it. On a CPU oneDNN multiplies by weights in its own layout 1.2 to 3 times as
fast as by plain ones; those functions are private to torch, so they are probed before they are trusted.

Layers that are fed the same tensor (query, key and value; gate and up) are one product, computed when the
first of them is called and handed out to the others.

The gradients are LoRA's own, with u = x A^T and v = dy B, and no intermediate of the adapter is kept:

    dx = dy W + scale * v A        dA = scale * v^T x        dB = scale * dy^T u

What is left out: adapters other than LoRA on `nn.Linear`, and bases that are not float32 (a LoRA delta
rounded to bfloat16 loses a quarter of itself). They are run as they are, unmerged.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Product = Callable[[Tensor], Tensor]
"""x [..., in] -> x @ weight.T + bias [..., out], outside autograd."""

ROWS = 32
"""The number of rows that packed weights are laid out for; others work as well."""

SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Names of layers that are fed the same tensor, in the order in which they are called."""


class Adapter(NamedTuple):
    """The LoRA matrices of one layer."""

    a: Tensor
    """[r, in]"""
    b: Tensor
    """[out, r]"""
    scale: float


class EffectiveWeights:
    """The products of a model's linear layers, in use inside `with weights.in_use():`."""

    def __init__(self, model: Any) -> None:
        self.model = model
        # Settled once, with the adapter on: PEFT freezes the adapter's own matrices while it is switched off.
        self._adapted = [Fed(modules) for modules in fed_together(model, is_foldable)]
        inside = {child for fed in self._adapted for module in fed.modules for child in module.modules()}
        self._frozen = [Fed(modules) for modules in fed_together(model, lambda m: is_frozen(m) and m not in inside)]
        self._state: tuple[Any, ...] | None = None

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Fold in the adapters as they are now; inside, linear layers multiply by the result."""
        self._refresh()
        everything = [*self._frozen, *self._adapted]
        for fed in everything:
            fed.take_over()
        try:
            yield
        finally:
            for fed in everything:
                fed.give_back()

    def _refresh(self) -> None:
        adapters = [adapter_of(module) for fed in self._adapted for module in fed.modules]
        state = tuple(adapter and (adapter.a._version, adapter.b._version) for adapter in adapters)
        if state == self._state:
            return
        for fed in self._adapted:
            fed.form()
        if self._state is None:
            for fed in self._frozen:
                fed.form()
        self._state = state


def fed_together(model: Any, chosen: Callable[[Any], bool]) -> list[list[nn.Module]]:
    """The chosen modules of a model: siblings that are fed the same tensor together, every other one alone."""
    found = []
    for parent in model.modules():
        children = {name: child for name, child in parent.named_children() if chosen(child)}
        for names in SIBLINGS:
            if all(name in children for name in names):
                found.append([children.pop(name) for name in names])
        found += [[child] for child in children.values()]
    return found


class Fed:
    """Linear layers that are fed the same tensor, run as one product."""

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.modules = modules
        self._product: Product | None = None
        self._input: Tensor | None = None
        self._outputs: tuple[Tensor, ...] = ()

    @torch.no_grad()
    def form(self) -> None:
        """Make the product out of the weights as they are now."""
        self._product = None  # freed before it is made anew: there is never a second copy
        bases = [base_of(module) for module in self.modules]
        self._adapters = [adapter_of(module) for module in self.modules]
        self._weights = [base.weight for base in bases]
        self._sizes = [len(weight) for weight in self._weights]
        effective = [effective_weight(w, a) for w, a in zip(self._weights, self._adapters, strict=True)]
        biases = [base.weight.new_zeros(len(base.weight)) if base.bias is None else base.bias for base in bases]
        no_bias = all(base.bias is None for base in bases)
        weight = effective[0] if len(effective) == 1 else torch.cat(effective)
        self._product = make_product(weight, None if no_bias else torch.cat(biases))

    def take_over(self) -> None:
        """Let the modules' forward ask this."""
        for at, module in enumerate(self.modules):
            module.forward = functools.partial(self._forward, at)

    def give_back(self) -> None:
        """Let the modules' own forward show again."""
        for module in self.modules:
            del module.forward

    def _forward(self, at: int, x: Tensor) -> Tensor:
        if x is not self._input:
            self._input, self._outputs = x, self._multiply(x)
        output = self._outputs[at]
        if at == len(self.modules) - 1:
            self._input, self._outputs = None, ()
        return output

    def _multiply(self, x: Tensor) -> tuple[Tensor, ...]:
        assert self._product is not None
        if not torch.is_grad_enabled():
            return self._product(x).split(self._sizes, dim=-1)
        adapters = [adapter for adapter in self._adapters if adapter is not None]
        matrices = (*(adapter.a for adapter in adapters), *(adapter.b for adapter in adapters))
        scales = [adapter.scale for adapter in adapters]
        return _Linear.apply(x, self._product, self._weights, scales, *matrices)  # type: ignore[return-value]


def adapter_of(module: Any) -> Adapter | None:
    """The active LoRA matrices of a layer; None when there are none, or they are switched off."""
    if not is_foldable(module) or module.disable_adapters:
        return None
    (name,) = module.active_adapters
    return Adapter(module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name])


def base_of(module: Any) -> Any:
    """The plain linear layer in or behind a module."""
    return module.get_base_layer() if is_foldable(module) else module


def is_frozen(module: Any) -> bool:
    """Whether a layer is a plain linear one that is not trained."""
    return type(module) is nn.Linear and not module.weight.requires_grad


def is_foldable(module: Any) -> bool:
    """Whether a layer is one whose adapter can be folded in."""
    from peft.tuners.lora import Linear

    base = module.get_base_layer() if isinstance(module, Linear) else None
    return type(base) is nn.Linear and base.weight.dtype == torch.float32


def effective_weight(weight: Tensor, adapter: Adapter | None) -> Tensor:
    """W + scale * B @ A; W itself without an adapter."""
    return weight if adapter is None else torch.addmm(weight, adapter.b, adapter.a, alpha=adapter.scale)


def make_product(weight: Tensor, bias: Tensor | None) -> Product:
    """x -> x @ weight.T + bias, as fast as this machine can."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not packing_works():
        return lambda x: F.linear(x, weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    """x, the product, n weights, n scales of LoRA, n A matrices and n B matrices -> n outputs."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, product: Product, weights: Sequence[Tensor], scales: Sequence[float], *matrices: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x if matrices else None, *weights, *matrices)
        ctx.scales = scales
        return product(x).split([len(weight) for weight in weights], dim=-1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, *saved = ctx.saved_tensors
        n = len(grads)
        weights, a_matrices, b_matrices = saved[:n], saved[n : 2 * n], saved[2 * n :]
        flat = [grad.flatten(0, -2) for grad in grads]
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_x = flat[0] @ weights[0]
            for grad, weight in zip(flat[1:], weights[1:], strict=True):
                grad_x.addmm_(grad, weight)
        grad_a: Sequence[Tensor] = ()
        grad_b: Sequence[Tensor] = ()
        if a_matrices:
            rows, a = x.flatten(0, -2), torch.cat(a_matrices)
            ranks = [len(matrix) for matrix in a_matrices]
            v = torch.cat([(g @ b).mul_(s) for g, b, s in zip(flat, b_matrices, ctx.scales, strict=True)], dim=1)
            if grad_x is not None:
                grad_x.addmm_(v, a)
            grad_a = (v.T @ rows).split(ranks)
            us = (rows @ a.T).split(ranks, dim=1)
            grad_b = [(g.T @ u).mul_(s) for g, u, s in zip(flat, us, ctx.scales, strict=True)]
        shaped = None if grad_x is None else grad_x.view(*grads[0].shape[:-1], -1)
        return shaped, None, None, None, *grad_a, *grad_b


@functools.cache
def packing_works() -> bool:
    """Whether oneDNN's packed weights exist here and give the same numbers."""
    x, weight, bias = (torch.linspace(-1, 1, n).view(s) for n, s in ((96, (3, 32)), (512, (16, 32)), (16, (16,))))
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
        got = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    except (AttributeError, RuntimeError):
        return False
    return bool(torch.allclose(got, F.linear(x, weight, bias), atol=1e-5))
