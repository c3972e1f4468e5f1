"""Every value that crosses from one room to another, and nothing else.

The records are frozen: a name never comes to mean something new halfway through a step. They hold
plain Python values; only `Batch` holds tensors, and torch is imported for the type checker alone,
so that the command line and the report can use this module without waiting for torch.

Shapes are written as suffixes of names:

    P  problems of one step          B  rows, P * G of them
    G  samples of one problem        T  tokens          V  vocabulary

What flows, left to right:

    Problem -> Prompt -> Completion -> Rollout -> Group -> Batch -> StepMetrics
            render    engine       score     advantages  pack   update
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    import torch

FinishReason = Literal["stop", "length"]
Message = Mapping[str, str]
"""One turn of a conversation: {"role": "user", "content": "What is 2 + 2?"}."""


class UserError(ValueError):
    """Something the user can put right: one line with the value, the place and the remedy."""


class StoppedError(UserError):
    """The run can't go on, and stays as it was after its last whole step."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A question with its known answer.

    >>> Problem(id="math.jsonl:1", messages=({"role": "user", "content": "3 + 4 = ?"},), answer="7")
    """

    id: str
    """Stable across runs, unique in its data set."""
    messages: tuple[Message, ...]
    """The question as a conversation; worked examples and the system prompt are added when rendered."""
    answer: str
    """The gold answer, exactly as the data has it."""
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The other columns of the row; rewards receive them by name."""
    plain: bool = False
    """Whether the data has a plain text in TRL's column `prompt`: batch rewards then get plain texts, as from TRL."""

    @property
    def question(self) -> str:
        """The text of the last user message."""
        return next((m["content"] for m in reversed(self.messages) if m["role"] == "user"), "")


@dataclass(frozen=True, slots=True)
class Prompt:
    """What the engine is asked to continue.

    >>> Prompt(token_ids=(1, 733, 28), key=(0, 12, 51))
    """

    token_ids: tuple[int, ...]
    key: tuple[int, int, int]
    """(seed, step, draw index): with the sample's number and the position it names every random number."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn.

    >>> Sampling(num_samples=8, max_new_tokens=48, stop_ids=(2,))
    """

    num_samples: int
    """G, completions for each prompt."""
    max_new_tokens: int
    stop_ids: tuple[int, ...]
    temperature: float = 1.0
    """0 is greedy; the recorded log-probs are then those of temperature 1."""


@dataclass(frozen=True, slots=True)
class Completion:
    """What the engine wrote for one prompt.

    >>> Completion(token_ids=(28, 34, 2), logprobs=(-0.1, -1.2, -0.01), finish_reason="stop")
    """

    token_ids: tuple[int, ...]
    """[T]; the stop token is in when it was sampled."""
    logprobs: tuple[float, ...]
    """[T] nats, of the distribution that was sampled, temperature included."""
    finish_reason: FinishReason
    """"stop": a stop token was sampled. "length": max_new_tokens were reached without one."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled answer, as rewards see it.

    >>> Sample(problem=Problem("a:1", (), "7"), text="<think>3 + 4</think><answer>7</answer>")
    """

    problem: Problem
    text: str
    """With what the prompt had already written of the answer in front."""
    token_ids: tuple[int, ...] = ()
    """[T]"""
    step: int = 0
    """Steps finished when it was sampled."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What went wrong when a reward function graded an answer.

    >>> Fault(kind="error", text="ZeroDivisionError: division by zero", traceback="Traceback ...")
    """

    kind: Literal["error", "timeout"]
    text: str
    """One line; what stands before the first colon is the sort of mistake."""
    traceback: str = ""


