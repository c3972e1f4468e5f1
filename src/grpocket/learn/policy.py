"""What is trained, seen from the loop: render a problem, read an answer, weigh a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from ..algo.logprobs import LogitTransform, token_logprobs
from ..config import Config
from ..model.attention import Packed
from ..model.loading import Loaded, quiet
from ..model.network import Network, has_adapter
from ..records import Batch, Problem, Sampling, UserError
from .batch import choose_budget

Render = Callable[[Problem], tuple[int, ...]]


class Policy:
    """A network with its tokenizer, its optimizer and the way it is asked.

    `opening` is what every prompt has already written of the answer, "<think>" or nothing: answers are
    decoded with it in front, so that they are graded whole.
    """

    def __init__(self, loaded: Loaded, render: Render, opening: str, config: Config) -> None:
        self.network = Network(loaded.model)
        if config.kl_coef:
            self.network.keep_untrained()
        self.tokenizer = loaded.tokenizer
        self.context = loaded.context
        self.sampling = Sampling(config.group_size, config.max_new_tokens, loaded.stop_ids, config.temperature)
        self.budget = choose_budget(config.token_budget, self.network.activation_bytes, self.network.device.type)
        self.failures = 0
        """Optimizer steps in a row that were not applied."""
        self.moves = 0
        """Optimizer steps that were applied."""
        self._render = render
        self._opening = opening
        self.optimizer = torch.optim.AdamW(
            self.parameters(), lr=config.learning_rate, betas=(0.9, 0.99), weight_decay=config.weight_decay
        )

    def parameters(self) -> list[torch.nn.Parameter]:
        """What the optimizer changes."""
        return [p for p in self.network.model.parameters() if p.requires_grad]

    def save(self, folder: Path) -> None:
        """Write the adapter in PEFT's format, or the whole model where every weight is trained, and the tokenizer."""
        self.save_weights(folder)
        self.tokenizer.save_pretrained(str(folder))

    def save_weights(self, folder: Path) -> None:
        """The same without the tokenizer."""
        only_adapter = {"save_embedding_layers": False} if has_adapter(self.network.model) else {}
        with quiet():
            self.network.model.save_pretrained(str(folder), **only_adapter)

    def load(self, folder: Path) -> None:
        """Put the adapter, or the weights, that a run saved in place of the present ones."""
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file, load_model

        model, device = self.network.model, str(self.network.device)
        if has_adapter(model):  # PEFT's own reader would take a .bin, or ask the hub, where this is missing
            set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors", device=device))
        else:
            load_model(model, folder / "model.safetensors", device=device)

    def save_optimizer(self, file: Path) -> None:
        """Write the optimizer's moments and counts, named by the place of their parameter."""
        from safetensors.torch import save_file

        states = self.optimizer.state_dict()["state"]
        save_file({f"{at}.{name}": value for at, state in states.items() for name, value in state.items()}, file)

    def load_optimizer(self, file: Path) -> None:
        """Put them back."""
        from safetensors.torch import load_file

        whole = self.optimizer.state_dict()
        states: dict[int, dict[str, Tensor]] = {}
        for key, value in load_file(file).items():
            at, name = key.split(".")
            states.setdefault(int(at), {})[name] = value
        self.optimizer.load_state_dict(whole | {"state": states})

    @property
    def checkpoint_bytes(self) -> int:
        """About what a checkpoint takes: what is trained and two moments of each, and some text."""
        return 3 * sum(parameter.nbytes for parameter in self.parameters()) + (1 << 20)

    def prompt_ids(self, problem: Problem) -> tuple[int, ...]:
        """The prompt's token ids, however many they are."""
        return self._render(problem)

    def render(self, problem: Problem) -> tuple[int, ...]:
        """The prompt's token ids.

        Raises:
            UserError: the prompt and the longest answer do not fit the model's context.
        """
        ids = self.prompt_ids(problem)
        self.network.expect(len(ids) + self.sampling.max_new_tokens)
        if len(ids) + self.sampling.max_new_tokens > self.context:
            raise UserError(
                f"problem {problem.id}: its prompt has {len(ids)} tokens, and with "
                f"max_new_tokens={self.sampling.max_new_tokens} "
                f"exceeds the model's context of {self.context}; shorten the problem or lower max_new_tokens"
            )
        return ids

    def decode(self, token_ids: Sequence[int]) -> str:
        """The answer as text, with what was prefilled and without the stop token."""
        ids = token_ids[:-1] if token_ids and token_ids[-1] in self.sampling.stop_ids else token_ids
        return self._opening + str(self.tokenizer.decode(list(ids)))

    def set_temperature(self, temperature: float) -> None:
        """Sample, and compute log-probs, at this temperature from now on."""
        self.sampling = replace(self.sampling, temperature=temperature)

    def logprobs(self, batch: Batch, entropy_gradient: bool = False) -> tuple[Tensor, Tensor]:
        """(logprobs_T, entropy_T) of the batch's completion tokens at the sampling temperature, float32."""
        transform = LogitTransform(self.sampling.temperature, self.network.logit_scale, self.network.softcap)
        head = self.network.head
        states = self.states(batch)
        return token_logprobs(states, head.weight, batch.target_T, transform, entropy_gradient, project=head)

    def states(self, batch: Batch) -> Tensor:
        """Hidden states [T, H] that predict the batch's completion tokens."""
        if not self.network.plain:
            hidden = self.network.hidden(batch.ids, batch.positions, Packed(batch.prefix, batch.segments))[0]
            return hidden[batch.source_T]
        found = []
        for part in batch.parts:
            rows = [(r.prompt_ids, r.completion.token_ids) for r in part.rollouts]
            hidden = self.network.row_hidden([(*prompt, *ids[:-1]) for prompt, ids in rows])
            found += [h[len(prompt) - 1 :][: len(ids)] for h, (prompt, ids) in zip(hidden, rows, strict=True)]
        return torch.cat(found)

    @torch.no_grad()
    def stock_logprobs(self, prompt_ids: Sequence[int], completion_ids: Sequence[int]) -> Tensor:
        """The same by the model's own forward, one row, nothing of ours in between: the oracle. [T]"""
        ids = torch.tensor([[*prompt_ids, *completion_ids]], device=self.network.device)
        logits = self.network.lm(input_ids=ids, use_cache=False).logits[0, len(prompt_ids) - 1 : -1].float()
        chosen = torch.log_softmax(logits / self.sampling.temperature, -1).gather(1, ids[0, len(prompt_ids) :, None])
        return chosen.squeeze(1)
