import io
import json
import sys
import types
from dataclasses import replace

import pytest

import tiny
from grpocket.records import Completion, Group, Reward, Rollout, UserError
from grpocket.report.console import Console, printable, teaching_group
from grpocket.report.metrics import append_lines, rollout_lines, step_metrics
from grpocket.report.pace import Pace, clock
from grpocket.report.trackers import open_tracker


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
    console.step(step_metrics(3, GROUPS, {}, {"learn": 7.0}), 0.25, 49.0)
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


METRICS = step_metrics(3, GROUPS, {"entropy": 0.52, "memory/peak_mb": 4500.0}, {"learn": 7.0})


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_shows_the_view_and_gets_its_cursor_back_however_it_ends(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    console = Console(10)

    def interrupted():
        with console.live():
            console.step(METRICS, 0.25, 49.0)
            console.say("a line above the view")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    shown = screen.getvalue()
    for part in ("3/10", "left 0:4", "reward 0.75 (a 0.75, b 0.50)", "held-out 0.25", "groups with signal 50%"):
        assert part in shown
    for part in ("length 4", "entropy 0.52", "2 tokens/s", "4.5 GB", "a line above the view"):
        assert part in shown
    assert shown.count(HIDE) == shown.count(SHOW) == 1
    assert shown.rindex(SHOW) > shown.rindex(HIDE)
    console.step(METRICS, 0.25, 0.0)  # outside, lines again
    assert screen.getvalue().endswith("left 0:00\n")


HIDE, SHOW = "\x1b[?25l", "\x1b[?25h"


@pytest.mark.parametrize("term", ["dumb", "unknown"])
def test_a_terminal_that_cannot_draw_gets_lines(monkeypatch, term):
    monkeypatch.setenv("TERM", term)
    screen = Terminal()
    monkeypatch.setattr("sys.stdout", screen)
    console = Console(10)
    with console.live():
        console.step(METRICS, None, 49.0)
    assert "step  3/10" in screen.getvalue()
    assert "\x1b" not in screen.getvalue()


def test_a_file_gets_lines_and_nothing_is_drawn(monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr("sys.stdout", file)
    console = Console(10)
    with console.live():
        console.step(METRICS, 0.25, 49.0)
        console.say("said")
    assert file.getvalue().splitlines()[0].startswith("step  3/10  reward 0.75 (a 0.75, b 0.50)")
    assert file.getvalue().splitlines()[1:] == ["said"]


def test_what_goes_to_a_log_by_stderr_is_not_drawn_into_the_view(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    screen, log = Terminal(), io.StringIO()
    monkeypatch.setattr("sys.stdout", screen)
    monkeypatch.setattr("sys.stderr", log)
    with Console(10).live():
        print("to the log", file=sys.stderr)
    assert log.getvalue() == "to the log\n"
    assert "to the log" not in screen.getvalue()


def test_the_time_left_follows_the_last_ten_steps_and_the_last_evaluation():
    pace = Pace()
    assert pace.left(5, 0) == 0
    for seconds in [100.0] * 5 + [2.0] * 10:
        pace.step(seconds)
    pace.evaluation(30.0)
    pace.evaluation(20.0)
    assert pace.left(7, 2) == 7 * 2 + 2 * 20


class FakePackage(types.ModuleType):
    """What wandb and trackio have in common."""

    def __init__(self):
        super().__init__("wandb")
        self.calls = []

    def __getattr__(self, name):
        return lambda *args, **kwargs: self.calls.append((name, args, kwargs))


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_tracker_gets_what_the_run_keeps(name, monkeypatch):
    package = FakePackage()
    monkeypatch.setitem(sys.modules, name, package)
    tracker = open_tracker(name, "math-1", {"steps": 3})
    tracker.log(2, {"reward": 0.5})
    tracker.finish()
    assert package.calls == [
        ("init", (), {"project": "grpocket", "name": "math-1", "config": {"steps": 3}}),
        ("log", ({"reward": 0.5},), {"step": 2}),
        ("finish", (), {}),
    ]


def test_a_tracker_that_is_off_does_nothing_and_one_that_is_missing_says_how_to_install_it(monkeypatch):
    tracker = open_tracker("none", "math-1", {})
    tracker.log(1, {})
    tracker.finish()
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(UserError, match=r'pip install "grpocket\[trackio\]"'):
        open_tracker("trackio", "math-1", {})
