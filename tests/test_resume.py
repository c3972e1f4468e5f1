"""A run that was stopped goes on as if it never had been: to the last bit, from every checkpoint."""

import builtins
import json
import os
import pickle
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tiny
from grpocket import GRPO, UserError
from grpocket.cli import main
from grpocket.model.embedded import EMBEDDED_FILE
from grpocket.settings import from_values, read_yaml
from grpocket.tasks.rewards import Rewards

PAIRS = [(f"What is {n} + {n + 1}?", str(2 * n + 1)) for n in range(14)]
STEPS = 6
SETTINGS = {
    "steps": STEPS,
    "group_size": 3,
    "prompts_per_step": 2,
    "extra_groups": 2,
    "num_updates": 2,
    "num_minibatches": 2,
    "max_new_tokens": 8,
    "learning_rate": 1e-2,
    "warmup_steps": 1,
    "schedule": "cosine",
    "lora_rank": 2,
    "held_out": 4,
    "eval_every": 2,
    "save_every": 1,
    "keep_checkpoints": 99,
    "show_every": 0,
}
CLOCKS = {"step_time", "tokens_per_second", "rollout_seconds", "score_seconds", "learn_seconds"}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty folder to work in, where the embedded model is the tiny one."""
    monkeypatch.setenv("GRPOCKET_CACHE", str(tmp_path / "cache"))
    tiny.save_model(tmp_path / "cache" / EMBEDDED_FILE.removesuffix(".gguf"))
    lines = [json.dumps({"question": question, "answer": answer}) for question, answer in PAIRS]
    (tmp_path / "math_tasks.jsonl").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def paid_for_digits(trainer: GRPO) -> GRPO:
    """A reward that a random model earns now and then, so that groups with and without signal occur."""
    trainer.rewards = Rewards({"digit": (lambda completion, answer: float(any(c in "0123" for c in completion)), 1.0)})
    return trainer


def train(folder: Path, **changes) -> GRPO:
    trainer = paid_for_digits(GRPO(**(SETTINGS | {"output_dir": str(folder)} | changes)))
    trainer.train("math_tasks.jsonl")
    return trainer


def go_on(folder: Path, **options) -> GRPO:
    trainer = paid_for_digits(GRPO.resume(folder, **options))
    trainer.train("math_tasks.jsonl")
    return trainer


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().split("\n")[:-1]]


def tensors(folder: Path) -> dict[str, bytes]:
    """Every tensor in a folder, by file and name, as its bytes."""
    return {
        f"{file.name}:{name}": tensor.numpy().tobytes()
        for file in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(file).items()
    }


def record(folder: Path) -> dict:
    """All that is left of a run, apart from what the clock said."""
    newest = max((folder / "checkpoints").iterdir())
    state = json.loads((newest / "state.json").read_text())
    return {
        "weights": tensors(folder / from_values(read_yaml(folder / "config.yaml")).weights_folder),
        "checkpoint": tensors(newest),
        "state": state,
        "metrics": [{k: v for k, v in row.items() if k not in CLOCKS} for row in rows(folder / "metrics.jsonl")],
        "rollouts": (folder / "rollouts.jsonl").read_bytes(),
        "eval": (folder / "eval.jsonl").read_bytes(),
    }


def assert_same(one: dict, other: dict) -> None:
    for name in one:
        assert one[name] == other[name], name


def test_the_same_seed_is_the_same_run_to_the_last_bit(home):
    train(home / "a")
    train(home / "b")
    train(home / "c", seed=1)
    assert_same(record(home / "a"), record(home / "b"))
    assert record(home / "a")["rollouts"] != record(home / "c")["rollouts"]
    learned = record(home / "a")["metrics"]
    assert sum(row["extra_groups"] for row in learned) > 0
    assert any(row["grad_norm"] > 0 for row in learned)
    assert [row["step"] for row in learned if "eval/accuracy" in row] == [2, 4, 6]


@pytest.mark.parametrize("lora_rank", [2, 0])
def test_resumed_at_any_step_it_equals_the_run_that_never_stopped(home, lora_rank):
    trainer = train(home / "whole", lora_rank=lora_rank)
    whole = record(home / "whole")
    for step in range(STEPS + 1):
        run = shutil.copytree(home / "whole", home / f"stopped-{step}")
        shutil.rmtree(run / ("adapter" if lora_rank else "model"))
        for later in (run / "checkpoints").iterdir():
            if int(later.name) > step:
                shutil.rmtree(later)
        with (run / "metrics.jsonl").open("a") as file:
            file.write('{"step": 7, "rew')  # killed while it was writing
        again = go_on(run)
        assert_same(whole, record(run))
        assert (again.step_count, again.state) == (STEPS, trainer.state)


def test_every_problem_is_drawn_exactly_once_an_epoch(home):
    with pytest.raises(ZeroDivisionError):
        stopping_after(3, home / "run")
    go_on(home / "run")
    drawn = [row["question"] for row in rows(home / "run" / "rollouts.jsonl")[::3]]
    size = len(PAIRS) - SETTINGS["held_out"]
    assert len(drawn) > size
    for start in range(0, len(drawn) - size + 1, size):
        assert len(set(drawn[start : start + size])) == size
    assert json.loads((max((home / "run/checkpoints").iterdir()) / "state.json").read_text())["cursor"] == len(drawn)


def stopping_after(step: int, folder: Path, **changes) -> None:
    """A run whose reward function fails after so many steps."""
    trainer = GRPO(**(SETTINGS | {"output_dir": str(folder)} | changes))
    paid_for_digits(trainer)
    real = trainer.rewards.score
    trainer.rewards.score = lambda problem, text: (
        1 / 0 if (folder / "checkpoints" / f"{step:06d}").exists() else real(problem, text)
    )
    trainer.train("math_tasks.jsonl")


def test_the_evaluation_before_training_is_remembered(home):
    trainer = paid_for_digits(GRPO(**(SETTINGS | {"output_dir": "whole"})))
    whole = trainer.train("math_tasks.jsonl")
    with pytest.raises(ZeroDivisionError):
        stopping_after(3, home / "run")
    result = paid_for_digits(GRPO.resume("run")).train("math_tasks.jsonl")
    assert (result.before, result.after) == (whole.before, whole.after)


def test_an_unfinished_run_can_be_asked_at_its_newest_checkpoint(home, capsys):
    with pytest.raises(ZeroDivisionError):
        stopping_after(2, home / "run")
    asked = GRPO.from_run("run")
    assert "not finished; these are its weights after step 2" in capsys.readouterr().out
    assert asked.sample("What is 1 + 1?") == GRPO.resume("run").sample("What is 1 + 1?")


# What is refused, and what is said


def test_settings_that_change_what_is_computed_need_a_word(home, capsys):
    with pytest.raises(ZeroDivisionError):
        stopping_after(2, home / "run")
    with pytest.raises(UserError, match=r"temperature was 1.0 and is now 0.9. .*--allow-changes"):
        GRPO.resume("run", temperature=0.9, show_every=1)
    with pytest.raises(UserError, match="steps was 6 and is now 7"):  # the schedule is a cosine
        GRPO.resume("run", steps=7)
    with pytest.raises(UserError, match="did you mean temperature"):
        GRPO.resume("run", temprature=0.9)
    capsys.readouterr()
    assert GRPO.resume("run", save_every=3).config.save_every == 3
    assert capsys.readouterr().out == "changed: save_every was 1 and is now 3\n"
    assert go_on(home / "run", steps=3, allow_changes=True).step_count == 3
    assert read_yaml(home / "run" / "config.yaml")["steps"] == 3


def test_a_constant_rate_lets_a_finished_run_go_on(home, capsys):
    train(home / "run", schedule="constant", steps=2)
    train(home / "whole", schedule="constant", steps=4)
    go_on(home / "run", steps=4)
    assert_same(record(home / "whole"), record(home / "run"))


def test_other_problems_are_refused(home):
    with pytest.raises(ZeroDivisionError):
        stopping_after(2, home / "run")
    text = (home / "math_tasks.jsonl").read_text()
    (home / "math_tasks.jsonl").write_text(text.replace('"3"', '"4"'))
    with pytest.raises(UserError, match="not the problems that the run began with"):
        go_on(home / "run")
    (home / "math_tasks.jsonl").unlink()
    (home / "moved.jsonl").write_text(text)
    paid_for_digits(GRPO.resume("run")).train("moved.jsonl")


def test_another_number_of_threads_is_told_and_not_used(home, capsys):
    with pytest.raises(ZeroDivisionError):
        stopping_after(2, home / "run")
    torch.set_num_threads(2)
    GRPO.resume("run")
    assert torch.get_num_threads() == 1
    assert "warning: 1 threads instead of 2" in capsys.readouterr().out
    GRPO.resume("run", threads=2)
    assert torch.get_num_threads() == 2


def test_a_torn_newest_checkpoint_falls_back_with_a_warning(home, capsys):
    train(home / "whole")
    run = shutil.copytree(home / "whole", home / "run")
    file = run / "checkpoints" / "000006" / "optimizer.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    go_on(run)
    assert "000006 is not used: 'optimizer.safetensors' is not what was written" in capsys.readouterr().out
    assert_same(record(home / "whole"), record(run))


def test_a_state_that_is_none_is_named(home):
    train(home / "run", steps=1)
    folder = home / "run" / "checkpoints" / "000001"
    (folder / "state.json").write_text('{"step": "many"}')
    manifest = json.loads((folder / "manifest.json").read_text())
    from grpocket.learn.checkpoint import described

    manifest["files"]["state.json"] = described(folder / "state.json")
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"state\.json: is not the state of a run"):
        GRPO.resume("run")


def test_a_full_disk_ends_the_run_by_one_line_and_it_goes_on_later(home, monkeypatch, capsys):
    """The limit is the system's own, so what native code writes meets it too."""
    resource = pytest.importorskip("resource")
    flags = ["--steps", "3", "--group_size", "2", "--prompts_per_step", "2", "--max_new_tokens", "6", "--held_out", "2"]
    flags += ["--lora_rank", "2", "--save_every", "1"]
    assert main(["train", "math_tasks.jsonl", *flags, "--output_dir", "whole"]) == 0
    sizes = sorted({f.stat().st_size for f in (home / "whole" / "checkpoints").rglob("*") if f.is_file()})
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    monkeypatch.setattr(signal, "signal", signal.signal)
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    for at, size in enumerate(size for size in sizes if size > 2000):  # the logs are smaller
        capsys.readouterr()
        resource.setrlimit(resource.RLIMIT_FSIZE, (size - 1, old[1]))
        try:
            assert main(["train", "math_tasks.jsonl", *flags, "--output_dir", f"run{at}"]) == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, old)
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert f"--resume run{at}" in err
        assert not list((home / f"run{at}").rglob("*.tmp"))
        assert main(["train", "--resume", f"run{at}"]) == 0
        assert_same(record(home / "whole"), record(home / f"run{at}"))


