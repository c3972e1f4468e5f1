"""Does a run that is disturbed again and again come to what it would have come to in peace?

    python bench/soak.py [--steps 200] [--minutes 30] [--seed 0]

A tiny random model is trained once undisturbed, and once for each way to disturb a run: kill -9, SIGTERM and Ctrl-C,
a full disk, rewards that raise and hang, memory that runs out. Whenever a process ends it is resumed by another, from
the command line, until the run is done. Then everything that is left of it, apart from times, is compared byte by byte
with what is left of the run in peace; where memory ran out the work was cut otherwise, so that sums were rounded
otherwise, and the largest difference of a weight is given instead. The full disk is a limit on the size of files that
the system puts on the running process. Linux only. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

SETTINGS = """\
{model: model, lora_rank: 32, examples: 0, max_new_tokens: 8, group_size: 4, prompts_per_step: 2, extra_groups: 2,
 num_updates: 2, num_minibatches: 2, learning_rate: 0.0001, schedule: cosine, reward_timeout: 1, held_out: 4,
 eval_every: 20, save_every: 5, show_every: 0, preflight: false, threads: 1}
"""
REWARDS = '''
import time
import zlib


def chance(completion):
    """Nothing that can be learned, so that there is as much to learn at the end as at the beginning."""
    return float(zlib.crc32(completion.encode()) % 4 == 0)


def faulty(completion):
    """The same, but for some texts it raises, and for others it hangs."""
    number = zlib.crc32(completion.encode()) // 4 % 256
    while number == 0:
        time.sleep(1)
    if number < 20:
        raise ValueError(completion)
    return chance(completion)
'''
HEADER = 10
"""About so many lines are said before the first step of a process."""
OUT_OF_MEMORY = "soak: out of memory"
MOST_PROCESSES = 200


class Chain(NamedTuple):
    """The processes of one run."""

    folder: Path
    codes: list[int]
    said: list[str]
    seconds: float


class Disturbance(NamedTuple):
    """One way to disturb a run."""

    name: str
    codes: tuple[int, ...]
    """The exit codes that its processes may have, beside 0."""
    disturb: Callable[[subprocess.Popen[str], random.Random], None] | None = None
    reward: str = "chance"
    starved: bool = False
    """Whether its processes run the command line by `starve`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=30, help="for all; runs in time trouble end undisturbed")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    deadline = time.monotonic() + 60 * options.minutes
    home = Path(tempfile.mkdtemp(prefix="soak-"))
    prepare(home)
    rng = random.Random(options.seed)
    peace = {r: run(home, Disturbance("peace", (), None, r), options.steps, rng, 0) for r in ("chance", "faulty")}
    print(f"| {' | '.join(COLUMNS)} |\n|{'---|' * len(COLUMNS)}", flush=True)
    table = []
    for at, disturbance in enumerate(DISTURBANCES):
        calm = peace[disturbance.reward].seconds / 2  # by then a part of the steps is done
        share = (deadline - time.monotonic()) / (len(DISTURBANCES) - at) - calm
        done = run(home, disturbance, options.steps, rng, share)
        figures = (
            disturbance.name,
            survived(disturbance, done),
            len(done.codes),
            verdict(disturbance, peace[disturbance.reward].folder, done.folder),
            f"{done.seconds / 60:.1f}",
        )
        table.append(dict(zip(COLUMNS, figures, strict=True)))
        print(f"| {' | '.join(map(str, figures))} |", flush=True)
    print(json.dumps(table))


COLUMNS = ("disturbance", "survived", "processes", "equal to the run in peace", "minutes")


def prepare(home: Path) -> None:
    """The model, the problems and the rewards, as files."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import tiny
    from grpocket.tasks.arithmetic import generate

    tiny.save_model(home / "model")
    (home / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in generate(100)), encoding="utf-8")
    (home / "settings.yaml").write_text(SETTINGS, encoding="utf-8")
    (home / "rewards.py").write_text(REWARDS, encoding="utf-8")


# Disturbing


def run(home: Path, disturbance: Disturbance, steps: int, rng: random.Random, seconds: float) -> Chain:
    """A run from its beginning to its end, disturbed again and again as long as there is time for it."""
    folder = home / f"run-{len(list(home.glob('run-*')))}"
    start, codes, said = time.monotonic(), [], []
    while not codes or codes[-1] != 0:
        flags = (f"--steps={steps}", f"--rewards=rewards.py:{disturbance.reward}", "--reward_weights=1")
        anew = ("sums.jsonl", "--config=settings.yaml", f"--output_dir={folder.name}", *flags)
        arguments = ("--resume", folder.name) if (folder / "config.yaml").exists() else anew
        in_time = time.monotonic() - start < seconds
        program = [__file__, "starve", str(rng.random())] if disturbance.starved and in_time else ["-m", "grpocket"]
        command = [sys.executable, *program, "train", *arguments]
        process = subprocess.Popen(command, cwd=home, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        moment = rng.randrange(HEADER + steps // 6) if disturbance.disturb and in_time else None
        lines = []
        for at, line in enumerate(chain([""], process.stdout or ())):
            lines.append(line)
            if disturbance.disturb and at == moment:
                time.sleep(rng.uniform(0, 1))
                disturbance.disturb(process, rng)
        codes.append(process.wait())
        said += lines
        if codes[-1] not in (0, *disturbance.codes) or len(codes) == MOST_PROCESSES:
            sys.exit(f"{disturbance.name}: process {len(codes)} ended with {codes[-1]}, having said\n{''.join(lines)}")
    return Chain(folder, codes, said, time.monotonic() - start)


def kill(process: subprocess.Popen[str], rng: random.Random) -> None:
    process.kill()


def interrupt(process: subprocess.Popen[str], rng: random.Random) -> None:
    process.send_signal(rng.choice((signal.SIGTERM, signal.SIGINT)))


def fill_the_disk(process: subprocess.Popen[str], rng: random.Random) -> None:
    """From now on no file of the process grows beyond a random size, which the optimizer's exceeds in any case."""
    with suppress(ProcessLookupError):  # the run is done
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (rng.randrange(500_000), resource.RLIM_INFINITY))