@dataclass(frozen=True, slots=True)
class Reward:
    """What a completion earned.

    >>> Reward(value=1.35, parts={"correctness": 1.0, "format": 0.25, "language": 0.1})
    """

    value: float | None
    """Trains. None: no reward could be had, and the row neither trains nor counts in its group."""
    parts: Mapping[str, float | None]
    """Weighted parts by reward name, for people. None: this reward had nothing to say."""
    penalty: float = 0.0
    """What leaving the reference costs, 0 or below: it trains with the value, and is no signal of its own."""
    faults: Mapping[str, Fault | None] = field(default_factory=dict)
    """What went wrong, by name, with None for all well; built-in rewards are in it only when they failed."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """One sampled answer with its reward. The ids are the truth; the text is derived from them."""

    prompt_ids: tuple[int, ...]
    completion: Completion
    text: str
    reward: Reward


@dataclass(frozen=True, slots=True)
class Group:
    """The samples of one problem, compared with each other."""

    problem: Problem
    rollouts: tuple[Rollout, ...]
    """[G]"""
    advantages: tuple[float, ...]
    """[G]; exactly 0.0 for every row of a group whose rewards are all equal."""
    trained: tuple[bool, ...]
    """[G]; False: the row is left out of the loss and of its denominators."""

    @property
    def has_signal(self) -> bool:
        """Whether the samples differ in reward. Rewards are compared, not advantages, which are rounded."""
        values = {r.reward.value for r in self.rollouts if r.reward.value is not None}
        return len(values) > 1

    @property
    def is_live(self) -> bool:
        """Whether the policy gradient of this group can be other than exactly zero."""
        return any(a != 0.0 and t for a, t in zip(self.advantages, self.trained, strict=True))


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of one group that train together; they share its prompt.

    >>> Part("math.jsonl:1", rollouts=group.rollouts[:2], advantages=(0.7, -0.7))
    """

    problem: str
    """The problem's id."""
    rollouts: tuple[Rollout, ...]
    advantages: tuple[float, ...]

    @property
    def tokens(self) -> int:
        """Length in a packed stream: a completion's last token predicts nothing and is left out."""
        return len(self.rollouts[0].prompt_ids) + sum(len(r.completion.token_ids) - 1 for r in self.rollouts)


@dataclass(frozen=True, slots=True)
class Segment:
    """Where one prompt and the completions that continue it lie in a packed stream.

    >>> Segment(start=8, prompt=5, completions=(3, 2)).stop  # 5 tokens of prompt, then 3, then 2
    18
    """

    start: int
    prompt: int
    """Tokens of the prompt after the stream's shared prefix."""
    completions: tuple[int, ...]
    """Tokens in the stream: a completion's last token predicts nothing and is left out."""

    @property
    def stop(self) -> int:
        """One past the segment's last token."""
        return self.start + self.prompt + sum(self.completions)


@dataclass(frozen=True, slots=True)
class Batch:
    """One packed stream of tokens, already shifted: nobody downstream shifts, pads or masks.

    The stream is [prefix], then [prompt | y1 | ... | yG] for each group, S tokens in all. The positions of
    every prompt continue from the prefix, those of every y from its prompt. T counts the completion
    tokens, which are predicted.
    """

    parts: tuple[Part, ...]
    """What was packed, in stream order."""
    ids: torch.Tensor
    """[1, S] int64, the stream."""
    positions: torch.Tensor
    """[1, S] int64"""
    prefix: int
    """Tokens that all prompts begin with, once at the head of the stream; may be 0."""
    segments: tuple[Segment, ...]
    """In stream order."""
    source_T: torch.Tensor
    """[T] int64, where in the stream the state lies that predicts each token; for a first token, the prompt's end."""
    target_T: torch.Tensor
    """[T] int64, the completion tokens."""
    row_T: torch.Tensor
    """[T] int64, which row (completion) of this batch a token belongs to."""
    old_logprobs_T: torch.Tensor
    """[T] float32, recorded when the token was sampled."""
    advantages_T: torch.Tensor
    """[T] float32, the advantage of the token's row."""
    mask_T: torch.Tensor
    """[T] bool, True where the token is trained."""
    reference_logprobs_T: torch.Tensor | None = None
    """[T] float32, of the model without its adapter; None when no KL is in the loss."""
    correction_T: torch.Tensor | None = None
    """[T] float32, importance weights of the sampler's log-probs; None when the sampler is exact."""


@dataclass(frozen=True, slots=True)
class TrainState:
    """Everything that decides what comes next, apart from the weights and the optimizer.

    >>> TrainState(seed=0, step=12, cursor=48)
    """

    seed: int
    step: int = 0
    """Steps finished."""
    cursor: int = 0
    """Problems drawn so far, over all epochs."""

    def advance(self, drawn: int) -> TrainState:
        """The state after a step that drew `drawn` problems."""
        return replace(self, step=self.step + 1, cursor=self.cursor + drawn)


@dataclass(frozen=True, slots=True)
class StepMetrics:
    """One line of metrics.jsonl; the console and the report read the same record.

    >>> StepMetrics(step=3, values={"reward": 0.81, "loss": 0.0, "grad_norm": 0.4})
    """

    step: int
    values: Mapping[str, float]


class Engine(Protocol):
    """Anything that continues prompts: ours, a scripted one for tests, a server's client."""

    def generate(self, prompts: Sequence[Prompt], sampling: Sampling) -> list[tuple[Completion, ...]]:
        """G completions for each prompt, in the prompts' order."""
        ...
