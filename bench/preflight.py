"""Is what the preflight foretells what happens? Worst-case memory against a run at full length, time against the demo.

    python bench/preflight.py

Each part is a process of its own, since a process keeps the memory it has had. The memory run samples without stop
tokens; the time is what is foretold at the start, and again after a tenth of the steps.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

DEMO: dict[str, Any] = {"max_new_tokens": 48, "steps": 16, "extra_groups": 4, "learning_rate": 2e-4}


def main() -> None:
    folder = Path(tempfile.mkdtemp())
    command = [sys.executable, "-m", "grpocket", "data", "arithmetic", "--num", "600", "--terms", "3"]
    text = subprocess.run([*command, "--operators", "+"], check=True, capture_output=True, text=True).stdout
    (folder / "sums.jsonl").write_text(text, encoding="utf-8")
    told, full, demo = (json.loads(child(part, folder)) for part in ("foretell", "full", "demo"))
    print("| what | foretold | happened | ratio |\n|---|---|---|---|")
    row("peak memory at full length, GB", told["memory"] / 1e9, full["memory"] / 1e9)
    row("seconds of the run, before it", told["run_seconds"], demo["seconds"])
    row("seconds of the run, after a tenth", demo["revised"], demo["seconds"])
    print(f"the preflight took {told['seconds']:.0f} s")


def row(name: str, foretold: float, happened: float) -> None:
    print(f"| {name} | {foretold:.1f} | {happened:.1f} | {foretold / happened:.2f} |")


def child(part: str, folder: Path) -> str:
    command = [sys.executable, __file__, part, str(folder)]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]


def foretell(folder: Path) -> dict[str, float]:
    from grpocket import GRPO, MathDataset, preflight
    from grpocket.learn.preflight import Rehearsal

    found: list[Rehearsal] = []
    rehearse = preflight.rehearse
    preflight.rehearse = lambda *arguments: found.append(rehearse(*arguments)) or found[-1]
    trainer = GRPO(**DEMO)
    start = time.perf_counter()
    trainer.preflight(MathDataset(folder / "sums.jsonl"))
    seconds = time.perf_counter() - start
    return {"memory": found[0].memory, "run_seconds": found[0].run_seconds, "seconds": seconds}


def full(folder: Path) -> dict[str, float]:
    """Two steps in which no token ends an answer and every group has signal."""
    from grpocket import GRPO, MathDataset, memory
    from grpocket.tasks.scoring import Rewards

    trainer = GRPO(**(DEMO | {"steps": 2, "preflight": False, "held_out": 0, "output_dir": str(folder / "full")}))
    trainer.policy.sampling = replace(trainer.policy.sampling, stop_ids=())
    trainer.rewards = Rewards({"even": (lambda completion, answer: float(hash(completion) % 2), 1.0)})
    memory.reset_peak()
    trainer.train(MathDataset(folder / "sums.jsonl"))
    return {"memory": memory.peak()}


def demo(folder: Path) -> dict[str, float]:
    """The demo's steps and evaluations; what was foretold after a tenth of them."""
    from grpocket import GRPO, MathDataset
    from grpocket.run import RunFolder

    trainer = GRPO(**(DEMO | {"preflight": False, "output_dir": str(folder / "demo")}))
    tenth, revised, begun = math.ceil(DEMO["steps"] / 10), [], []
    start, log = RunFolder.start, RunFolder.log

    def timed_start(run: RunFolder) -> Any:
        begun.append(time.perf_counter())
        return start(run)

    def timed_log(run: RunFolder, state: Any, *step: Any) -> None:
        log(run, state, *step)
        if state.step == tenth:
            spent = time.perf_counter() - begun[0]
            revised.append(spent + run.pace.left(DEMO["steps"] - tenth, run.config.evaluations_after(tenth)))

    RunFolder.start, RunFolder.log = timed_start, timed_log
    trainer.train(MathDataset(folder / "sums.jsonl"))
    return {"seconds": time.perf_counter() - begun[0], "revised": revised[0]}


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        part = {"foretell": foretell, "full": full, "demo": demo}[sys.argv[1]]
        print(json.dumps(part(Path(sys.argv[2]))))
