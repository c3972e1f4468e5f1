"""How often the model solves held-out problems when it is asked k times: pass@1, pass@k, mean@k.

Sampled at temperature 1, whatever the run trains with, and compared exactly, whatever the rewards are. The
random numbers have names, so base and trained model are asked with the same ones, and asking again repeats.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import comb
from statistics import fmean

from ..records import Engine, Problem, Prompt, Sampling
from .accuracy import Correct


@dataclass(frozen=True, slots=True)
class Sampled:
    """Which samples solved their problem.

    >>> Sampled(((True, False), (False, False))).pass_at(2)
    0.5
    """

    correct_PK: tuple[tuple[bool, ...], ...]

    @property
    def shares(self) -> tuple[float, ...]:
        """The share of right answers to each problem."""
        return tuple(fmean(correct_K) for correct_K in self.correct_PK)

    @property
    def mean(self) -> float:
        """mean@K, the share of right answers, which is also pass@1; NaN without problems."""
        return self.pass_at(1)

    def pass_at(self, k: int) -> float:
        """The chance that at least one of k answers is right, a mean over problems; k is at most K."""
        chances = [pass_at_k(len(correct_K), sum(correct_K), k) for correct_K in self.correct_PK]
        return fmean(chances) if chances else float("nan")


def pass_at_k(n: int, c: int, k: int) -> float:
    """1 - C(n-c, k) / C(n, k) for c right answers among n: unbiased (Chen et al. 2021, arXiv:2107.03374)."""
    return 1.0 - comb(n - c, k) / comb(n, k)


def evaluate_samples(
    engine: Engine,
    problems: Sequence[Problem],
    render: Callable[[Problem], tuple[int, ...]],
    decode: Callable[[Sequence[int]], str],
    sampling: Sampling,
    samples: int,
    correct: Correct,
) -> Sampled:
    """Answer every problem `samples` times, within `sampling.max_new_tokens`."""
    prompts = [Prompt(render(problem), key=(0, 0, index)) for index, problem in enumerate(problems)]
    completions = engine.generate(prompts, replace(sampling, num_samples=samples, temperature=1.0))
    answers = zip(problems, completions, strict=True)
    return Sampled(
        tuple(tuple(correct(decode(c.token_ids), problem.answer) == 1.0 for c in group) for problem, group in answers)
    )
