"""A run's folder: what is kept of it, and what is shown while it goes on.

runs/NAME/
    objective.txt    what is optimised, in words and one formula
    environment.json versions and machine
    config.yaml      every setting; `grpocket train --config` repeats the run
    metrics.jsonl    one line a step
    rollouts.jsonl   one line an answer
    eval.jsonl       one line a held-out problem and evaluation
    checkpoints/     the newest ones; `grpocket train --resume runs/NAME` goes on from there
    adapter/         what was learned, in PEFT's format, once the run is done
    report.html      all of this on one page

A step is kept before it is evaluated, so that an evaluation that was interrupted costs no step.
"""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

from safetensors import SafetensorError

from . import memory
from .config import Config
from .evaluate.accuracy import Evaluation
from .learn import checkpoint
from .learn.policy import Policy
from .records import Group, StoppedError, TrainState, UserError
from .report.console import Console, printable, teaching_group
from .report.diagnose import Finding, Watch, diagnose
from .report.environment import environment
from .report.metrics import append_lines, evaluation_lines, rollout_lines, step_metrics
from .report.pace import Pace
from .report.page import write_report
from .report.run_files import read_run
from .report.trackers import open_tracker
from .resume import Standing, amend
from .signals import Heed, Interrupted


class RunFolder:
    """Keeps and shows one run."""

    def __init__(
        self,
        config: Config,
        standing: Standing,
        evaluations: dict[int, Evaluation],
        policy: Policy,
        num_problems: int,
        evaluate: Callable[[], Evaluation] | None,
        machine: Callable[[], Mapping[str, int]],
    ) -> None:
        self.config = config
        self.standing = standing
        self.evaluations = evaluations
        self.folder = standing.folder
        self.num_problems = num_problems
        self.console = Console(config.steps)
        self.pace = Pace()
        self.tracker = open_tracker(config.track, self.folder.name, asdict(config))
        self._policy = policy
        self._moves = policy.moves  # as of the last whole step
        self._evaluate = evaluate
        self._machine = machine
        self._watch = Watch(asdict(config))
        self._seconds: dict[str, float] = {}
        self._heed = Heed()
        checkpoint.replace_text(self.folder / "config.yaml", config.to_yaml())

    @contextmanager
    def _kept_whole(self) -> Iterator[None]:
        try:
            with self._heed.signals():
                yield
        except Interrupted as asked:
            self._leave(str(asked))
            if asked.number == signal.SIGTERM:
                raise SystemExit(128 + asked.number) from None
            raise
        except StoppedError:
            self._leave("error")
            raise

    def _leave(self, why: str) -> None:
        step, steps = self.standing.state.step, self.config.steps
        stopped = f"{why}: stopped after step {step} of {steps}"
        if self._policy.moves == self._moves:
            self.checkpoint()
        else:  # the weights are those of no step, and the newest checkpoint is what there is
            stopped += ", in the middle of an update; what came after the last checkpoint is done again"
        self.say(f"{stopped}; go on: grpocket train --resume {self.folder}")

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Inside, the run is shown, and saved by whatever ends it; afterwards the tracker is closed.

        SIGTERM ends it with exit code 143, Ctrl-C with KeyboardInterrupt.
        """
        try:
            with self.console.live(), self._kept_whole():
                yield
        finally:
            self.tracker.finish()

    def start(self) -> TrainState:
        """Where to go on, after the evaluation that is due there."""
        if self.standing.state.step:
            self._watch.catch_up(read_run(self.folder))
        self._evaluate_when_due()
        return self.standing.state

    @contextmanager
    def timer(self, name: str) -> Iterator[None]:
        """Add the time spent inside to this step's `NAME_seconds`."""
        start = time.perf_counter()
        with self._heed.phase(droppable=name != "learn"):
            yield
        self._seconds[name] = self._seconds.get(name, 0.0) + time.perf_counter() - start

    def log(
        self, state: TrainState, groups: Sequence[Group], dropped: Sequence[Group], update: Mapping[str, float]
    ) -> None:
        """Keep and show a finished step; save and evaluate where that is due."""
        held = {**update, "memory/peak_mb": memory.peak() / 1e6}
        metrics = step_metrics(state.step, [*groups, *dropped], held, self._seconds)
        self._seconds = {}
        num_tokens = self.standing.num_tokens + int(metrics.values["num_tokens"])
        self.standing = replace(self.standing, state=state, num_tokens=num_tokens, checkpoint=None)
        self._moves = self._policy.moves
        latest = next(reversed(self.evaluations.values()), None)
        self.pace.step(metrics.values["step_time"])
        evaluations = self.config.evaluations_after(state.step) if self._evaluate else 0
        left = self.pace.left(self.config.steps - state.step, evaluations)
        self.console.step(metrics, latest.accuracy if latest else None, left)
        if due(state.step, self.config.show_every) and (group := teaching_group(groups)):
            self.console.group(group)
        more: dict[str, float] = {
            "epoch": state.cursor / self.num_problems,
            "num_tokens": num_tokens,
            "extra_groups": len(dropped),
        }
        line, answers = {"step": state.step, **metrics.values, **more}, rollout_lines(state.step, groups, dropped)
        append_lines(self.folder / "metrics.jsonl", [line])
        append_lines(self.folder / "rollouts.jsonl", answers)
        self.tracker.log(state.step, {**metrics.values, **more})
        self.tell(self._watch.step(line, answers))
        if state.step == self.config.steps or due(state.step, self.config.save_every):
            self.checkpoint()
        self._evaluate_when_due()

    def checkpoint(self) -> None:
        """Write a checkpoint of where the run stands, unless there is one."""
        if self.standing.checkpoint is None:
            root, needed = self.folder / "checkpoints", self._policy.checkpoint_bytes
            step, keep = self.standing.state.step, self.config.keep_checkpoints
            self._written(lambda: checkpoint.write(root, step, self._fill, needed, keep))
            self.standing = replace(self.standing, checkpoint=root / f"{step:06d}")

    def _fill(self, folder: Path) -> None:
        self._policy.save_weights(folder)
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's model card, which is for people
        self._policy.save_optimizer(folder / "optimizer.safetensors")
        (folder / "state.json").write_text(self.standing.to_json(self._machine()), encoding="utf-8")

    def _written(self, write: Callable[[], object]) -> None:
        """Call what writes; say what to do where it can't."""
        try:
            write()
        except (OSError, SafetensorError) as error:
            raise UserError(
                f"{self.folder}: could not be written to ({error}); about {self._policy.checkpoint_bytes:,} bytes "
                f"are needed. Make room, then: grpocket train --resume {self.folder}"
            ) from None

    def _evaluate_when_due(self) -> None:
        step = self.standing.state.step
        if self._evaluate and step not in self.evaluations and self.config.evaluates_at(step):
            self.evaluate(step)

    def finish(self) -> None:
        """Put what was learned where people look for it, say what is wrong if anything is, and write the report."""
        needed = self._policy.checkpoint_bytes
        self._written(lambda: checkpoint.place(self.folder / self.config.weights_folder, self._policy.save, needed))
        findings = diagnose(read_run(self.folder))
        self.tell(findings)
        if not findings:
            self.say("diagnosis: nothing wrong found")
        self._written(lambda: write_report(self.folder))
        self.say(f"report: {self.folder / 'report.html'}")

    def tell(self, findings: Sequence[Finding]) -> None:
        """Show what was found, as its lines: what a model wrote in it can't move the cursor."""
        for line in (line for finding in findings for line in str(finding).splitlines()):
            self.say(printable(line))

    def say(self, text: str) -> None:
        """Show a line."""
        self.console.say(text)

    def keep(self, name: str, text: str) -> None:
        """Show a text, and keep it in the folder."""
        self.console.say(text)
        checkpoint.replace_text(self.folder / name, text + "\n")

    def keep_environment(self, device: str) -> None:
        """Write down versions and machine."""
        checkpoint.replace_text(self.folder / "environment.json", json.dumps(environment(device), indent=1) + "\n")

    def evaluate(self, step: int) -> Evaluation:
        """Answer the held-out problems and keep the answers."""
        assert self._evaluate is not None
        start = time.perf_counter()
        with self._heed.phase(droppable=True):
            result = self._evaluate()
        self.pace.evaluation(time.perf_counter() - start)
        self.evaluations[step] = result
        lines = evaluation_lines(step, result)
        amend(self.folder / "metrics.jsonl", step, {"eval/accuracy": result.accuracy})
        self.tracker.log(step, {"eval/accuracy": result.accuracy})
        append_lines(self.folder / "eval.jsonl", lines)
        self._watch.evaluated(lines)
        self.console.say(
            f"held-out accuracy at step {step}: {result.accuracy:.3f} "
            f"({sum(result.correct)} of {len(result.answered)} problems, {time.perf_counter() - start:.0f} s)"
        )
        return result


class LastStep:
    """A log of a single step that keeps nothing on disk."""

    update: Mapping[str, float]

    def timer(self, name: str) -> nullcontext[None]:
        """Times nothing."""
        return nullcontext()

    def say(self, text: str) -> None:
        """Shows a line."""
        print(text)

    def log(
        self, state: TrainState, groups: Sequence[Group], dropped: Sequence[Group], update: Mapping[str, float]
    ) -> None:
        """Keeps what the update said."""
        self.update = update


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
            raise UserError(
                f'output_dir="{folder}": already holds a run; go on with it by --resume {folder}, '
                "or give another output_dir"
            )
    folder.mkdir(parents=True, exist_ok=True)
    return folder
