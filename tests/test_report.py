import io
import json
from dataclasses import replace

import pytest

import tiny
from grpocket.records import Completion, Group, Reward, Rollout
from grpocket.report.console import Console, clock, printable, teaching_group
from grpocket.report.metrics import append_lines, rollout_lines, step_metrics


def rollout(value, text="x", tokens=3, reason="stop", **parts):
    return Rollout((1,), Completion((5,) * tokens, (-1.0,) * tokens, reason), text, Reward(value, parts))


GROUPS = [
    Group(
        tiny.problem("q", "7"),
        (rollout(1.0, a=1.0, b=None), rollout(0.0, tokens=5, reason="length", a=0.0, b=0.5)),
        (0.7, -0.7),
        (True, True),
    ),
    Group(tiny.problem("r", "8"), (rollout(1.0, a=1.0, b=None), rollout(1.0, a=1.0, b=None)), (0.0, 0.0), (True, True)),
]


def test_metrics_by_hand():
    values = step_metrics(3, GROUPS, {"loss": 0.1}, {"rollout": 2.0, "learn": 5.0}).values
    assert values["reward"] == 0.75
    assert values["reward_std"] == pytest.approx(0.5**0.5 / 2)
    assert values["frac_reward_zero_std"] == 0.5
    assert values["rewards/a/mean"] == 0.75
    assert values["rewards/b/mean"] == 0.5
    assert values["completions/mean_length"] == 3.5
    assert values["completions/max_length"] == 5
    assert values["completions/mean_terminated_length"] == 3
    assert values["completions/clipped_ratio"] == 0.25
    assert values["num_tokens"] == 14 + 2
    assert values["tokens_per_second"] == 2.0
    assert values["rollout_seconds"] == 2.0
    assert values["loss"] == 0.1


def test_a_line_is_json_that_every_reader_reads(tmp_path):
    path = tmp_path / "a.jsonl"
    append_lines(path, [{"a": float("nan"), "b": {"c": float("inf")}, "d": "é\u2028"}])
    append_lines(path, rollout_lines(1, GROUPS[:1], GROUPS[1:]))
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]
    assert lines[0] == {"a": None, "b": {"c": None}, "d": "é\u2028"}
    assert lines[1]["advantage"] == 0.7
    assert [line["trained"] for line in lines[1:]] == [True, True, False, False]


def test_the_console_shows_a_step_and_a_group(capsys):
    console = Console(10)
    console.step(step_metrics(3, GROUPS, {}, {"learn": 7.0}), 0.25)
    console.group(GROUPS[0])
    out = capsys.readouterr().out
    assert "step  3/10" in out
    assert "held-out 0.25" in out
    assert "left 0:49" in out
    assert "+0.70" in out


def test_parts_that_only_some_rows_have_are_shown(capsys):
    Console(1).group(Group(tiny.problem("q"), (rollout(1.0, a=1.0), rollout(0.0, b=0.5)), (0.7, -0.7), (True, True)))
    assert "0.50" in capsys.readouterr().out


def test_what_a_model_wrote_cannot_drive_the_terminal(capsys):
    evil = "\x1b[2J\x1b]0;title\x07[bold red]x[/bold red]\r\b\x9b31m"
    shown = Group(
        GROUPS[0].problem, (replace(GROUPS[0].rollouts[0], text=evil), GROUPS[0].rollouts[1]), (0.7, -0.7), (True, True)
    )
    Console(1).group(shown)
    out = capsys.readouterr().out
    assert "[bold red]x[/bold red]" in out
    assert not set(out) & set("\x1b\x07\r\b\x9b")
    assert printable("a\x1b[31mb\nc\u202e") == "a [31mb ⏎ c "


def test_the_group_shown_is_the_one_that_teaches():
    assert teaching_group(GROUPS) is GROUPS[0]
    assert teaching_group([]) is None


def test_clock():
    assert [clock(s) for s in (0, 59.6, 3599, 3600)] == ["0:00", "1:00", "59:59", "1:00:00"]


def test_a_log_file_gets_no_terminal_codes(monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr("sys.stdout", file)
    Console(1).group(GROUPS[0])
    assert "\x1b" not in file.getvalue()
