"""A run's folder: what is kept of it, and what is shown while it goes on.

runs/NAME/
    objective.txt    what is optimised, in words and one formula
    config.yaml      every setting; `grpocket train --config` repeats the run
    metrics.jsonl    one line a step
    rollouts.jsonl   one line an answer
    eval.jsonl       one line a held-out problem and evaluation
    adapter/         what was learned, in PEFT's format
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from .config import Config
from .evaluate.accuracy import Evaluation
from .records import Group, TrainState, UserError
from .report.console import Console, teaching_group
from .report.metrics import append_lines, rollout_lines, step_metrics


class RunFolder:
    """Keeps and shows one run."""

    def __init__(
        self,
        config: Config,
        num_problems: int,
        save: Callable[[Path], None],
        evaluate: Callable[[], Evaluation] | None,
    ) -> None:
        self.config = config
        self.num_problems = num_problems
        self.num_tokens = 0
        self.folder = claim_folder(config)
        self.console = Console(config.steps)
        self.evaluations: list[Evaluation] = []
        self._save = save
        self._evaluate = evaluate
        self._warned = False
        self._seconds: dict[str, float] = {}
        (self.folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")

    def start(self) -> TrainState:
        """A fresh start, after a first evaluation."""
        if self._evaluate:
            self.evaluate(0)
        return TrainState(self.config.seed)

    @contextmanager
    def timer(self, name: str) -> Iterator[None]:
        """Add the time spent inside to this step's `NAME_seconds`."""
        start = time.perf_counter()
        yield
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

    def log(
        self, state: TrainState, groups: Sequence[Group], dropped: Sequence[Group], update: Mapping[str, float]
    ) -> None:
        """Keep and show a finished step; evaluate and save where that is due."""
        metrics = step_metrics(state.step, [*groups, *dropped], update, self._seconds)
        self._seconds = {}
        self.num_tokens += int(metrics.values["num_tokens"])
        last = state.step == self.config.steps
        self.console.step(metrics, self.evaluations[-1].accuracy if self.evaluations else None)
        self._warn_of_truncation(metrics.values["completions/clipped_ratio"])
        if due(state.step, self.config.show_every) and (group := teaching_group(groups)):
            self.console.group(group)
        more: dict[str, float] = {
            "epoch": state.cursor / self.num_problems,
            "num_tokens": self.num_tokens,
            "extra_groups": len(dropped),
        }
        if (last or due(state.step, self.config.eval_every)) and self._evaluate:
            more["eval/accuracy"] = self.evaluate(state.step).accuracy
        append_lines(self.folder / "metrics.jsonl", [{"step": state.step, **metrics.values, **more}])
        append_lines(self.folder / "rollouts.jsonl", rollout_lines(state.step, groups, dropped))
        if last or due(state.step, self.config.save_every):
            self._save(self.folder / self.config.weights_folder)

    def _warn_of_truncation(self, share: float) -> None:
        if share > 0.5 and not self._warned:
            self._warned = True
            self.console.say(
                f"warning: {share:.0%} of the answers reached max_new_tokens={self.config.max_new_tokens} without "
                "ending, so they can hardly be right; raise max_new_tokens"
            )

    def say(self, text: str) -> None:
        """Show a line."""
        self.console.say(text)

    def keep(self, name: str, text: str) -> None:
        """Show a text, and keep it in the folder."""
        self.console.say(text)
        (self.folder / name).write_text(text + "\n", encoding="utf-8")

    def evaluate(self, step: int) -> Evaluation:
        """Answer the held-out problems and keep the answers."""
        assert self._evaluate is not None
        start = time.perf_counter()
        result = self._evaluate()
        self.evaluations.append(result)
        lines = [
            {
                "step": step,
                "problem": a.problem.id,
                "correct": a.correct,
                "text": a.text,
                "tokens": a.tokens,
                "cut": a.cut,
            }
            for a in result.answered
        ]
        append_lines(self.folder / "eval.jsonl", lines)
        self.console.say(
            f"held-out accuracy at step {step}: {result.accuracy:.3f} "
            f"({sum(result.correct)} of {len(result.answered)} problems, {time.perf_counter() - start:.0f} s)"
        )
        return result


def due(step: int, every: int) -> bool:
    """Whether something that happens every so many steps happens now; never when `every` is 0."""
    return every > 0 and step % every == 0


def claim_folder(config: Config) -> Path:
    """The run's own new folder.

    Raises:
        UserError: `output_dir` already holds a run.
    """
    if config.output_dir is None:
        stem = re.sub(r"[^\w.-]+", "-", Path(config.data).stem) if config.data else "run"
        number = 1
        while (folder := Path("runs") / f"{stem}-{number}").exists():
            number += 1
    else:
        folder = Path(config.output_dir)
        if (folder / "config.yaml").exists():
            raise UserError(f'output_dir="{folder}": already holds a run; give another folder, or remove that one')
    folder.mkdir(parents=True, exist_ok=True)
    return folder
