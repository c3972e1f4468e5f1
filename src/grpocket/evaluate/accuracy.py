"""How many held-out problems the model solves: greedy answers, strict comparison, nothing else.

Deliberately apart from training: its own sampling (greedy, so it repeats to the token) and its own
score (exact correctness, whatever the rewards are).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..records import Engine, Problem, Prompt, Sampling

Correct = Callable[[str, str], float | None]
"""(text, the known answer) -> 1 where the text is exactly right."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One held-out problem with the model's greedy answer.

    >>> Answered(problem=Problem("a:1", (), "7"), text="<answer>7</answer>", correct=True, tokens=9, cut=False)
    """

    problem: Problem
    text: str
    correct: bool
    tokens: int
    cut: bool
    """Whether the answer reached max_new_tokens without a stop token."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Greedy answers to held-out problems."""

    answered: tuple[Answered, ...]

    @property
    def accuracy(self) -> float:
        """Share of problems solved, 0 to 1; NaN without problems."""
        return sum(self.correct) / len(self.answered) if self.answered else float("nan")

    @property
    def correct(self) -> tuple[bool, ...]:
        """Solved or not, in the order of the problems."""
        return tuple(a.correct for a in self.answered)


def evaluate(
    engine: Engine,
    problems: Sequence[Problem],
    render: Callable[[Problem], tuple[int, ...]],
    decode: Callable[[Sequence[int]], str],
    sampling: Sampling,
    correct: Correct,
) -> Evaluation:
    """Answer every problem once, greedily, within `sampling.max_new_tokens`."""
    prompts = [Prompt(render(problem), key=(0, 0, index)) for index, problem in enumerate(problems)]
    completions = engine.generate(prompts, replace(sampling, num_samples=1, temperature=0.0))
    answered = []
    for problem, (completion,) in zip(problems, completions, strict=True):
        text = decode(completion.token_ids)
        solved = correct(text, problem.answer) == 1.0
        cut = completion.finish_reason == "length"
        answered.append(Answered(problem, text, solved, len(completion.token_ids), cut))
    return Evaluation(tuple(answered))
