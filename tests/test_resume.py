"""A run that was stopped goes on as if it never had been: to the last bit, from every checkpoint."""

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import tiny
from grpocket import GRPO, UserError, run
from grpocket.cli import main
from grpocket.learn import loop, update
from grpocket.learn.batch import Budget
from grpocket.model.embedded import EMBEDDED_FILE
from grpocket.records import StoppedError
from grpocket.settings import from_values, read_yaml
from grpocket.tasks.scoring import Rewards

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
    "preflight": False,
    "keep_checkpoints": 99,
    "show_every": 0,
}
CLOCKS = {"step_time", "tokens_per_second", "rollout_seconds", "score_seconds", "learn_seconds", "memory/peak_mb"}


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty folder to work in, where the embedded model is the tiny one."""
    monkeypatch.setenv("GRPOCKET_CACHE", str(tmp_path / "cache"))
    tiny.save_model(tmp_path / "cache" / EMBEDDED_FILE.removesuffix(".gguf"))
    lines = [json.dumps({"question": question, "answer": answer}) for question, answer in PAIRS]
    (tmp_path / "math_tasks.jsonl").write_text("\n".join(lines))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def digits(*_) -> Rewards:
    """Rewards that a random model earns now and then, so that groups with and without signal occur."""
    return Rewards({"digit": (lambda completion, answer: float(any(c in "0123" for c in completion)), 1.0)})


def paid_for_digits(trainer: GRPO) -> GRPO:
    trainer.rewards = digits()
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


@pytest.mark.parametrize(("lora_rank", "steps"), [(2, range(STEPS + 1)), (0, (0, 3, STEPS))])
def test_resumed_at_any_step_it_equals_the_run_that_never_stopped(home, lora_rank, steps):
    trainer = train(home / "whole", lora_rank=lora_rank)
    whole = record(home / "whole")
    for step in steps:
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
    trainer.rewards.score = lambda samples: (
        1 / 0 if (folder / "checkpoints" / f"{step:06d}").exists() else real(samples)
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


@pytest.mark.parametrize(("at", "newest"), [(1, 3), (2, 2), (4, 2)])
def test_an_update_that_breaks_off_in_the_middle_is_not_saved_as_a_whole_step(home, at, newest, monkeypatch, capsys):
    train(home / "whole")
    real, calls = update.whole_gradient, []

    def fourth_step_fails(*arguments):
        calls.append(1)
        if len(calls) == 3 * 4 + at:  # 4 optimizer steps a step
            raise StoppedError("out of memory")
        return real(*arguments)

    monkeypatch.setattr(update, "whole_gradient", fourth_step_fails)
    with pytest.raises(StoppedError):
        train(home / "run", save_every=2)
    monkeypatch.undo()
    monkeypatch.chdir(home)
    monkeypatch.setenv("GRPOCKET_CACHE", str(home / "cache"))
    assert max(folder.name for folder in (home / "run/checkpoints").iterdir()) == f"{newest:06d}"
    assert ("in the middle of an update" in capsys.readouterr().out) == (at > 1)
    go_on(home / "run")
    assert_same(record(home / "whole"), record(home / "run"))


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


def flags(**changes) -> list[str]:
    """The settings as they are typed."""
    return [f"--{name}={value}" for name, value in (SETTINGS | changes).items()]


def test_stopped_again_and_again_at_random_moments_it_is_the_same_run(home):
    train(home / "whole", save_every=4)
    script = Path(__file__).parent / "stop_runs.py"
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGKILL)
    command = [sys.executable, str(script), "4", *(str(int(number)) for number in numbers)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=home)
    assert done.returncode == 0, done.stderr
    stops = json.loads(done.stdout)
    saved = [(number, code) for number, code, said in stops if "go on: grpocket train --resume run" in said]
    assert all(code == 128 + number for number, code in saved)
    assert len(stops) >= 4
    assert saved
    assert_same(record(home / "whole"), record(home / "run"))


PHASES = {"sampling": 3, "scoring": 3, "updating": 4, "writing": 3, "evaluating": 3}
"""The steps that are done when a signal came in that phase, after the results of step 3 were written."""


def signalled(phase: str, monkeypatch, *numbers: int) -> tuple[GRPO, list[str]]:
    """A run that gets signals when the phase begins for the first time after step 3; what was ended after that."""
    trainer = paid_for_digits(GRPO(**(SETTINGS | {"output_dir": "run", "save_every": 0, "eval_every": 3})))
    ended = []
    waiting = list(numbers)

    def watched(name, real):
        def call(*arguments, **options):
            begun = Path("run/metrics.jsonl").exists() and len(rows(Path("run/metrics.jsonl"))) == 3
            if begun and name == phase:
                while waiting:
                    os.kill(os.getpid(), waiting.pop(0))
            result = real(*arguments, **options)
            ended.extend([name] if not waiting else [])
            return result

        return call

    monkeypatch.setattr(trainer.engine, "generate", watched("sampling", trainer.engine.generate))
    monkeypatch.setattr(trainer.rewards, "score", watched("scoring", trainer.rewards.score))
    monkeypatch.setattr("grpocket.learn.loop.learn", watched("updating", loop.learn))
    monkeypatch.setattr("grpocket.run.append_lines", watched("writing", run.append_lines))
    monkeypatch.setattr(trainer, "evaluate", watched("evaluating", trainer.evaluate))
    return trainer, ended


@pytest.mark.parametrize(
    ("phase", "number"), [*((phase, signal.SIGTERM) for phase in PHASES), ("updating", signal.SIGINT)]
)
def test_a_signal_saves_and_stops_without_waiting_for_what_can_be_done_again(home, monkeypatch, capsys, phase, number):
    train(home / "whole", save_every=0, eval_every=3)
    before = signal.getsignal(number)
    trainer, ended = signalled(phase, monkeypatch, number)
    with pytest.raises(SystemExit if number == signal.SIGTERM else KeyboardInterrupt) as stopped:
        trainer.train("math_tasks.jsonl")
    assert number == signal.SIGINT or stopped.value.code == 143
    assert signal.getsignal(number) is before
    assert ended == {"updating": ["updating", "writing", "writing"], "writing": ["writing"]}.get(phase, [])
    assert trainer.step_count == PHASES[phase]
    assert f"stopped after step {PHASES[phase]} of 6; go on: grpocket train --resume run" in capsys.readouterr().out
    assert [folder.name for folder in (home / "run/checkpoints").iterdir()] == [f"{PHASES[phase]:06d}"]
    monkeypatch.undo()
    monkeypatch.setenv("GRPOCKET_CACHE", str(home / "cache"))
    monkeypatch.chdir(home)
    go_on(home / "run")
    assert_same(record(home / "whole"), record(home / "run"))


def test_a_second_signal_ends_at_once(home, monkeypatch):
    trainer, ended = signalled("updating", monkeypatch, signal.SIGINT, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        trainer.train("math_tasks.jsonl")
    assert ended == []  # the update was not finished
    assert not (home / "run" / "checkpoints").exists()


def test_signals_are_left_alone_outside_the_main_thread(home):
    trainer = paid_for_digits(GRPO(**(SETTINGS | {"output_dir": "run", "steps": 1})))
    thread = threading.Thread(target=trainer.train, args=("math_tasks.jsonl",))
    thread.start()
    thread.join()
    assert trainer.step_count == 1


# Nothing hostile, nothing secret


def test_a_run_is_trained_saved_and_resumed_without_pickle_and_tells_no_secrets(home, monkeypatch):
    def refused(*arguments, **options):
        raise AssertionError("a pickle was read or written")

    for name in ("load", "loads", "dump", "dumps", "Unpickler", "Pickler"):
        monkeypatch.setattr(pickle, name, refused)
    monkeypatch.setattr(torch, "load", refused)
    monkeypatch.setattr(torch, "save", refused)
    secrets = {"HF_TOKEN": "hf_canaryOne", "WANDB_API_KEY": "canaryTwo", "HUGGING_FACE_HUB_TOKEN": "canaryThree"}
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ZeroDivisionError):
        stopping_after(2, home / "run")
    go_on(home / "run")
    GRPO.from_run("run")
    files = [path for path in (home / "run").rglob("*") if path.is_file()]
    assert len(files) > 20
    for path in files:
        assert path.suffix in (".safetensors", ".json", ".jsonl", ".yaml", ".txt", ".md", ".jinja", ".html"), path
        assert not any(value.encode() in path.read_bytes() for value in secrets.values()), path


@pytest.mark.parametrize("name", ["model", "data", "eval_data", "output_dir"])
def test_a_url_with_a_password_is_refused_and_not_repeated(name):
    with pytest.raises(UserError, match=f"{name}: is a URL with a password") as caught:
        GRPO(**{name: "https://someone:canary@example.org/a/b"})
    assert "canary" not in str(caught.value)


def test_a_pickle_in_place_of_an_adapter_is_not_read(home):
    train(home / "run", steps=1)
    for path in (home / "run" / "checkpoints").iterdir():
        shutil.rmtree(path)
    adapter = home / "run" / "adapter"
    (adapter / "adapter_model.safetensors").rename(adapter / "adapter_model.bin")
    with pytest.raises(UserError, match="holds no trained weights"):
        GRPO.from_run("run")


def test_a_model_that_brings_its_own_code_is_refused_in_one_line(home):
    folder = tiny.save_model(home / "model")
    config = json.loads((folder / "config.json").read_text())
    for model_type in ("llama", "homemade"):
        changes = {"model_type": model_type, "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}
        (folder / "config.json").write_text(json.dumps(config | changes))
        (folder / "code.py").write_text(f"open({str(home / 'marker')!r}, 'w')")
        with pytest.raises(UserError, match="cannot be loaded") as caught:
            GRPO(model=str(folder))
        assert "\n" not in str(caught.value)
        assert not (home / "marker").exists()


def test_what_was_chosen_for_the_machine_is_chosen_again(home):
    trainer = paid_for_digits(GRPO(**(SETTINGS | {"output_dir": "done"})))
    trainer.policy.budget, trainer.engine.row_budget = Budget(40, 64), 6  # as after a shortage of memory
    trainer.train("math_tasks.jsonl")
    resumed = GRPO.resume("done")
    assert (resumed.policy.budget, resumed.engine.row_budget) == (Budget(40, 64), 6)
    other = GRPO.resume("done", token_budget=100, row_budget=3)
    assert (other.policy.budget, other.engine.row_budget) == (Budget(100, 100), 3)
