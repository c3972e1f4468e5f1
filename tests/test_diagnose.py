"""Each rule is tried on a run made to have its fault; none may tell anything of a healthy run, at any step."""

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from grpocket.records import Reward
from grpocket.report.diagnose import NAMES, Watch, diagnose, history
from grpocket.report.run_files import read_lines, read_run
from runs import write_run


def only(name, value=lambda reward: reward.value):
    """Paid by one function of this name."""
    return lambda reward, text, rng: Reward(value(reward), {name: value(reward)})


def with_part(name, value):
    """Paid by one more function."""

    def change(reward, text, rng):
        part = value(text, rng)
        return replace(reward, value=reward.value + (part or 0.0), parts={**reward.parts, name: part})

    return change


def unread(reward, text, rng):
    return replace(reward, parts={**reward.parts, "correctness": None}) if " 17" in text else reward


def foreign_letters(x):
    return 1.0 if x < 0.4 else 0.3


HEALTHY = {
    "quick": {
        "steps": 16,
        "max_new_tokens": 48,
        "learning_rate": 2e-4,
        "curves": {
            "entropy": lambda x: 1.1 * 0.03**x,
            "variety": lambda x: 1 - 0.8 * x,
            "right": lambda x: 0.1 + 0.8 * x,
        },
    },
    "slow, of thought that grows with the gain, under a KL": {
        "steps": 60,
        "eval_every": 20,
        "group_size": 4,
        "kl_coef": 0.04,
        "update": lambda x: {"kl": 0.05 * x},
        "curves": {"length": lambda x: 40 + 60 * x, "entropy": lambda x: 0.6},
    },
    "hard, with two passes over every weight": {
        "steps": 40,
        "lora_rank": 0,
        "learning_rate": 1e-6,
        "num_updates": 2,
        "update": lambda x: {"clip_ratio/region_mean": 0.04},
        "curves": {"right": lambda x: 0.06 + 0.3 * x, "luck": lambda x: 0.5, "grad_norm": lambda x: 0.8 - 0.3 * x},
    },
    "a rambler that learns to stop": {
        "steps": 30,
        "curves": {
            "length": lambda x: 90 - 65 * x,
            "cut": lambda x: 0.45 * (1 - x) ** 2,
            "form": lambda x: min(1, 2 * x),
        },
    },
    "nearly solved from the start, in half precision, over few problems": {
        "steps": 30,
        "prompts_per_step": 8,
        "num_problems": 100,
        "curves": {"right": lambda x: 0.7 + 0.2 * x, "mismatch": lambda x: 4e-3, "entropy": lambda x: 0.2 - 0.15 * x},
    },
}


ALL_OR_NOTHING = {"right": lambda x: 0.5, "luck": lambda x: 99.0, "form": lambda x: 1.0, "cut": lambda x: 0.0}


def poor(x):
    return 0.25


FAULTS = {
    "answers are cut off": {"curves": {"cut": lambda x: 0.97}, "max_new_tokens": 16},
    "the stop token is never sampled": {"reward": lambda reward, text, rng: reward},
    "all answers are wrong": {"curves": {"right": lambda x: 0.0, "form": lambda x: 0.0}},
    "all answers are right": {"curves": {"right": lambda x: 1.0, "form": lambda x: 1.0, "cut": lambda x: 0.0}},
    "the reward is constant": {"reward": only("score", lambda reward: 0.5)},
    "one reward dominates": {"reward": with_part("length", lambda text, rng: 10 * rng.random())},
    "format is learned but not correctness": {"curves": {"right": lambda x: 0.02, "form": lambda x: 0.9}},
    "a reward raises": {"update": lambda x: {"rewards/score/errors": 3.0}},
    "a reward times out": {"update": lambda x: {"rewards/score/timeouts": 1.0}},
    "a known answer cannot be read": {"reward": unread},
    "the language drifts": {"curves": {"own_language": foreign_letters, "variety": lambda x: 1.0}},
    "problems repeat": {"num_problems": 12},
    "the learning rate is too low": {"learning_rate": 1e-7, "curves": {"right": poor, "form": poor, "entropy": poor}},
    "the learning rate is too high": {
        "steps": 40,
        "learning_rate": 1e-2,
        "curves": {"right": lambda x: 0.5 if x < 0.5 else 0.05, "form": lambda x: 0.9 if x < 0.5 else 0.1}
        | {"entropy": lambda x: 0.4 if x < 0.5 else 4.0},
    },
    "groups are all right or all wrong": {"curves": ALL_OR_NOTHING},
    "the entropy has collapsed": {"curves": ALL_OR_NOTHING | {"variety": lambda x: 0.0, "entropy": lambda x: 0.01}},
    "answers grow without getting better": {"curves": {"right": poor, "length": lambda x: 30 + 60 * x}},
    "answers shrink without getting better": {"curves": {"right": poor, "length": lambda x: 60 - 50 * x}},
    "the reward rises while accuracy falls": {"curves": {"held_out": lambda x: 0.6 - 0.3 * x}},
    "sampler and trainer disagree": {"curves": {"mismatch": lambda x: 0.05}},
    "the adapter is unchanged": {},
    "the gradient is zero": {"curves": {"grad_norm": lambda x: 0.0}},
    "the gradient explodes": {"curves": {"grad_norm": lambda x: 0.3 if x < 0.5 else 40.0}},
}
TOLD_ALONG = {
    "answers are cut off": {"all answers are wrong"},
    "the entropy has collapsed": {"groups are all right or all wrong"},
}
"""What else is true of a run made so."""


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("shape", HEALTHY)
def test_nothing_is_found_in_a_healthy_run_at_any_step(shape, seed, tmp_path):
    run = read_run(write_run(tmp_path / "run", seed, **HEALTHY[shape]))
    assert run.is_finished
    assert [str(finding) for finding in history(run)] == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_found_by_its_name(fault, tmp_path):
    folder = write_run(tmp_path / "run", **FAULTS[fault])
    spoil(fault, folder)
    found = {finding.name: finding for finding in history(read_run(folder))}
    assert fault in found, list(found)
    assert set(found) <= {fault} | TOLD_ALONG.get(fault, set())
    assert any(c.isdigit() for c in found[fault].sign.evidence)
    assert found[fault].sign.remedy


