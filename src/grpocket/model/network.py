"""The network as grpocket calls it: hidden states by plan, then the head; for sampling and training alike.

One object serves both, which is why the two can't drift apart: the model that is trained is the model
that generates. The head is called by us (on the positions that matter, in chunks), so what models do
to their logits after it is done here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..records import UserError
from .attention import Plan, check_supported, hooked
from .linear import EffectiveWeights


class Network:
    """A transformers causal LM, with a PEFT adapter or with every weight trained."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self._trained = [] if has_adapter(model) else list(model.parameters())
        self._untrained: list[Tensor] = []
        self.lm: Any = model.get_base_model() if has_adapter(model) else model
        self.backbone: Any = getattr(self.lm, self.lm.base_model_prefix)
        self.head: nn.Linear = self.lm.get_output_embeddings()
        if type(self.head) is not nn.Linear:
            raise UserError(f"the output head is a {type(self.head).__name__}: leave it out of lora_targets")
        if self.head.bias is not None and self.head.weight.requires_grad:
            raise UserError("the output head has a bias, which can't be trained here: use an adapter, lora_rank=16")
        self.weights = EffectiveWeights(model)
        check_supported(self.lm.config)
        text = self.lm.config.get_text_config()
        self.logit_scale = getattr(text, "logit_scale", None) or 1.0 / (getattr(text, "logits_scaling", None) or 1.0)
        self.softcap: float | None = getattr(text, "final_logit_softcapping", None)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Inside this context, with the weights as they are when it is entered, `hidden` may be called."""
        with hooked(self.model), self.weights.in_use():
            yield

    def keep_untrained(self) -> None:
        """Keep a copy of the weights as they are, for `untrained`; with an adapter there is nothing to copy."""
        self._untrained = [parameter.detach().clone() for parameter in self._trained]

    @contextmanager
    def untrained(self) -> Iterator[None]:
        """Inside this context the network is what it was before training: the reference of the KL.

        Raises:
            UserError: every weight is trained and no copy was kept.
        """
        if has_adapter(self.model):
            with self.model.disable_adapter():
                yield
            return
        if not self._untrained:
            raise UserError("the weights before training were not kept; load the base model by its own name")
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def _swap(self) -> None:
        """Exchange trained and untrained weights: pointers only, nothing is copied."""
        for parameter, other in zip(self._trained, self._untrained, strict=True):
            parameter.data, other.data = other.data, parameter.data

    def hidden(self, ids: Tensor, positions: Tensor, plan: Plan) -> Tensor:
        """Hidden states [B, T, H] before the head of ids [B, T] at positions [B, T]."""
        return self.backbone(input_ids=ids, position_ids=positions, use_cache=False, plan=plan).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., H], as the model's own forward gives them."""
        logits = self.head(hidden) * self.logit_scale
        if self.softcap:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits


def has_adapter(model: Any) -> bool:
    """Whether the model is a PeftModel."""
    return hasattr(model, "peft_config")