def test_the_command_line_goes_on_too(home, capsys):
    flags = ["--steps", "2", "--group_size", "2", "--prompts_per_step", "2", "--max_new_tokens", "6", "--held_out", "2"]
    assert main(["train", "math_tasks.jsonl", *flags, "--lora_rank", "2", "--output_dir", "run"]) == 0
    capsys.readouterr()
    assert main(["train", "math_tasks.jsonl", *flags, "--output_dir", "run"]) == 2
    assert "go on with it by --resume run, or give another output_dir" in capsys.readouterr().err
    assert main(["train", "--resume", "run"]) == 0
    assert "all 2 steps of this run are done; give it more by --steps" in capsys.readouterr().out
    assert main(["train", "--resume", "run", "--steps", "3", "--show-every", "0"]) == 0
    out = capsys.readouterr().out
    assert "changed: steps was 2 and is now 3" in out
    assert "changed: show_every was 5 and is now 0" in out
    assert "step 3/3" in out
    assert [row["step"] for row in rows(home / "run" / "metrics.jsonl")] == [1, 2, 3]
    for wrong, reason in (
        (["--resume", "nowhere"], "nowhere"),
        (["--resume", "run", "--group_size", "4"], "group_size was 2 and is now 4"),
        (["--resume", "run", "--config", "run/config.yaml"], "leave out --config"),
        (["--resume"], "--resume needs a value"),
    ):
        assert main(["train", *wrong]) == 2
        assert reason in capsys.readouterr().err


