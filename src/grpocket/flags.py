"""What stands behind `grpocket train` -> a Config: flags, TRL's names, lists, presets, another run's file, help.

jsonargparse turns texts into values; what is here is how people write them and what they are told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from jsonargparse import ArgumentError, ArgumentParser

from .config import Config
from .records import UserError
from .settings import PRESETS, from_values, preset, read_yaml

EVERYDAY = (
    *("model", "eval_data", "output_dir", "seed", "steps", "prompts_per_step", "group_size", "max_new_tokens"),
    *("temperature", "examples", "rewards", "reward_weights", "loss", "learning_rate", "lora_rank"),
    *("eval_every", "show_every"),
)
"""The settings that `--help` shows; `--help-all` shows every one."""

ALIASES = {
    "num_generations": "group_size",
    "max_completion_length": "max_new_tokens",
    "beta": "kl_coef",
    "num_iterations": "num_updates",
    "epsilon": "clip_low",
    "epsilon_high": "clip_high",
    "reward_funcs": "rewards",
    "reward": "rewards",
    "report_to": "track",
}
"""Names that TRL uses for the same thing; and one is a reward."""


class Parser(ArgumentParser):
    """Says a mistake in one line, with the nearest name that exists."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Exit with code 2."""
        raise UserError(" ".join(str(message).split()))


class TrainCommand(NamedTuple):
    """What stands behind `grpocket train`."""

    config: Config
    resume: str | None
    """The folder of the run to go on with; `config` is then its settings and what was given beside them."""
    allow_changes: bool


def parse_train(arguments: list[str]) -> TrainCommand:
    """The settings that the command line gives, and which run they are for."""
    arguments = [normalise(argument) for argument in arguments]
    if "--help" in arguments or "-h" in arguments or "--help_all" in arguments:
        print(train_help(everything="--help_all" in arguments), end="")
        raise SystemExit(0)
    if arguments and not arguments[0].startswith("-"):
        arguments = ["--data", *arguments]
    check_names(arguments)
    allow_changes = "--allow_changes" in arguments
    arguments = [argument for argument in arguments if argument != "--allow_changes"]
    arguments, folder = taken(arguments, "resume")
    arguments, file = taken(arguments, "config")
    if folder is not None:
        if file is not None:
            raise UserError(f"train: --resume {folder} takes the settings of that run; leave out --config")
        file = str(Path(folder, "config.yaml"))
    arguments, name = taken(arguments, "preset")
    parser = Parser(exit_on_error=False)
    parser.add_class_arguments(Config)
    parser.set_defaults(defaults(file, name))
    try:
        values = parser.parse_args(listed(arguments)).as_dict()
    except ArgumentError as error:
        raise UserError(f"train: {' '.join(str(error).split())}") from None
    return TrainCommand(from_values({f.name: values[f.name] for f in fields(Config)}), folder, allow_changes)


def taken(arguments: list[str], name: str) -> tuple[list[str], str | None]:
    """The arguments without --name and its value, and that value."""
    for at, argument in enumerate(arguments):
        if argument.startswith(f"--{name}="):
            return arguments[:at] + arguments[at + 1 :], argument.partition("=")[2]
        if argument == f"--{name}":
            if at + 1 == len(arguments):
                raise UserError(f"train: --{name} needs a value")
            return arguments[:at] + arguments[at + 2 :], arguments[at + 1]
    return arguments, None


def defaults(file: str | None, name: str | None) -> dict[str, Any]:
    """What flags win over: first the settings of a file, then, winning over those, a preset given as a flag."""
    values = read_yaml(Path(file)) if file else {}
    chosen = preset(name)
    if name:
        print(f"preset {name}: " + ", ".join(f"{key}={value}" for key, value in chosen.items()))
    config = from_values({**values, **chosen})
    return {f.name: getattr(config, f.name) for f in fields(Config)}


def normalise(argument: str) -> str:
    """--group-size is --group_size, and TRL's names are ours where they mean the same."""
    if not argument.startswith("--"):
        return argument
    name, equals, value = argument[2:].partition("=")
    name = name.replace("-", "_")
    return f"--{ALIASES.get(name, name)}{equals}{value}"


def check_names(arguments: Sequence[str]) -> None:
    """Refuse a flag that is no setting, with the nearest that is."""
    names = [*(f.name for f in fields(Config)), "config", "preset", "resume", "allow_changes", *ALIASES]
    for argument in arguments:
        name = argument[2:].partition("=")[0]
        if argument.startswith("--") and name not in names:
            near = get_close_matches(name, names, n=1)
            hint = f"; did you mean --{near[0]}?" if near else "; `grpocket train --help-all` lists every setting"
            raise UserError(f"train: there is no setting --{name}{hint}")


def listed(arguments: Sequence[str]) -> list[str]:
    """`--rewards a b`, `--rewards a,b` and `--rewards a --rewards b` as the parser wants lists: `--rewards [a,b]`."""
    lists: dict[str, list[str]] = {f"--{f.name}": [] for f in fields(Config) if str(f.type).startswith("tuple")}
    found: list[str] = []
    into = found
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name in lists:
            into = lists[name]
            into += [value.strip("[]")] if equals else []
        elif argument.startswith("--"):
            into = found
            into.append(argument)
        else:
            into.append(argument if into is found else argument.strip("[]"))
    return [*found, *(part for name, values in lists.items() if values for part in (name, f"[{','.join(values)}]"))]


def train_help(everything: bool) -> str:
    """The settings with what they mean, everyday ones or all of them."""
    import docstring_parser

    described = {p.arg_name: p.description or "" for p in docstring_parser.parse_from_object(Config).params}
    shown = [f for f in fields(Config) if everything or f.name in EVERYDAY]
    lines = ["usage: grpocket train DATA.jsonl [--SETTING VALUE ...]", ""]
    for f in shown:
        default = "" if f.default in (None, "") or len(str(f.default)) > 40 else f" [{_shown(f.default)}]"
        lines += [f"  --{f.name}{default}", f"      {described[f.name]}"]
    lines += ["", "  --preset NAME", f"      The settings of a paper: {', '.join(PRESETS)}; flags win over them."]
    lines += ["  --config FILE", "      Take the settings of another run from its config.yaml; flags win over them."]
    lines += [
        "  --resume RUN",
        "      Go on with a run that was stopped; changes given beside it are listed.",
    ]
    lines += ["  --allow-changes", "      Go on although settings or problems change what is computed."]
    if not everything:
        lines += ["", "--help-all lists every setting."]
    return "\n".join(lines) + "\n"


def _shown(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, tuple) else str(value)
