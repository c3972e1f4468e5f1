"""Stops a run at random moments, again and again, until it is done.

    python stop_runs.py SEED SIGNAL ...  ->  a JSON list of [signal, exit code, what was printed]

Every part of the run is a process of its own, made by fork, so that torch is imported only once.
"""

import json
import os
import random
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch

from grpocket.cli import main
from grpocket.engine.engine import Engine
from grpocket.trainer import GRPO
from test_resume import flags, paid_for_digits

torch.set_num_threads(1)
real_init, real_generate = GRPO.__init__, Engine.generate


def init(self, *arguments, **settings):
    real_init(self, *arguments, **settings)
    paid_for_digits(self)


def generate(self, *arguments):
    time.sleep(0.03)  # so that sampling takes its usual share
    return real_generate(self, *arguments)


def run() -> None:
    """Begin or go on with the run, as from a shell."""
    GRPO.__init__, Engine.generate = init, generate
    resumed = Path("run/config.yaml").exists()
    arguments = ["--resume", "run"] if resumed else ["math_tasks.jsonl", *flags(output_dir="run", save_every=2)]
    with open("said", "w") as said, redirect_stdout(said), redirect_stderr(said):
        code = 1
        try:
            code = main(["train", *arguments])
        except SystemExit as error:
            code = error.code
        finally:
            said.flush()
            os._exit(code)


moments = random.Random(int(sys.argv[1]))
stops = []
patience = 0.4
while not stops or stops[-1][1] != 0:
    patience *= 1.2  # a slow machine gets there too
    if (pid := os.fork()) == 0:
        run()
    number = int(moments.choice(sys.argv[2:]))
    time.sleep(moments.uniform(0.5, 1) * patience)
    os.kill(pid, number)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    stops.append([number, code, Path("said").read_text()])
print(json.dumps(stops))