# Signals

SCRIPT = """
import sys, time
sys.path.insert(0, {tests!r})
from pathlib import Path
import torch
from test_resume import SETTINGS, paid_for_digits
from grpocket import GRPO

torch.set_num_threads(1)
run = Path("run")
settings = SETTINGS | {{"output_dir": "run", "save_every": 4, "keep_checkpoints": 2}}
trainer = paid_for_digits(GRPO.resume(run) if (run / "config.yaml").exists() else GRPO(**settings))
slow = trainer.engine.generate
trainer.engine.generate = lambda *a: time.sleep(0.05) or slow(*a)
print("ready", flush=True)
trainer.train("math_tasks.jsonl")
"""


def start(home: Path) -> subprocess.Popen:
    script = SCRIPT.format(tests=str(Path(__file__).parent))
    process = subprocess.Popen(
        [sys.executable, "-c", script], cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("numbers", [(signal.SIGTERM, signal.SIGINT), (signal.SIGKILL,)])
def test_stopped_again_and_again_at_random_moments_it_is_the_same_run(home, numbers):
    train(home / "whole")
    moments = random.Random(4)
    stops = []
    for _ in range(60):
        process = start(home)
        number = moments.choice(numbers)
        try:
            out, err = process.communicate(timeout=moments.uniform(0.05, 0.8))
        except subprocess.TimeoutExpired:
            process.send_signal(number)
            out, err = process.communicate(timeout=60)
        if process.returncode == 0:
            break
        stops.append(process.returncode)
        if number == signal.SIGKILL:
            assert process.returncode == -9
        elif "stopped after" in out:  # otherwise it came before the run began
            assert process.returncode in (143, -signal.SIGINT, 130, 1)
            assert "go on: grpocket train --resume run" in out
            newest = max((home / "run" / "checkpoints").glob("??????"))
            assert f"stopped after step {int(newest.name)} of {STEPS}" in out
    print(len(stops))
    assert_same(record(home / "whole"), record(home / "run"))
