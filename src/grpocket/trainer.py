"""The Python front door: a model, and what can be done with it.

from grpocket import GRPO, MathDataset

trainer = GRPO(group_size=8)
trainer.train(MathDataset("math_tasks.jsonl"))
print(trainer.sample("What is 3 + 4?"))
trainer.save("adapter")
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from .config import Config
from .engine.engine import Engine, choose_row_budget
from .evaluate.accuracy import Evaluation, evaluate
from .evaluate.intervals import Interval, paired_difference
from .evaluate.samples import Sampled, evaluate_samples
from .learn import loop
from .learn.batch import Budget
from .learn.checkpoint import newest
from .learn.objective import describe
from .learn.policy import Policy
from .learn.selfcheck import bound, self_check
from .model.loading import load, use_threads
from .preflight import look_ahead
from .records import Problem, Prompt, TrainState, UserError
from .report.trackers import find_package
from .resume import Standing, changed_settings, check_data, cut_back, fingerprint, stood
from .run import LastStep, RunFolder, claim_folder
from .settings import from_values, read_yaml
from .tasks.dataset import MathDataset
from .tasks.draw import draw, overlap, split
from .tasks.formats import form
from .tasks.prompts import PromptStyle, opening, render, render_text
from .tasks.rewards import RewardCallable, correctness
from .tasks.scoring import Rewards, name_of

Data = str | Path | MathDataset | Iterable[tuple[str, str]] | Sequence[Problem]


@dataclass(frozen=True, slots=True)
class Result:
    """What a run came to.

    >>> Result(folder=Path("runs/math_tasks-1"), before=None, after=None)
    """

    folder: Path
    before: Evaluation | None
    """Held-out problems before training; None when none were held out."""
    after: Evaluation | None

    @property
    def difference(self) -> Interval | None:
        """Accuracy after minus before on the same problems, with its 95 % interval."""
        if self.before is None or self.after is None:
            return None
        return paired_difference(self.before.correct, self.after.correct)


class GRPO:
    """A language model that learns by Group Relative Policy Optimization.

    Takes every field of `Config` by name: `GRPO(model="...", group_size=8)`. Without a model it is the
    embedded one. Among `rewards` functions may be given as they are: `GRPO(rewards=["format", my_function], ...)`.

    Raises:
        UserError: a setting or a model that will not do, in one line.
    """

    def __init__(self, config: Config | None = None, **settings: Any) -> None:
        named = dict(map(name_of, settings.get("rewards", ())))
        settings |= {"rewards": tuple(named)} if named else {}
        self._functions = {name: function for name, function in named.items() if function}
        self.config = config = from_values(settings) if config is None else replace(config, **settings)
        use_threads(config.threads)
        self.form = form(config.answer_format)
        style = PromptStyle(config.system_prompt, config.examples, config.prefill_think, self.form)
        loaded = load(config)
        prompt = functools.partial(render, tokenizer=loaded.tokenizer, style=style)
        begun = opening(render_text(as_problem("?", "", "opening"), loaded.tokenizer, style), self.form)
        self.policy = Policy(loaded, prompt, begun, config)
        network = self.policy.network
        self.engine = Engine(network, config.row_budget or choose_row_budget(network, self.policy.sampling))
        self.state = TrainState(config.seed)
        self._checked = False
        self._stopped: Standing | None = None
        self._allow_changes = False

    @classmethod
    def from_run(cls, folder: str | Path, **settings: Any) -> GRPO:
        """The trained model of a run, with the run's settings.

        Raises:
            UserError: the folder holds no run, or one that has kept no weights yet.
        """
        folder = Path(folder)
        config = from_values(read_yaml(folder / "config.yaml") | settings)
        weights = folder / config.weights_folder
        if not any(weights.glob("*.safetensors")):
            found = newest(folder / "checkpoints", warn=print)
            if found is None:
                raise UserError(f"{folder}: holds no trained weights yet; let the run finish, or train again")
            print(f"{folder}: the run has not finished; these are its weights after step {int(found.name)}")
            weights = found
        trainer = cls(config)
        trainer.policy.network.keep_untrained()
        trainer.policy.load(weights)
        return trainer

    @classmethod
    def resume(cls, folder: str | Path, allow_changes: bool = False, **settings: Any) -> GRPO:
        """A run that was stopped, as it stood at its newest checkpoint: `train` it with the same data to go on.

        Stopped and resumed it comes to the same as if it had never been stopped, to the last bit on the same
        machine, unless `settings` are changed. Those that change what is computed need `allow_changes`.

        Raises:
            UserError: no run is there, a change was not allowed, or no checkpoint can be used.
        """
        folder = Path(folder)
        trainer = cls(changed_settings(folder, settings, allow_changes))
        trainer._stopped = standing = stood(folder, trainer.config)
        trainer._allow_changes = allow_changes
        trainer.state = standing.state
        if standing.checkpoint:
            trainer.policy.load(standing.checkpoint)
            trainer.policy.load_optimizer(standing.checkpoint / "optimizer.safetensors")
            machine = standing.machine
            trainer.engine.row_budget = trainer.config.row_budget or machine["rows"]
            if trainer.config.token_budget is None:
                trainer.policy.budget = Budget(machine["enough"], machine["limit"])
        return trainer

    @functools.cached_property
    def rewards(self) -> Rewards:
        """What answers earn. Made when it is first needed: sampling and evaluating do without."""
        return rewards_of(self.config, self._functions)

    @property
    def step_count(self) -> int:
        """Steps taken."""
        return self.state.step

    @property
    def model(self) -> Any:
        """The model that is trained: a PeftModel, or with lora_rank=0 the transformers model itself."""
        return self.policy.network.model

    def train_step(self, question: str, answer: str) -> float:
        """Sample a group of answers to one question, score them and learn from them.

        Returns:
            The loss. On fresh samples it is about 0 whatever happens: the reward tells whether the model
            gets better, and a negative loss does not.
        """
        problem = as_problem(question, answer, f"step:{self.step_count}")
        self.check([problem])
        self.rewards.check([problem])
        config = replace(self.config, prompts_per_step=1, num_minibatches=1, extra_groups=0, schedule="constant")
        step = LastStep()
        setup = loop.Setup(
            config, self.policy, self.engine, self.rewards.score, lambda _, s: [(s.cursor, problem)], step
        )
        self.state = loop.train_step(setup, self.state)
        return step.update["loss"]

    def train(self, data: Data | None = None, eval_data: Data | None = None) -> Result:
        """Train on `data` for `config.steps` steps, and evaluate on what was held out, before and after.

        A run of its own: it counts its steps from 0 and keeps them in a folder of its own. Only after `resume`
        it is the run that was stopped. SIGTERM and Ctrl-C save it first, and then end it.

        Args:
            data: by default the file that the setting `data` names.
            eval_data: by default that of `eval_data`, or what is held out of `data`.
        """
        data = self.config.data if data is None else data
        if data is None:
            raise UserError("train: name the problems, as `trainer.train(data)` or by the setting data")
        find_package(self.config.track)  # refused before anything is spent
        data = as_problems(data, self.config)
        train, held = self.split(data, eval_data or self.config.eval_data)
        rehearsal = self.config.preflight and self.config.steps > 0 and self._stopped is None
        found = look_ahead(self, data, train, held, rehearsal)
        run = self.open_run(train, held)
        run.say(self.announce(train, held))
        dtype = str(self.policy.network.head.weight.dtype).removeprefix("torch.")
        run.keep("objective.txt", describe(self.config, dtype))
        run.keep_environment(str(self.policy.network.device))
        run.say(found)
        draw_next = functools.partial(draw, train)
        setup = loop.Setup(self.config, self.policy, self.engine, self.rewards.score, draw_next, run)
        try:
            with run.opened(), closing(self.rewards):
                loop.train(setup, run.start())
                run.finish()
        finally:
            self.state = run.standing.state
        evaluations = list(run.evaluations.values())
        before, after = (evaluations[0], evaluations[-1]) if evaluations else (None, None)
        return Result(run.folder, before, after)

    def open_run(self, train: Sequence[Problem], held: Sequence[Problem]) -> RunFolder:
        """The folder of a new run; or that of the stopped one, its logs cut back to where it goes on."""
        data = fingerprint(train, held)
        evaluations: dict[int, Evaluation] = {}
        if (standing := self._stopped) is None:
            standing = Standing(claim_folder(self.config), TrainState(self.config.seed), data=data)
        else:
            same = check_data(standing, data, self._allow_changes)
            evaluations = cut_back(standing.folder, standing.state.step, held if same else ())
        self._stopped = None
        evaluate = functools.partial(self.evaluate, held) if held else None
        standing = replace(standing, data=data)
        return RunFolder(self.config, standing, evaluations, self.policy, len(train), evaluate, self.machine)

    def machine(self) -> dict[str, int]:
        """What was chosen for the machine, by its memory and cores, and decides the last bits of sums."""
        chosen = {"threads": torch.get_num_threads(), "rows": self.engine.row_budget}
        return chosen | self.policy.budget._asdict()

    def preflight(self, data: Data, eval_data: Data | None = None) -> str:
        """What training on `data` would meet and take, found out without changing anything.

        Raises:
            UserError: prompts, log-probs or memory will not do.
        """
        problems = as_problems(data, self.config)
        train, held = self.split(problems, eval_data or self.config.eval_data)
        with closing(self.rewards):
            return look_ahead(self, problems, train, held, rehearsal=True)

    def check(self, problems: Sequence[Problem]) -> str:
        """Compare sampler, trainer and the model's own forward, once; what was found, in one line.

        Where the sampler turns out to be exact, `correction` is switched off: it would only cost a forward.

        Raises:
            UserError: they differ by more than rounding, and no correction was asked for.
        """
        if self._checked:
            return "self-check: done before"
        difference = self_check(self.policy, self.engine, problems, corrected=self.config.correction)
        self._checked = True
        found = f"self-check: sampler and trainer differ by at most {difference:.1e} nats a token"
        if reason := self.policy.network.plain:
            found = f"the model is run on the plain path, which is slower: {reason}\n{found}"
        if self.config.correction and difference <= bound(self.policy):
            self.config = replace(self.config, correction=False)
            found += "; correction is switched off, as there is nothing to correct"
        return found

    def split(self, data: Data, eval_data: Data | None = None) -> tuple[Sequence[Problem], Sequence[Problem]]:
        """(train, held-out) problems; no text is on both sides."""
        problems = as_problems(data, self.config)
        if eval_data is None:
            return split(problems, min(self.config.held_out, len(problems) // 2), self.config.seed)
        held = as_problems(eval_data, self.config)
        if shared := overlap(problems, held):
            raise UserError(f"{shared} held-out problems are also in the training data; remove them from either")
        return problems, held

    def held_out(self) -> Sequence[Problem]:
        """The problems that a run with these settings does not train on.

        Raises:
            UserError: the settings name no data, or nothing is held out.
        """
        if self.config.data is None:
            raise UserError("the run was not given a file to train on; name problems: grpocket eval RUN --data FILE")
        _, held = self.split(self.config.data, self.config.eval_data)
        if not held:
            raise UserError("the run held no problems out; name some: grpocket eval RUN --data FILE")
        return held

    def announce(self, train: Sequence[Problem], held: Sequence[Problem]) -> str:
        """What is about to happen, for the top of the log."""
        c = self.config
        return (
            f"{c.model}: {len(train)} problems to train on, {len(held)} held out. "
            f"{c.steps} steps of {c.prompts_per_step} problems x {c.group_size} answers "
            f"of at most {c.max_new_tokens} tokens."
        )

    def evaluate(self, data: Data) -> Evaluation:
        """Greedy answers to every problem, compared exactly with the known ones."""
        problems = as_problems(data, self.config)
        correct = functools.partial(correctness, form=self.form)
        return evaluate(self.engine, problems, self.policy.render, self.policy.decode, self.policy.sampling, correct)

    def evaluate_samples(self, data: Data, samples: int) -> Sampled:
        """That many answers to every problem, sampled at temperature 1: pass@k and mean@k."""
        problems = as_problems(data, self.config)
        correct, policy = functools.partial(correctness, form=self.form), self.policy
        return evaluate_samples(self.engine, problems, policy.render, policy.decode, policy.sampling, samples, correct)

    def sample(self, question: str, base: bool = False, temperature: float = 0.0) -> str:
        """One answer to a question; greedy unless a temperature is given.

        Args:
            question: as text, without any template.
            base: answer as the model did before training.
            temperature: above 0, sample instead.
        """
        prompt = Prompt(self.policy.render(as_problem(question, "", "sample")), key=(self.config.seed, 0, 0))
        sampling = replace(self.policy.sampling, num_samples=1, temperature=temperature)
        with self.policy.network.untrained() if base else nullcontext():
            return self.policy.decode(self.engine.generate([prompt], sampling)[0][0].token_ids)

    def save(self, folder: str | Path) -> None:
        """Write the adapter in PEFT's format, or the whole model where every weight is trained, and the tokenizer."""
        self.policy.save(Path(folder))


GPRO = GRPO
"""The spelling that the original used."""


def rewards_of(config: Config, functions: Mapping[str, RewardCallable] | None = None) -> Rewards:
    """The rewards that the settings name; `functions` are those that only this process has.

    Raises:
        UserError: one of them can't be had or can't be called.
    """
    weights = dict(zip(config.rewards, config.reward_weights, strict=True))
    language = None if config.language == "auto" else config.language
    return Rewards.named(weights, language, config.reward_timeout, functions, form(config.answer_format))


def as_problem(question: str, answer: str, name: str) -> Problem:
    """A question as it is typed."""
    return Problem(name, ({"role": "user", "content": question},), answer)


def as_problems(data: Data, config: Config) -> tuple[Problem, ...]:
    """Problems out of a file's path, a MathDataset, (question, answer) pairs, or problems."""
    if isinstance(data, MathDataset):
        data = data.path if (config.max_terms or config.max_digits) else data.problems
    if isinstance(data, str | Path):
        return MathDataset(data, max_terms=config.max_terms, max_digits=config.max_digits).problems
    items = tuple(data)
    return tuple(p if isinstance(p, Problem) else as_problem(*p, f"pair:{at}") for at, p in enumerate(items, 1))