def starve(seed: str, arguments: list[str]) -> int:
    """The command line, in a process whose memory runs out now and then: while it samples, weighs, or goes back."""
    import torch

    from grpocket import GRPO
    from grpocket.cli import main as command_line
    from grpocket.engine.engine import Engine
    from grpocket.learn.policy import Policy

    rng = random.Random(seed)
    hidden, logprobs, check = Engine._hidden, Policy.logprobs, GRPO.check

    def run_out(*_: Any) -> NoReturn:
        print(OUT_OF_MEMORY, flush=True)
        raise torch.OutOfMemoryError

    def scarce_hidden(self: Engine, *arguments: Any) -> torch.Tensor:
        return run_out() if rng.random() < 1 / 400 else hidden(self, *arguments)

    def scarce_logprobs(self: Policy, *arguments: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if rng.random() < 1 / 100:
            run_out()
        logprobs_T, entropy_T = logprobs(self, *arguments, **options)
        if rng.random() < 1 / 100:
            logprobs_T.register_hook(run_out)
        return logprobs_T, entropy_T

    def check_and_begin(self: GRPO, *arguments: Any) -> str:
        found = check(self, *arguments)
        Engine._hidden, Policy.logprobs = scarce_hidden, scarce_logprobs
        return found

    GRPO.check = check_and_begin
    return command_line(arguments)


DISTURBANCES = (
    Disturbance("kill -9", (-signal.SIGKILL,), kill),
    Disturbance("SIGTERM, Ctrl-C", (143, 130, -signal.SIGTERM, -signal.SIGINT), interrupt),
    Disturbance("full disk", (2,), fill_the_disk),
    Disturbance("rewards that raise and hang, kill -9", (-signal.SIGKILL,), kill, "faulty"),
    Disturbance("out of memory", (2,), starved=True),
)
"""A signal that comes before the run has begun ends it as it ends any program."""


# Comparing


def survived(disturbance: Disturbance, done: Chain) -> str:
    """What happened how often."""
    found = Counter(f"exit code {code}" if code > 0 else signal.Signals(-code).name for code in done.codes if code)
    if disturbance.starved:
        found["out of memory"] = sum(line.startswith(OUT_OF_MEMORY) for line in done.said)
    for row in rows(done.folder / "metrics.jsonl"):
        for kind in ("errors", "timeouts"):
            found[kind] += row[f"rewards/{disturbance.reward}/{kind}"]
    return ", ".join(f"{count} {what}" for what, count in found.items() if count)


def verdict(disturbance: Disturbance, peace: Path, folder: Path) -> str:
    """Whether two runs left the same; where memory ran out, how far their weights are apart."""
    if disturbance.starved:
        return apart(peace, folder)
    one, other = left(peace), left(folder)
    different = [name for name in one.keys() | other.keys() if one.get(name) != other.get(name)]
    return f"NO: {', '.join(sorted(different))}" if different else "yes, bitwise"


def left(folder: Path) -> dict[str, Any]:
    """All that is left of a run, apart from times, memory and earlier checkpoints; files as bytes."""
    newest = max((folder / "checkpoints").iterdir())
    tensors = [*(folder / "adapter").glob("*.safetensors"), *newest.glob("*.safetensors")]
    files = [*tensors, newest / "state.json", folder / "rollouts.jsonl", folder / "eval.jsonl"]
    found: dict[str, Any] = {str(file.relative_to(folder)): file.read_bytes() for file in files}
    for row in rows(folder / "metrics.jsonl"):
        found |= {f"{name} of step {row['step']}": row[name] for name in row if not VARYING.fullmatch(name)}
    return found


VARYING = re.compile("step_time|.*_seconds|tokens_per_second|memory/.*")


def apart(one: Path, other: Path) -> str:
    """The largest difference of a weight, beside the largest weight of those that began at 0; and the answers."""
    from safetensors.torch import load_file

    weights, others = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (one, other))
    largest = max((weights[name] - others[name]).abs().max().item() for name in weights)
    moved = max(weights[name].abs().max().item() for name in weights if "lora_B" in name)
    texts, other_texts = ([row["text"] for row in rows(folder / "rollouts.jsonl")] for folder in (one, other))
    same = sum(map(str.__eq__, texts, other_texts))
    return f"within {largest:.0e} of {moved:.2f}, {same} of {len(texts)} answers the same"


def rows(path: Path) -> Iterator[dict[str, Any]]:
    return map(json.loads, path.read_text(encoding="utf-8").splitlines())


if __name__ == "__main__":
    if sys.argv[1:2] == ["starve"]:
        sys.exit(starve(sys.argv[2], sys.argv[3:]))
    main()
