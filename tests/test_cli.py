"""The commands as a user types them, and what is said when they are typed wrong."""

import json
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
import yaml

import tiny
from grpocket import GRPO
from grpocket.cli import main
from grpocket.config import Config
from grpocket.model.embedded import EMBEDDED_FILE
from grpocket.records import UserError
from grpocket.settings import from_values, read_yaml


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty folder to work in, where the embedded model is the tiny one."""
    monkeypatch.setenv("GRPOCKET_CACHE", str(tmp_path / "cache"))
    tiny.save_model(tmp_path / "cache" / EMBEDDED_FILE.removesuffix(".gguf"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_data(folder: Path, rows: int = 24) -> None:
    lines = [json.dumps({"question": f"What is {n} + {n}?", "answer": str(2 * n)}) for n in range(rows)]
    (folder / "math_tasks.jsonl").write_text("\n".join(lines))


SMALL = ["--steps", "2", "--group-size", "2", "--prompts_per_step=2", "--max_new_tokens", "6", "--lora_rank", "2"]


def test_train_eval_and_sample(home, capsys):
    write_data(home)
    assert main(["train", "math_tasks.jsonl", *SMALL, "--output_dir", "runs/first", "--show_every", "1"]) == 0
    out = capsys.readouterr().out
    assert "24 problems" in out
    assert "held-out accuracy at step 0" in out
    assert "step 2/2" in out
    assert "advantage" in out
    assert "verdict: " in out
    run = home / "runs" / "first"
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [m["step"] for m in metrics] == [1, 2]
    assert {"loss", "reward", "rewards/format/mean", "completions/clipped_ratio", "grad_norm"} <= set(metrics[0])
    rollouts = [json.loads(line) for line in (run / "rollouts.jsonl").read_text().splitlines()]
    assert len(rollouts) == 2 * 2 * 2
    assert len((run / "eval.jsonl").read_text().splitlines()) == 2 * 12
    assert main(["eval", "runs/first", "--data", "math_tasks.jsonl", "--limit", "5", "--samples", "3"]) == 0
    out = capsys.readouterr().out
    assert "of 5" in out
    assert "pass@1 " in out
    assert "pass@3 " in out
    assert "difference of mean@3: " in out
    assert main(["eval", "runs/first"]) == 0
    assert "of 12" in capsys.readouterr().out
    assert main(["sample", "What is 3 + 4?", "--run", "runs/first"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("base:")
    assert "\ntrained:" in out
    assert main(["train", "--config", "runs/first/config.yaml", "--output_dir", "runs/again", "--steps", "1"]) == 0
    again = json.loads((home / "runs/again/metrics.jsonl").read_text())
    clocks = {"step_time", "tokens_per_second", "rollout_seconds", "score_seconds", "learn_seconds", "eval/accuracy"}
    clocks |= {"memory/peak_mb"}
    assert {k: v for k, v in again.items() if k not in clocks} == {
        k: v for k, v in metrics[0].items() if k not in clocks
    }


def test_check_tells_what_a_run_would_meet_and_makes_none(home, capsys):
    write_data(home)
    assert main(["check", "math_tasks.jsonl", *SMALL]) == 0
    lines = capsys.readouterr().out.splitlines()
    begins = ["math_tasks.jsonl: 24", "data      prompts of", "self-check: ", "reward    the right answer earns 1.25"]
    begins += ["answers   reward 0.", "memory    at most ", "time      about "]
    assert all(line.startswith(begin) for line, begin in zip(lines, begins, strict=False))
    assert not (home / "runs").exists()
    assert main(["check"]) == 2


def test_metrics_go_to_the_tracker_that_is_asked_for(home, monkeypatch):
    calls = []
    package = types.ModuleType("wandb")
    package.init = lambda **settings: calls.append(("init", settings["config"]["steps"]))
    package.log = lambda values, step: calls.append((step, values["reward"], "eval/accuracy" in values))
    package.finish = lambda: calls.append("finish")
    monkeypatch.setitem(sys.modules, "wandb", package)
    write_data(home)
    assert main(["train", "math_tasks.jsonl", *SMALL, "--report_to", "wandb", "--output_dir", "run"]) == 0
    kept = [json.loads(line) for line in (home / "run" / "metrics.jsonl").read_text().splitlines()]
    rewards = [line["reward"] for line in kept]
    assert calls == [("init", 2), (1, rewards[0], False), (2, rewards[1], True), "finish"]
    assert all(line["memory/peak_mb"] > 50 for line in kept)

    def interrupt(values, step):
        raise KeyboardInterrupt

    package.log = interrupt
    assert main(["train", "math_tasks.jsonl", *SMALL, "--track", "wandb", "--output_dir", "stopped"]) == 130
    assert calls[-1] == "finish"


def test_the_adapter_loads_with_peft_and_with_transformers(home):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    trainer = GRPO(lora_rank=2)
    tiny.stir_adapter(trainer.policy, 0.3)
    trainer.save(home / "adapter")
    base = AutoModelForCausalLM.from_pretrained(home / "cache" / EMBEDDED_FILE.removesuffix(".gguf"))
    ids = torch.tensor([[5, 6, 7]])
    plain = base(ids).logits.detach()
    tuned = PeftModel.from_pretrained(base, home / "adapter")(ids).logits
    assert not torch.allclose(plain, tuned, atol=1e-4)
    assert AutoTokenizer.from_pretrained(home / "adapter").eos_token_id == tiny.EOS
    config = json.loads((home / "adapter" / "adapter_config.json").read_text())
    assert str(home) not in json.dumps(config)


MISTAKES = {
    "unknown command": (["trian"], "did you mean train"),
    "no data": (["train"], "name a data set"),
    "missing file": (["train", "nothing.jsonl"], "nothing.jsonl"),
    "unknown flag": (["train", "math_tasks.jsonl", "--grup_size", "4"], "did you mean --group_size"),
    "wrong type": (["train", "math_tasks.jsonl", "--steps", "many"], "steps"),
    "missing value": (["train", "math_tasks.jsonl", "--steps"], "steps"),
    "group of one": (["train", "math_tasks.jsonl", "--group_size", "1"], "group_size=1"),
    "no temperature": (["train", "math_tasks.jsonl", "--temperature", "0"], "temperature=0"),
    "unknown reward": (["train", "math_tasks.jsonl", "--rewards", "kindness", "--reward_weights", "1"], "kindness"),
    "weights missing": (["train", "math_tasks.jsonl", "--rewards", "format"], "reward_weights"),
    "unknown model": (["train", "math_tasks.jsonl", "--model", "./none"], "./none"),
    "empty data": (["train", "empty.jsonl"], "empty.jsonl"),
    "malformed line": (["train", "bad.jsonl"], "bad.jsonl:2"),
    "prompt too long": (["train", "long.jsonl"], "long.jsonl:3"),
    "no such run": (["sample", "hi", "--run", "nowhere"], "nowhere"),
    "eval without arguments": (["eval"], "run"),
    "samples below zero": (["eval", "runs/none", "--samples", "-1"], "--samples -1"),
    "data of no kind": (["data", "poems"], "poems"),
    "bad range": (["data", "arithmetic", "--terms", "two"], "two"),
    "too many": (["data", "arithmetic", "--num", "99999999"], "99999999"),
    "taken folder": (["train", "math_tasks.jsonl", "--output_dir", "taken"], "already holds a run"),
    "config missing": (["train", "--config", "none.yaml"], "none.yaml"),
    "unknown key in a file": (
        ["train", "--config", "near.yaml"],
        "did you mean group_size",
    ),
    "wrong type in a file": (["train", "--config", "type.yaml"], "steps='many': must be a whole number"),
    "code in a file": (["train", "--config", "code.yaml"], "code.yaml: cannot be read"),
    "no settings in a file": (["train", "--config", "list.yaml"], "list.yaml: holds no settings"),
    "bytes in a file": (["train", "--config", "bytes.yaml"], "bytes.yaml: cannot be read"),
    "password in a name": (["train", "math_tasks.jsonl", "--model", "https://me:pw@host/m"], "model: is a URL with"),
    "no such checkpoint": (["train", "--resume", "nowhere"], "nowhere/config.yaml: cannot be read"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line_and_exit_code_two(mistake, home, capsys):
    write_data(home)
    (home / "empty.jsonl").write_text("")
    (home / "bad.jsonl").write_text('{"question": "a", "answer": "b"}\n{"question": }\n')
    row = {"question": "a", "answer": "b"}
    (home / "long.jsonl").write_text(
        "\n".join(json.dumps(r) for r in (row, row | {"question": "c"}, row | {"question": "x" * 2000}))
    )
    (home / "near.yaml").write_text("grup_size: 4")
    (home / "type.yaml").write_text("steps: many")
    (home / "code.yaml").write_text("steps: !!python/object/apply:os.system ['touch marker']")
    (home / "list.yaml").write_text("- 4")
    (home / "bytes.yaml").write_bytes(b"model: caf\xe9")
    (home / "taken").mkdir()
    (home / "taken" / "config.yaml").write_text("")
    arguments, wanted = MISTAKES[mistake]
    assert main(arguments) == 2
    err = capsys.readouterr().err
    assert wanted in err
    assert err.count("\n") == 1
    assert "Traceback" not in err
    assert not (home / "marker").exists()


def test_made_data_can_be_trained_on(home, capsys):
    assert main(["data", "arithmetic", "--num", "30", "--seed", "3", "--terms", "2"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert len({row["question"] for row in rows}) == 30
    assert {row["num_terms"] for row in rows} == {2}


def test_a_task_of_reasoning_gym_can_be_trained_on_in_another_format(home, capsys):
    pytest.importorskip("reasoning_gym")
    name = "reasoning_gym:chain_sum:max_terms=3,size=24"
    form = ["--answer_format", "<reasoning>{think}</reasoning><result>{answer}</result>"]
    rewards = ["--rewards", "correctness", "reasoning_gym", "--reward_weights", "1", "1"]
    assert main(["train", name, *SMALL, *form, *rewards, "--steps", "1"]) == 0
    assert 'question from "question", answer from "answer"' in capsys.readouterr().out
    run = home / "runs" / "reasoning_gym-chain_sum-max_terms-3-size-24-1"
    assert "rewards/reasoning_gym/mean" in json.loads((run / "metrics.jsonl").read_text())
    assert main(["eval", str(run), "--limit", "3"]) == 0


def test_lists_are_taken_as_people_write_them(home, capsys):
    write_data(home)
    for number, given in enumerate((["format", "correctness"], ["format,correctness"], ["[format,correctness]"])):
        weights = ["--reward_weights", "0.5", "1.5"] if number == 0 else ["--reward_weights", "0.5,1.5"]
        assert (
            main(
                [
                    "train",
                    "math_tasks.jsonl",
                    *SMALL,
                    "--steps",
                    "0",
                    "--rewards",
                    *given,
                    *weights,
                    "--output_dir",
                    f"r{number}",
                ]
            )
            == 0
        )
        config = from_values(read_yaml(home / f"r{number}" / "config.yaml"))
        assert (config.rewards, config.reward_weights) == (("format", "correctness"), (0.5, 1.5))


def test_names_that_trl_uses_are_understood(home):
    write_data(home)
    flags = ["--num_generations", "3", "--max_completion_length", "5", "--epsilon", "0.1", "--epsilon_high=0.3"]
    assert main(["train", "math_tasks.jsonl", *flags, "--steps", "0", "--output_dir", "run"]) == 0
    config = from_values(read_yaml(home / "run" / "config.yaml"))
    assert (config.group_size, config.max_new_tokens, config.clip_range) == (3, 5, (0.1, 0.3))


def test_flags_win_over_presets_and_presets_over_files_in_any_order(home, capsys):
    write_data(home)
    (home / "other.jsonl").write_text((home / "math_tasks.jsonl").read_text())
    (home / "old.yaml").write_text(Config(data="other.jsonl", steps=0, clip_high=0.5, temperature=0.7).to_yaml())
    orders = (
        ["--config", "old.yaml", "--preset", "dapo", "--temperature", "0.9"],
        ["--temperature", "0.9", "--preset=dapo", "--config=old.yaml"],
    )
    for number, flags in enumerate(orders):
        assert main(["train", "math_tasks.jsonl", *flags, "--output_dir", f"run{number}"]) == 0
        config = from_values(read_yaml(home / f"run{number}" / "config.yaml"))
        assert (config.data, config.steps, config.temperature, config.clip_high) == ("math_tasks.jsonl", 0, 0.9, 0.28)
        assert "preset dapo: loss=dapo" in capsys.readouterr().out


def test_help_is_quick_and_short_and_complete(capsys):
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "grpocket", "train", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0
    assert time.perf_counter() - start < 5  # 0.3 s as a rule; a busy machine must not fail the test
    assert len(done.stdout.splitlines()) <= 60
    assert not any(line.endswith((" torch", " transformers", " peft")) for line in done.stderr.splitlines())
    with pytest.raises(SystemExit):
        main(["train", "--help-all"])
    everything = capsys.readouterr().out
    for name in Config.__dataclass_fields__:
        assert f"--{name}" in everything or name == "data"
    assert main([]) == 0
    assert len(capsys.readouterr().out.splitlines()) <= 60


def test_a_config_comes_back_from_its_file(tmp_path):
    config = Config(model="a/b", rewards=("format",), reward_weights=(2.0,), clip_high=0.28, system_prompt="é: #×")
    (tmp_path / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    assert from_values(read_yaml(tmp_path / "config.yaml")) == config
    assert yaml.safe_load(config.to_yaml())["system_prompt"] == "é: #×"


@pytest.mark.parametrize(
    "settings",
    [
        {"group_size": 1},
        {"temperature": 0.0},
        {"learning_rate": float("nan")},
        {"clip_low": 1.5},
        {"steps": -1},
        {"examples": 3},
        {"reward_weights": (1.0,)},
        {"token_budget": 0},
        {"grop_size": 3},
    ],
)
def test_every_wrong_value_is_refused_with_its_name(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        from_values(settings)