def spoil(fault, folder):
    """What the curves can't say."""
    if fault == "the stop token is never sampled":
        lines = read_lines(folder / "rollouts.jsonl")
        lines = [line | {"text": line["text"] + " and so on", "finish_reason": "length"} for line in lines]
        (folder / "rollouts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if fault == "the adapter is unchanged":
        save_adapter(folder, 0.0)


def save_adapter(folder: Path, value: float) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    (folder / "adapter").mkdir()
    tensors = {"a.lora_A.weight": np.ones((2, 3), np.float32), "a.lora_B.weight": np.full((3, 2), value, np.float32)}
    save_file(tensors, folder / "adapter" / "adapter_model.safetensors")


def test_every_rule_is_tried():
    assert set(FAULTS) == set(NAMES)


def test_an_adapter_that_moved_is_not_called_unchanged(tmp_path):
    folder = write_run(tmp_path / "run")
    save_adapter(folder, 1e-9)
    assert diagnose(read_run(folder)) == []


def test_skipped_steps_are_told_at_once(tmp_path):
    run = read_run(write_run(tmp_path / "run", update=lambda x: {"skipped_steps": 1.0}))
    assert history(run)[0].since == 1


def test_what_is_watched_is_what_is_read_afterwards(tmp_path):
    """The watcher keeps only some of the answers; it tells the same findings, after the same steps."""
    folder = write_run(tmp_path / "run", **FAULTS["the entropy has collapsed"])
    run = read_run(folder)
    watch, told = Watch(run.config), {}
    evaluations, rollouts = read_lines(folder / "eval.jsonl"), read_lines(folder / "rollouts.jsonl")
    watch.evaluated([line for line in evaluations if line["step"] == 0])
    for metrics in read_lines(folder / "metrics.jsonl"):
        for finding in watch.step(metrics, [line for line in rollouts if line["step"] == metrics["step"]]):
            assert finding.name not in told
            told[finding.name] = finding.since
    assert told == {finding.name: finding.since for finding in history(run)}
    assert len(watch.record.answers) < len(run.answers)


def test_a_run_without_steps_or_answers_has_no_findings(tmp_path):
    folder = write_run(tmp_path / "run", finished=0.0)
    assert history(read_run(folder)) == []
    bare = write_run(tmp_path / "bare", num_held=0)
    (bare / "rollouts.jsonl").unlink()
    (bare / "eval.jsonl").unlink(missing_ok=True)
    assert history(read_run(bare)) == []


def test_no_rule_stumbles_over_a_run_of_another_version(tmp_path):
    """Metrics and settings come and go: any of them may be missing."""
    folder = write_run(tmp_path / "run", steps=22)
    lines, rng = read_lines(folder / "metrics.jsonl"), random.Random(0)
    for _ in range(20):
        kept = {"step", *rng.sample(sorted(lines[0]), 12)}
        (folder / "metrics.jsonl").write_text(
            "".join(json.dumps({k: v for k, v in line.items() if k in kept}) + "\n" for line in lines)
        )
        (folder / "config.yaml").write_text("steps: 22\n")
        history(read_run(folder))
