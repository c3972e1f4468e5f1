"""The weights sampling runs on: every adapter folded in, every matrix packed for this machine.

While tokens are sampled the weights stand still, so W + scale * B @ A is formed once a rollout, in
buffers of our own; the base is never written, and an interruption can't corrupt it. On a CPU oneDNN
multiplies by weights in its own layout 1.3 to 1.8 times as fast as by plain ones; those functions are
private to torch, so they are probed before they are trusted.

What is left out: adapters other than LoRA on `nn.Linear`, and bases that are not float32 (a LoRA delta
rounded to bfloat16 loses a quarter of itself). They are sampled as they are, unmerged.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Forward = Callable[[Tensor], Tensor]

ROWS = 32
"""The number of rows that packed weights are laid out for; others work as well."""


class SamplingWeights:
    """Effective weights of a model's linear layers, in use inside `with weights:`."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._frozen: dict[nn.Module, Forward] = {}

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Fold in the adapters as they are now; inside, linear layers multiply by the result."""
        replaced = self._forwards()
        for module, forward in replaced.items():
            module.forward = forward
        try:
            yield
        finally:
            for module in replaced:
                del module.forward  # the class's own shows again

    @torch.no_grad()
    def _forwards(self) -> dict[nn.Module, Forward]:
        adapted = {m: w for m in self.model.modules() if (w := effective_weight(m)) is not None}
        inside = {id(child) for m in adapted for child in m.modules() if child is not m}
        plain = [m for m in self.model.modules() if type(m) is nn.Linear and id(m) not in inside]
        forwards = {m: linear(weight, m.get_base_layer().bias) for m, weight in adapted.items()}  # type: ignore[operator]
        for module in plain:
            if module.weight.requires_grad:
                forwards[module] = linear(module.weight, module.bias)
            elif module not in self._frozen:
                self._frozen[module] = linear(module.weight, module.bias)
        return forwards | self._frozen


def effective_weight(module: Any) -> Tensor | None:
    """W + scale * B @ A of a LoRA layer, in float32; None where it must stay unmerged."""
    from peft.tuners.lora import Linear

    if not isinstance(module, Linear) or type(module.get_base_layer()) is not nn.Linear:
        return None
    weight = module.get_base_layer().weight
    if weight.dtype != torch.float32:
        return None
    for name in () if module.disable_adapters else module.active_adapters:
        a, b = module.lora_A[name].weight, module.lora_B[name].weight
        weight = torch.addmm(weight, b.float(), a.float(), alpha=module.scaling[name])
    return weight


def linear(weight: Tensor, bias: Tensor | None) -> Forward:
    """x -> x @ weight.T + bias, as fast as this machine can."""
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not packing_works():
        return lambda x: F.linear(x, weight, bias)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)
    return lambda x: torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


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
