"""The network as grpocket calls it: hidden states by plan, then the head; for sampling and training alike.

One object serves both, which is why the two can't drift apart: the model that is trained is the model
that generates. The head is called by us (on the positions that matter, in chunks), so what models do
to their logits after it is done here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..records import UserError
from .attention import Plan, hooked, unsupported
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
        text = self.lm.config.get_text_config()
        self.logit_scale = getattr(text, "logit_scale", None) or 1.0 / (getattr(text, "logits_scaling", None) or 1.0)
        self.softcap: float | None = getattr(text, "final_logit_softcapping", None)
        self.plain: str | None = unsupported(self.lm.config)
        """Why it is run by the model's own forward, without plans: slower, and exact; None: by plans."""
        self._window: int | None = getattr(text, "sliding_window", None)
        if not getattr(text, "use_sliding_window", True):
            self._window = None

    def expect(self, tokens: int) -> None:
        """Be ready for sequences of so many tokens: beyond a sliding window only the plain path is exact."""
        if self._window and tokens > self._window and not self.plain:
            self.plain = (
                f"a prompt with its answer may have {tokens} tokens, more than its sliding window of {self._window}"
            )

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.head.weight.device

    @property
    def activation_bytes(self) -> int:
        """About what training keeps of one token for the backward pass: every linear layer's input and output."""
        layers = [
            m for m in self.backbone.modules() if isinstance(m, nn.Linear) and m.weight.dtype == self.head.weight.dtype
        ]
        kept = sum(layer.in_features + layer.out_features for layer in layers) * self.head.weight.element_size()
        if not any(getattr(module, "gradient_checkpointing", False) for module in self.lm.modules()):
            return kept
        depth = self.lm.config.get_text_config().num_hidden_layers
        return kept // depth + depth * self.head.in_features * self.head.weight.element_size()

    @property
    def suffix_bytes(self) -> int:
        """Keys and values of one token."""
        text = self.lm.config.get_text_config()
        heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
        width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
        return 2 * text.num_hidden_layers * heads * width * self.head.weight.element_size()

    @contextmanager
    def ready(self) -> Iterator[None]:
        """Inside this context, with the weights as they are when it is entered, `hidden` may be called."""
        with nullcontext() if self.plain else hooked(self.model), self.weights.in_use():
            yield

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside this context no activations are checkpointed: transformers does so in training only, and then
        neither keeps a cache nor can be recorded."""
        training = self.model.training
        self.model.eval()
        try:
            yield
        finally:
            self.model.train(training)

    def wiring(self) -> tuple[Any, ...]:
        """Where everything lies that `hidden` reads, and which adapters are off: what a CUDA graph is bound to."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        tensors = [*self.model.parameters(), *self.model.buffers(), *self.weights.reads()]
        off = [module.disable_adapters for module in self.model.modules() if isinstance(module, BaseTunerLayer)]
        return (*(tensor.data_ptr() for tensor in tensors), *off)

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

    def row_hidden(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Hidden states [B, T, H] by the model's own forward; rows are padded behind, where nothing looks back from."""
        longest = max(len(row) for row in rows)
        ids = torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows], device=self.device)
        return self.backbone(input_ids=ids, use_cache=False).last_hidden_state

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., H], as the model's own forward gives them."""
        logits = self.head(hidden) * self.logit_scale
        if self.softcap:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits


def has_adapter(model: Any) -> bool:
    """Whether the model is a PeftModel."""
    return hasattr(model, "peft_config")
