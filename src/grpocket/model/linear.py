"""Linear layers as they are run: every adapter folded in, every matrix packed for this machine.

Between two optimizer steps the weights stand still, so W + scale * B @ A is formed once and both sampling
and training multiply by it. It lives in buffers of our own; the base is never written, and an
interruption can't corrupt it. On a CPU oneDNN multiplies by weights in its own layout 1.2 to 3 times as
fast as by plain ones; those functions are private to torch, so they are probed before they are trusted.

The gradients are LoRA's own, with u = x A^T and v = dy B, and no intermediate of the adapter is kept:

    dx = dy W + scale * v A        dA = scale * v^T x        dB = scale * dy^T u

What is left out: adapters other than LoRA on `nn.Linear`, and bases that are not float32 (a LoRA delta
rounded to bfloat16 loses a quarter of itself). They are run as they are, unmerged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Product = Callable[[Tensor], Tensor]
"""x [..., in] -> x @ weight.T + bias [..., out], outside autograd."""

ROWS = 32
"""The number of rows that packed weights are laid out for; others work as well."""


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
        foldable = [module for module in model.modules() if is_foldable(module)]
        inside = {child for module in foldable for child in module.modules()}
        plain = (module for module in model.modules() if type(module) is nn.Linear and module not in inside)
        self._plain = [module for module in plain if not module.weight.requires_grad]
        self._foldable = foldable
        self._frozen: dict[nn.Module, Product] = {}
        self._adapted: dict[nn.Module, Product] = {}
        self._state: tuple[Any, ...] | None = None

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Fold in the adapters as they are now; inside, linear layers multiply by the result."""
        self._refresh()
        products = self._frozen | self._adapted
        for module, product in products.items():
            module.forward = forward_of(module, product)
        try:
            yield
        finally:
            for module in products:
                del module.forward  # the class's own shows again

    @torch.no_grad()
    def _refresh(self) -> None:
        layers = {module: adapter_of(module) for module in self._foldable}
        state = tuple(adapter and (adapter.a._version, adapter.b._version) for adapter in layers.values())
        if state == self._state:
            return
        self._adapted = {}  # freed before it is made anew: there is never a second copy
        for module, adapter in layers.items():
            base: Any = module.get_base_layer()
            self._adapted[module] = make_product(effective_weight(base.weight, adapter), base.bias)
        for module in self._plain:
            if module not in self._frozen:
                self._frozen[module] = make_product(module.weight, module.bias)
        self._state = state


def adapter_of(module: Any) -> Adapter | None:
    """The active LoRA matrices of a layer; None when there are none, or they are switched off."""
    if not is_foldable(module) or module.disable_adapters:
        return None
    (name,) = module.active_adapters
    return Adapter(module.lora_A[name].weight, module.lora_B[name].weight, module.scaling[name])


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


def forward_of(module: Any, product: Product) -> Product:
    """The layer's forward: the product, with the gradients of input and adapter when they are wanted."""
    adapter = adapter_of(module)
    base = module.get_base_layer() if is_foldable(module) else module
    a, b, scale = adapter or (None, None, 1.0)

    def forward(x: Tensor) -> Tensor:
        if not torch.is_grad_enabled():
            return product(x)
        return _Linear.apply(x, a, b, base.weight, scale, product)  # type: ignore[return-value]

    return forward


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, a: Tensor | None, b: Tensor | None, weight: Tensor, scale: float, product: Product
    ) -> Tensor:
        ctx.save_for_backward(x if a is not None else None, a, b, weight)
        ctx.scale = scale
        return product(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, a, b, weight = ctx.saved_tensors
        flat = grad.flatten(0, -2)
        grad_x = flat @ weight if ctx.needs_input_grad[0] else None
        grad_a = grad_b = None
        if a is not None:
            v, rows = flat @ b, x.flatten(0, -2)
            if grad_x is not None:
                grad_x.addmm_(v, a, alpha=ctx.scale)
            grad_a = (v.T @ rows).mul_(ctx.scale)
            grad_b = (flat.T @ (rows @ a.T)).mul_(ctx.scale)
        return None if grad_x is None else grad_x.view(*grad.shape[:-1], -1), grad_a, grad_b, None, None, None


@cache
def packing_works() -> bool:
    """Whether oneDNN's packed weights exist here and give the same numbers."""
    x, weight, bias = (torch.linspace(-1, 1, n).view(s) for n, s in ((96, (3, 32)), (512, (16, 32)), (16, (16,))))
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, ROWS)
        got = torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")
    except (AttributeError, RuntimeError):
        return False
    return bool(torch.allclose(got, F.linear(x, weight, bias), atol=1e-5))
