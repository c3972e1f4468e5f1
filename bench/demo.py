"""Three seeds of `make demo`: accuracy on held-out problems before and after, and the time each took.

python bench/demo.py
"""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path

from grpocket.evaluate.intervals import paired_difference

SEEDS = (0, 1, 2)


def main() -> None:
    print("| seed | before | after | difference, 95 % interval | problems | time |\n|---|---|---|---|---|---|")
    for seed in SEEDS:
        folder = Path(f"runs/demo-{seed}-{int(time.time())}")
        start = time.perf_counter()
        command = ["make", "demo", f"SEED={seed}", f"DEMO_DIR={folder}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - start
        print(row(seed, folder, seconds), flush=True)


def row(seed: int, folder: Path, seconds: float) -> str:
    lines = [json.loads(line) for line in (folder / "eval.jsonl").read_text(encoding="utf-8").splitlines()]
    last = max(line["step"] for line in lines)
    before, after = ([line["correct"] for line in lines if line["step"] == step] for step in (0, last))
    difference = paired_difference(before, after)
    means = (sum(before) / len(before), sum(after) / len(after))
    return f"| {seed} | {means[0]:.3f} | {means[1]:.3f} | {difference} | {len(after)} | {seconds / 60:.1f} min |"


if __name__ == "__main__":
    main()
