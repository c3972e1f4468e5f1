"""The command line: `grpocket train | check | eval | sample | diagnose | report | rewards | data`.

A command is a function with a parser of its own. torch is imported only when a model is needed, so
that `--help` answers at once. A user's mistake is one line on stderr and exit code 2.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

from . import __version__
from .flags import Parser, TrainCommand, parse_train
from .records import UserError

if TYPE_CHECKING:
    from .evaluate.accuracy import Evaluation
    from .evaluate.samples import Sampled
    from .tasks.dataset import MathDataset

USAGE = """\
usage: grpocket COMMAND ...

Teach a language model to reason with GRPO, on the machine you have.

  train DATA.jsonl       train on questions with known answers
  train --resume RUN     go on with a run that was stopped
  check DATA.jsonl       what training on it would meet and take, without training
  eval RUN               base and trained model on the same problems
  sample "QUESTION"      what the base and the trained model answer
  diagnose RUN           why a run does not learn, by name
  report RUN [RUN ...]   a run as one page, or several side by side
  rewards                the built-in rewards, and how to write your own
  data arithmetic        make arithmetic problems, as JSONL

grpocket COMMAND --help tells more; --version prints the version.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, 2 for a user's mistake, 130 or 143 after Ctrl-C or SIGTERM."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    command = arguments[0] if arguments else "--help"
    try:
        if command in ("--help", "-h", "help"):
            print(USAGE, end="")
        elif command == "--version":
            print(f"grpocket {__version__}")
        else:
            find(command)(arguments[1:])
    except UserError as error:
        print(f"grpocket: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("grpocket: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of our output, `head` perhaps, has seen enough
        sys.stderr.close()
        return 0
    return 0


def find(command: str) -> Callable[[list[str]], None]:
    """The command's function."""
    if command not in COMMANDS:
        near = get_close_matches(command, COMMANDS, n=1)
        raise UserError(
            f'"{command}" is no command' + (f"; did you mean {near[0]}?" if near else f"; use {', '.join(COMMANDS)}")
        )
    return COMMANDS[command]


# train, check


def train(arguments: list[str]) -> None:
    """`grpocket train DATA.jsonl [--SETTING VALUE ...]`, or `grpocket train --resume RUN`"""
    command, data, held = prepare(arguments)
    config, folder, allow_changes = command
    if config.preflight and not folder:
        print("preflight: a minute at most; --preflight false leaves it out", flush=True)
    from .trainer import GRPO, rewards_of

    made = rewards_of(config)  # before the model as well
    trainer = GRPO.resume(folder, allow_changes, **vars(config)) if folder else GRPO(config)
    trainer.rewards = made
    if trainer.step_count >= config.steps > 0:
        print(f"all {config.steps} steps of this run are done; give it more by --steps")
    result = trainer.train(data, held)
    if result.before and result.after:
        print(f"held-out problems, greedy\n{compared(result.before, result.after)}")
    print(f'the run is in {result.folder}; try: grpocket sample "What is 3 + 4?" --run {result.folder}')


def check(arguments: list[str]) -> None:
    """`grpocket check DATA.jsonl [--SETTING VALUE ...]`"""
    command, data, held = prepare(arguments)
    from .trainer import GRPO, rewards_of

    made = rewards_of(command.config)
    trainer = GRPO(command.config)
    trainer.rewards = made
    print(trainer.preflight(data, held))


def prepare(arguments: list[str]) -> tuple[TrainCommand, MathDataset, MathDataset | None]:
    """Settings, data and held-out data. They are read before the model is loaded: a mistake shows at once."""
    command = parse_train(arguments)
    config = command.config
    if config.data is None:
        raise UserError("train: name a data set, such as `grpocket train math_tasks.jsonl`")
    from .tasks.dataset import MathDataset

    data = MathDataset(config.data, max_terms=config.max_terms, max_digits=config.max_digits)
    held = MathDataset(config.eval_data) if config.eval_data else None
    print(data.columns_taken)
    return command, data, held


# eval, sample


def evaluate(arguments: list[str]) -> None:
    """`grpocket eval RUN [--data HELDOUT.jsonl] [--samples K]`"""
    parser = Parser(prog="grpocket eval", description="Base and trained model on the same problems.")
    parser.add_argument("run", help="the folder of a run")
    parser.add_argument("--data", help="problems, as JSONL; without it, those the run held out")
    parser.add_argument("--limit", type=int, help="only the first so many problems")
    parser.add_argument("--samples", type=int, default=0, help="also sample so many answers to each: pass@k and mean@k")
    options = parser.parse_args(arguments)
    if options.samples < 0:
        raise UserError(f"--samples {options.samples}: give how many answers to sample to each problem, such as 8")
    from .tasks.dataset import MathDataset

    given = MathDataset(options.data).problems if options.data else None
    from .trainer import GRPO

    trainer = GRPO.from_run(options.run)
    data = (trainer.held_out() if given is None else given)[: options.limit]
    with trainer.policy.network.untrained():
        base = trainer.evaluate(data)
        base_samples = trainer.evaluate_samples(data, options.samples) if options.samples else None
    trained = trainer.evaluate(data)
    print(compared(base, trained))
    if base_samples:
        print(compared_samples(base_samples, trainer.evaluate_samples(data, options.samples), options.samples))


def compared(before: Evaluation, after: Evaluation) -> str:
    """Greedy accuracy of both, and what the difference is worth."""
    from .evaluate.intervals import mcnemar
    from .evaluate.verdict import verdict

    chance = f"McNemar's exact test: p = {mcnemar(before.correct, after.correct):.2g}"
    lines = [f"{name:8}{score(e)}" for name, e in (("base", before), ("trained", after))]
    return "\n".join([*lines, f"verdict: {verdict(before.correct, after.correct)} ({chance})"])


def compared_samples(before: Sampled, after: Sampled, samples: int) -> str:
    """mean@k, with the interval of the difference, and pass@k of both."""
    from .evaluate.intervals import bootstrap_difference

    steps = [k for k in (1 << at for at in range(samples.bit_length())) if k <= samples]
    lines = [f"at temperature 1, {samples} answers to each problem:"]
    for name, sampled in (("base", before), ("trained", after)):
        chances = "  ".join(f"pass@{k} {sampled.pass_at(k):.3f}" for k in sorted({*steps, samples}))
        lines.append(f"{name:8}mean@{samples} {sampled.mean:.3f}  {chances}")
    difference = bootstrap_difference(before.shares, after.shares)
    return "\n".join([*lines, f"difference of mean@{samples}: {difference} (95 % interval, bootstrap over problems)"])


def score(result: Evaluation) -> str:
    """Accuracy with its counts."""
    return f"{result.accuracy:.3f} ({sum(result.correct)} of {len(result.answered)})"


def sample(arguments: list[str]) -> None:
    """`grpocket sample "QUESTION" [--run RUN]`"""
    parser = Parser(prog="grpocket sample", description="What the base and the trained model answer, greedily.")
    parser.add_argument("question", help="the question, in quotes")
    parser.add_argument("--run", help="the folder of a run; without it, only the base model answers")
    parser.add_argument("--model", help="the base model, when there is no run")
    options = parser.parse_args(arguments)
    from .report.console import printable
    from .trainer import GRPO

    settings = {"model": options.model} if options.model else {}
    trainer = GRPO.from_run(options.run, **settings) if options.run else GRPO(**settings)
    print(f"base:    {printable(trainer.sample(options.question, base=True))}")
    if options.run:
        print(f"trained: {printable(trainer.sample(options.question))}")


# diagnose, report


def diagnose(arguments: list[str]) -> None:
    """`grpocket diagnose RUN`"""
    parser = Parser(prog="grpocket diagnose", description="What goes wrong in a run, with the evidence and a remedy.")
    parser.add_argument("run", help="the folder of a run, finished or not")
    options = parser.parse_args(arguments)
    from .report.console import printable
    from .report.diagnose import NAMES, history
    from .report.run_files import read_run

    run = read_run(options.run)
    findings = history(run)
    for finding in findings:
        for line in f"{finding}\n  {finding.when}".splitlines():
            print(printable(line))
    if not findings:
        print(f"nothing wrong found in {len(run.steps)} steps, {len(run.answers)} answers and their metrics.")
        print(f"looked for after every step: {', '.join(NAMES)}")


def report(arguments: list[str]) -> None:
    """`grpocket report RUN [RUN ...] [--watch]`"""
    parser = Parser(prog="grpocket report", description="One page that needs no network and no script.")
    parser.add_argument("runs", nargs="+", help="the folder of a run; several are laid side by side")
    parser.add_argument("--watch", action="store_true", help="write it again every few seconds until the run ends")
    options = parser.parse_args(arguments)
    from .report.page import REFRESH_SECONDS, write_comparison, write_report
    from .report.run_files import read_run

    if len(options.runs) > 1:
        if options.watch:
            raise UserError("--watch: follows one run; name one, or leave --watch out")
        print(write_comparison(options.runs, Path("comparison.html")))
        return
    print(write_report(options.runs[0], refresh=options.watch), flush=True)
    while options.watch and not read_run(options.runs[0]).is_finished:
        time.sleep(REFRESH_SECONDS)
        write_report(options.runs[0], refresh=True)


# rewards, data


def rewards(arguments: list[str]) -> None:
    """`grpocket rewards`"""
    parser = Parser(prog="grpocket rewards", description="The built-in rewards, and how to write your own.")
    parser.parse_args(arguments)
    from .tasks.rewards import REWARDS, WEIGHTS

    width = max(map(len, REWARDS))
    print(f"{'built in':{width}}  weight  what it pays")
    for name, function in REWARDS.items():
        pays = " ".join((function.__doc__ or "").split("\n\n")[0].split())
        print(f"{name:{width}}  {WEIGHTS.get(name, '-')!s:6}  {pays}")
    print(f"\n{OWN_REWARDS}", end="")


OWN_REWARDS = """\
Your own, with --reward my_rewards.py:score --reward_weights 1.0, in either form; both get any column they name:

  def score(completion, answer) -> float: ...          one answer; also question, prompt
  def score(prompts, completions, **columns) -> list: ...  TRL's form: all answers to one problem

A number for each answer, or None where there is nothing to say. docs/rewards.md tells how to write and test one.
"""


def data(arguments: list[str]) -> None:
    """`grpocket data arithmetic --num 600 > math_tasks.jsonl`"""
    parser = Parser(prog="grpocket data", description="Make problems, as JSONL on the standard output.")
    parser.add_argument("kind", choices=["arithmetic"], help="what to make")
    parser.add_argument("--num", type=int, default=600, help="how many")
    parser.add_argument("--seed", type=int, default=0, help="another seed, other problems")
    parser.add_argument("--terms", default="2-3", help="terms in a question, as 2 or 2-3")
    parser.add_argument("--digits", default="1", help="digits of a number, as 1 or 1-2")
    parser.add_argument("--operators", default="+-", help='any of + - *; "++--*" makes products rarer')
    options = parser.parse_args(arguments)
    from .tasks.arithmetic import generate

    rows = generate(
        options.num, options.seed, span("terms", options.terms), span("digits", options.digits), options.operators
    )
    for row in rows:
        print(json.dumps(row))


def span(name: str, text: str) -> tuple[int, int]:
    """ "2-3" -> (2, 3), "2" -> (2, 2)."""
    low, dash, high = str(text).partition("-")
    try:
        return int(low), int(high if dash else low)
    except ValueError:
        raise UserError(f'--{name} "{text}": give a number such as 2, or a range such as 2-3') from None


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "train": train,
    "check": check,
    "eval": evaluate,
    "sample": sample,
    "diagnose": diagnose,
    "report": report,
    "rewards": rewards,
    "data": data,
}

if __name__ == "__main__":
    sys.exit(main())
