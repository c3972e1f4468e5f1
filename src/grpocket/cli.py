"""The command line: `grpocket train | eval | sample | diagnose | report | data`.

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
from .flags import Parser, parse_train
from .records import UserError

if TYPE_CHECKING:
    from .evaluate.accuracy import Evaluation

USAGE = """\
usage: grpocket COMMAND ...

Teach a language model to reason with GRPO, on the machine you have.

  train DATA.jsonl       train on questions with known answers
  eval RUN [DATA.jsonl]  base and trained model on the same problems
  sample "QUESTION"      what the base and the trained model answer
  diagnose RUN           why a run does not learn, by name
  report RUN [RUN ...]   a run as one page, or several side by side
  data arithmetic        make arithmetic problems, as JSONL

grpocket COMMAND --help tells more; --version prints the version.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code is 0, or 2 for a user's mistake."""
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


# train


def train(arguments: list[str]) -> None:
    """`grpocket train DATA.jsonl [--SETTING VALUE ...]`"""
    config = parse_train(arguments)
    if config.data is None:
        raise UserError("train: name a data set, such as `grpocket train math_tasks.jsonl`")
    from .tasks.dataset import MathDataset

    # The data is read before the model is loaded: a mistake in it shows at once.
    data = MathDataset(config.data, max_terms=config.max_terms, max_digits=config.max_digits)
    held = MathDataset(config.eval_data) if config.eval_data else None
    print(data.columns_taken)
    from .trainer import GRPO

    result = GRPO(config).train(data, held)
    if result.before and result.after:
        print(f"held-out accuracy: {result.before.accuracy:.3f} before, {result.after.accuracy:.3f} after")
        print(f"difference on the same {len(result.after.answered)} problems: {result.difference} (95 % interval)")
    print(f'the run is in {result.folder}; try: grpocket sample "What is 3 + 4?" --run {result.folder}')


# eval, sample


def evaluate(arguments: list[str]) -> None:
    """`grpocket eval RUN [DATA.jsonl]`"""
    parser = Parser(prog="grpocket eval", description="Base and trained model, greedily, on the same problems.")
    parser.add_argument("run", help="the folder of a run")
    parser.add_argument("data", nargs="?", help="problems, as JSONL; without it, those the run held out")
    parser.add_argument("--limit", type=int, help="only the first so many problems")
    options = parser.parse_args(arguments)
    from .evaluate.intervals import paired_difference
    from .tasks.dataset import MathDataset

    given = MathDataset(options.data).problems if options.data else None
    from .trainer import GRPO

    trainer = GRPO.from_run(options.run)
    data = (trainer.held_out() if given is None else given)[: options.limit]
    with trainer.policy.network.untrained():
        base = trainer.evaluate(data)
    trained = trainer.evaluate(data)
    print(f"base    {score(base)}\ntrained {score(trained)}")
    print(f"difference on the same problems: {paired_difference(base.correct, trained.correct)} (95 % interval)")


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


# data


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
    "eval": evaluate,
    "sample": sample,
    "diagnose": diagnose,
    "report": report,
    "data": data,
}

if __name__ == "__main__":
    sys.exit(main())
