"""Linear layers as they are run: every adapter folded in, every matrix packed for this machine.

Between two optimizer steps the weights stand still, so W + scale * B @ A is formed once and both sampling
and training multiply by it. It lives in buffers of our own; the base is never written, and an
interruption can't corrupt it. On a CPU oneDNN multiplies by weights in its own layout 1.2 to 3 times as
fast as by plain ones; those functions are private to torch, so they are probed before they are trusted.

Layers that are fed the same tensor (query, key and value; gate and up) are one product, computed when the
first of them is called and handed out to the others.

The gradients are LoRA's own, with u = x A^T and v = dy B, and no intermediate of the adapter is kept:

    dx = dy W + scale * v A        dA = scale * v^T x        dB = scale * dy^T u

A base that is not float32 is not folded: a LoRA delta added in bfloat16 loses a quarter of itself. There the
adapter is computed beside the base and in its precision, as autocast has it: one product with the A of all layers
that are fed together, one with each B. What is trained stays float32.

What is left out: adapters other than LoRA on `nn.Linear`. They are run as they are.
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

Products = Callable[[Tensor], tuple[Tensor, ...]]
"""x [..., in] -> the outputs of all layers that it is fed to, outside autograd."""

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
        self._adapted = [Fed(modules) for modules in fed_together(model, has_lora)]
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

    def reads(self) -> list[Tensor]:
        """What the products read that is no parameter."""
        return [tensor for fed in (*self._frozen, *self._adapted) for tensor in fed.reads]

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
        self.reads: list[Tensor] = []
        """What the products read that is no parameter, where a CUDA graph may hold them."""
        self._products: Products | None = None
        self._input: Tensor | None = None
        self._outputs: tuple[Tensor, ...] = ()

    @torch.inference_mode(False)  # what is formed while sampling is written again while training
    @torch.no_grad()
    def form(self) -> None:
        """Make the products out of the weights as they are now."""
        self._products = None  # freed before it is made anew: there is never a second copy
        self._bases = [base_of(module) for module in self.modules]
        self._adapters = [adapter for module in self.modules if (adapter := adapter_of(module))]  # of all, or of none
        self._weights = [base.weight for base in self._bases]
        self._products = self._folded() if self._weights[0].dtype == torch.float32 else self._beside()

    def _folded(self) -> Products:
        self.reads = []
        adapters = self._adapters or [None] * len(self._bases)
        effective = [effective_weight(w, a) for w, a in zip(self._weights, adapters, strict=True)]
        biases = [base.weight.new_zeros(len(base.weight)) if base.bias is None else base.bias for base in self._bases]
        weight = effective[0] if len(effective) == 1 else torch.cat(effective)
        bias = None if all(base.bias is None for base in self._bases) else torch.cat(biases)
        if weight.is_cuda:
            self.reads = [weight] if bias is None else [weight, bias]
        product, sizes = make_product(weight, bias), [len(weight) for weight in self._weights]
        return lambda x: product(x).split(sizes, dim=-1)

    def _beside(self) -> Products:
        bases = self._bases
        if not self._adapters:
            self.reads = []
            return lambda x: tuple(F.linear(x, base.weight, base.bias) for base in bases)
        stacked = torch.cat([adapter.a for adapter in self._adapters])
        formed = [stacked, *(adapter.b * adapter.scale for adapter in self._adapters)]
        if self.reads:  # where they lay before, so that a recorded CUDA graph goes on with them
            for old, new in zip(self.reads, formed, strict=True):
                old.copy_(new)
        else:
            self.reads = [matrix.to(self._weights[0].dtype) for matrix in formed]
        a, *matrices = self.reads
        ranks = [len(adapter.a) for adapter in self._adapters]

        def products(x: Tensor) -> tuple[Tensor, ...]:
            outputs = [F.linear(x, base.weight, base.bias) for base in bases]
            inner = F.linear(x.flatten(0, -2), a).split(ranks, dim=-1)
            for y, u, b in zip(outputs, inner, matrices, strict=True):
                y.view(-1, y.shape[-1]).addmm_(u, b.T)
            return tuple(outputs)

        return products

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
        assert self._products is not None
        if not torch.is_grad_enabled():
            return self._products(x)
        matrices = (*(adapter.a for adapter in self._adapters), *(adapter.b for adapter in self._adapters))
        scales = [adapter.scale for adapter in self._adapters]
        return _Linear.apply(x, self._products, self._weights, scales, *matrices)  # type: ignore[return-value]


def adapter_of(module: Any) -> Adapter | None:
    """The active LoRA matrices of a layer; None when there are none, or they are switched off."""
    if not has_lora(module) or module.disable_adapters:
        return None
    (name,) = module.active_adapters
    return Adapter(module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name])


def base_of(module: Any) -> Any:
    """The plain linear layer in or behind a module."""
    return module.get_base_layer() if has_lora(module) else module


def is_frozen(module: Any) -> bool:
    """Whether a layer is a plain linear one that is not trained."""
    return type(module) is nn.Linear and not module.weight.requires_grad


def has_lora(module: Any) -> bool:
    """Whether a layer is a plain linear one with LoRA matrices."""
    from peft.tuners.lora import Linear

    return isinstance(module, Linear) and type(module.get_base_layer()) is nn.Linear


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
    """x, the products, n weights, n scales of LoRA, n A matrices and n B matrices -> n outputs."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, products: Products, weights: Sequence[Tensor], scales: Sequence[float], *matrices: Tensor
    ) -> tuple[Tensor, ...]:
        ctx.save_for_backward(x if matrices else None, *weights, *matrices)
        ctx.scales = scales
        return products(x)

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
            rows, a = x.flatten(0, -2), torch.cat(a_matrices).to(x.dtype)
            ranks = [len(matrix) for matrix in a_matrices]
            v = torch.cat(
                [(g @ b.to(g.dtype)).mul_(s) for g, b, s in zip(flat, b_matrices, ctx.scales, strict=True)], dim=1
            )
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
