"""Rewards of the user's own: both forms, TRL's functions, what is refused, what a failure costs, and their page."""

import contextlib
import inspect
import io
import json
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import tiny
from grpocket import GRPO, MathDataset, Problem, Sample, UserError
from grpocket.cli import main
from grpocket.learn.groups import compare, penalise_length, score, stop_if_none_was_graded
from grpocket.model.embedded import EMBEDDED_FILE
from grpocket.records import StoppedError
from grpocket.report.metrics import step_metrics
from grpocket.rewards import REWARDS, Rewards, correctness
from grpocket.settings import from_values, read_yaml
from grpocket.tasks.scoring import name_of

DOCS = Path(__file__).parent.parent / "docs" / "rewards.md"
QUESTION = ({"role": "user", "content": "What is 3 + 4?"},)
GOOD = "<think>3 + 4 = 7</think><answer>7</answer>"


@pytest.fixture
def home(tmp_path, monkeypatch):
    """An empty folder to work in, where the embedded model is the tiny one."""
    monkeypatch.setenv("GRPOCKET_CACHE", str(tmp_path / "cache"))
    tiny.save_model(tmp_path / "cache" / EMBEDDED_FILE.removesuffix(".gguf"))
    monkeypatch.chdir(tmp_path)
    rows = [{"question": f"What is {n} + {n}?", "solution": str(2 * n), "level": n % 3} for n in range(24)]
    (tmp_path / "tasks.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def problem(answer="7", plain=False, name="p:1", **columns):
    return Problem(name, QUESTION, answer, columns, plain)


def values(function, samples, **settings):
    """What each sample earns from one function."""
    return [reward.value for reward in Rewards({"mine": (function, 1.0)}, **settings).score(samples)]


# The two forms.


def test_the_one_sample_form_gets_what_it_names():
    seen = []

    def everything(completion, answer, question, prompt, level, missing, given=5, **rest):
        seen.append((completion, answer, question, prompt, level, missing, given, rest))
        return 1

    assert values(everything, [Sample(problem(level=3, more="x"), GOOD)]) == [1.0]
    assert seen == [(GOOD, "7", "What is 3 + 4?", [dict(QUESTION[0])], 3, None, 5, {"more": "x"})]
    assert values(lambda answer: float(answer), [Sample(problem(), "")]) == [7.0]


def test_the_batch_form_gets_the_answers_to_one_problem_at_a_time():
    seen = []

    def batch(prompts, completions, completion_ids, level, **rest):
        seen.append((prompts, completions, completion_ids, level, rest))
        return [len(c[0]["content"]) for c in completions]

    first, second = problem(level=1), problem(level=2)
    samples = [Sample(first, "a", (5, 2)), Sample(first, "bb", (6,)), Sample(second, "ccc", (7,))]
    assert values(batch, samples) == [1.0, 2.0, 3.0]
    message = {"role": "assistant", "content": "bb"}
    assert seen[0][0] == [list(QUESTION)] * 2
    assert seen[0][1][1] == [message]
    assert seen[0][2:] == ([[5, 2], [6]], [1, 1], {"answer": ["7"] * 2, "question": ["What is 3 + 4?"] * 2})
    assert len(seen[1][1]) == 1


def test_a_plain_prompt_in_the_data_makes_plain_texts(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "3 + 4?", "solution": "so\\n#### 7"}')
    (plain,) = MathDataset(tmp_path / "a.jsonl").problems

    def batch(prompts, completions, solution, answer):
        rows = zip(prompts, completions, solution, answer, strict=True)
        return [float(row == ("3 + 4?", "x", "so\n#### 7", "7")) for row in rows]

    assert values(batch, [Sample(plain, "x")]) == [1.0]
    assert values(lambda prompt, completion: float(prompt == "3 + 4?"), [Sample(plain, "x")]) == [1.0]


def test_async_functions_of_both_forms_run_also_where_a_loop_is_running():
    import asyncio

    async def one(completion):
        await asyncio.sleep(0)
        return len(completion)

    async def batch(completions, **columns):
        return [await one(c[0]["content"]) for c in completions]

    async def notebook():
        return values(one, samples) + values(batch, samples)

    samples = [Sample(problem(), "a"), Sample(problem(), "bb")]
    assert asyncio.run(notebook()) == [1.0, 2.0, 1.0, 2.0]


# Functions written for TRL; these have the signatures and bodies of the usual ones.


def format_reward(completions, **kwargs):
    return [1.0 if re.match(r"^<think>.*</think>", c[0]["content"], re.DOTALL) else 0.0 for c in completions]


def accuracy_reward(completions, solution, log_extra=None, **kwargs):
    found = [c[0]["content"].endswith(f"<answer>{s}</answer>") for c, s in zip(completions, solution, strict=True)]
    if log_extra is not None:
        log_extra("solution", list(solution))
    return [float(f) if s else None for f, s in zip(found, solution, strict=True)]


def plain_reward(prompts, completions, **kwargs):
    return [float(p in c) for p, c in zip(prompts, completions, strict=True)]


def curriculum(completions, trainer_state, log_metric, **kwargs):
    log_metric("level", trainer_state.global_step)
    return [float(trainer_state.global_step)] * len(completions)


class Overlong:
    __name__ = "overlong"

    def __call__(self, completion_ids, **kwargs):
        return [-1.0 if len(ids) > 3 else 0.0 for ids in completion_ids]


@pytest.mark.parametrize(
    ("function", "plain", "expected"),
    [
        (format_reward, False, [1.0, 0.0]),
        (accuracy_reward, False, [1.0, 0.0]),
        (plain_reward, True, [0.0, 1.0]),
        (curriculum, False, [12.0, 12.0]),
        (Overlong(), False, [-1.0, 0.0]),
    ],
)
@pytest.mark.parametrize("where", ["in a worker", "in process"])
def test_trl_functions_run_unchanged(function, plain, expected, where, tmp_path):
    asked = problem(plain=plain, solution="7")
    samples = [Sample(asked, GOOD, (1, 2, 3, 4), 12), Sample(asked, "What is 3 + 4? 8", (1,), 12)]
    if where == "in process":
        assert values(function, samples) == expected
        return
    name = function.__name__
    code = textwrap_class(function) if isinstance(function, Overlong) else inspect.getsource(function)
    (tmp_path / "for_trl.py").write_text(f"import re\n{code}")
    rewards = Rewards.named({f"{tmp_path}/for_trl.py:{name}": 1.0})
    assert [reward.value for reward in rewards.score(samples)] == expected
    assert rewards.unguarded == []
    rewards.close()


def textwrap_class(instance):
    return f"{inspect.getsource(type(instance))}\noverlong = {type(instance).__name__}()\n"


def test_trls_own_functions_run_through_our_loader(tmp_path):
    trl_rewards = pytest.importorskip("trl.rewards")
    (tmp_path / "overlong.py").write_text(
        "from trl.rewards import get_repetition_penalty_reward, get_soft_overlong_punishment\n"
        "overlong = get_soft_overlong_punishment(4, 2)\nrepeated = get_repetition_penalty_reward(2)\n"
    )
    overlong, repeated = f"{tmp_path}/overlong.py:overlong", f"{tmp_path}/overlong.py:repeated"
    rewards = Rewards.named({"trl.rewards:think_format_reward": 1.0, overlong: 1.0, repeated: 1.0}, timeout=60)
    asked = problem(solution="$7$")
    samples = [Sample(asked, "<think>\nhm\n</think>\n7", (1, 1, 1)), Sample(asked, "7", (1, 2))]
    assert [dict(r.parts) for r in rewards.score(samples)] == [
        {"think_format_reward": 1.0, "overlong": -0.5, "repeated": -0.5},
        {"think_format_reward": 0.0, "overlong": 0.0, "repeated": 0.0},
    ]
    rewards.close()
    pytest.importorskip("math_verify")
    assert values(trl_rewards.accuracy_reward, [Sample(asked, r"\boxed{7}"), Sample(asked, r"\boxed{8}")]) == [1.0, 0.0]


# What is refused.


@pytest.mark.parametrize(
    ("function", "wanted"),
    [
        (lambda: 1.0, "neither `completion`"),
        (lambda text: 1.0, "neither `completion`"),
        (lambda **kwargs: 1.0, "neither `completion`"),
        (lambda completion, completions: 1.0, "keep one form"),
        (lambda completion, /: 1.0, "only be given by position"),
    ],
)
def test_a_signature_that_cannot_be_served_is_refused(function, wanted):
    with pytest.raises(UserError, match=wanted):
        Rewards({"mine": (function, 1.0)})


def test_a_column_that_the_data_has_not_is_refused_with_the_nearest():
    rewards = Rewards({"mine": (lambda completion, levle: 1.0, 1.0)})
    with pytest.raises(UserError, match="reward mine: wants `levle`, which the data has not; did you mean level"):
        rewards.check([problem(level=1)])
    Rewards({"mine": (lambda completion, levle=1: 1.0, 1.0)}).check([problem(level=1)])
    Rewards({"mine": (lambda completion, level: 1.0, 1.0)}).check([problem(level=1), problem()])


def test_two_rewards_of_one_name_are_refused(tmp_path):
    (tmp_path / "a.py").write_text("def format(completion): return 1")
    with pytest.raises(UserError, match="another reward is called 'format'"):
        Rewards.named({"format": 1.0, f"{tmp_path}/a.py:format": 1.0})


def test_a_function_that_only_the_first_program_had_is_asked_for_again():
    with pytest.raises(UserError, match=r"reward <mine>: was a function inside a program"):
        Rewards.named({"<mine>": 1.0})


def test_functions_are_known_by_what_another_process_can_import(tmp_path, monkeypatch):
    (tmp_path / "my_own.py").write_text("def score(completion): return 1\nclass C: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    import my_own

    assert name_of(my_own.score) == (f"{tmp_path}/my_own.py:score", None)
    monkeypatch.chdir(tmp_path)
    assert name_of(my_own.score) == ("my_own.py:score", None)
    assert name_of(correctness) == ("correctness", None)
    assert name_of("a.py:b") == ("a.py:b", None)
    package = name_of(Rewards.named)  # a method: nothing that a name leads to
    assert package[0] == "<named>"
    function = lambda completion: 1.0  # noqa: E731
    assert name_of(function) == ("<lambda>", function)
    monkeypatch.setattr(my_own.score, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "score", my_own.score, raising=False)
    assert name_of(my_own.score) == ("<score>", my_own.score)


# What a failure costs.

FAILING = """
import os, time

def fails(completion, answer):
    if completion.startswith("raise"): raise ValueError("no such luck: " + completion)
    if completion.startswith("nan"): return float("nan")
    if completion.startswith("text"): return "1.0"
    if completion.startswith("exit"): os._exit(1)
    if completion.startswith("sleep"): time.sleep(60)
    if completion.startswith("none"): return None
    return 1.0

def batch(completions):
    if any(c[0]["content"].startswith("raise") for c in completions): raise ValueError("no")
    return [1.0] * len(completions)
"""


def graded(texts, *names, tmp_path, say=print):
    """Rollouts [P][G] of the given texts, graded by functions of FAILING."""
    (tmp_path / "failing.py").write_text(FAILING)
    rewards = Rewards.named({"correctness": 1.0, **{f"{tmp_path}/failing.py:{n}": 1.0 for n in names}}, timeout=0.5)
    rewards._say = say
    problems = [problem(name=f"p:{at}") for at in range(len(texts))]
    prompts = tiny.prompts(*map(str, range(len(texts))))
    ids = [[tiny.Completion(tiny.encode(t), (0.0,) * len(tiny.encode(t)), "stop") for t in row] for row in texts]
    found = score(problems, prompts, ids, lambda i: tiny.tokenizer().decode(list(i)), rewards.score)
    rewards.close()
    return compare(problems, found, tiny.Config())


MISHAPS = [["raise a", "raise b", "nan", "fine"], ["text", "exit", "sleep", "none <answer>7</answer>"]]


def test_failures_are_counted_exactly_and_their_rows_masked(tmp_path):
    said = []
    groups = graded(MISHAPS, "fails", tmp_path=tmp_path, say=said.append)
    metrics = step_metrics(1, groups, {}, {}).values
    assert (metrics["rewards/fails/errors"], metrics["rewards/fails/timeouts"]) == (5, 1)
    assert not [name for name in metrics if name.startswith("rewards/correctness/err")]
    assert [[r.reward.value for r in g.rollouts] for g in groups] == [[None, None, None, 1.0], [None, None, None, 1.0]]
    assert [g.trained for g in groups] == [(False, False, False, True)] * 2
    assert [g.advantages for g in groups] == [(0.0,) * 4] * 2
    assert groups[1].rollouts[3].reward.parts == {"correctness": 1.0, "fails": None}  # None is neutral
    sorts = Counter(line.split(": ")[2].split(":")[0] for line in said)
    assert sorts == {"ValueError": 1, "not finite": 1, "wrong type": 1, "process ended": 1, "time-out": 1}
    assert said[0].startswith("warning: reward fails: ValueError: no such luck: raise a (problem p:0)")


def test_a_batch_that_fails_masks_its_group_and_no_other(tmp_path):
    groups = graded([["raise", "b"], ["c", "d"]], "batch", tmp_path=tmp_path)
    assert [[r.reward.value for r in g.rollouts] for g in groups] == [[None, None], [1.0, 1.0]]
    metrics = step_metrics(1, groups, {}, {}).values
    assert (metrics["rewards/batch/errors"], metrics["rewards/batch/timeouts"]) == (2, 0)


def test_a_penalty_for_length_loses_no_fault(tmp_path):
    groups = graded([["raise a", "fine"]], "fails", tmp_path=tmp_path)
    after = penalise_length(groups[0].rollouts, tiny.Config(max_new_tokens=8, overlong_buffer=8))
    assert [dict(r.reward.faults) for r in after] == [dict(r.reward.faults) for r in groups[0].rollouts]
    assert after[1].reward.value < 1.0


def test_a_row_needs_all_of_its_rewards(tmp_path):
    groups = graded([["raise", "a", "b"]], "fails", "batch", tmp_path=tmp_path)
    assert [r.reward.value for r in groups[0].rollouts] == [None, None, None]
    assert step_metrics(1, groups, {}, {}).values["rewards/fails/errors"] == 1


SMALL = {"group_size": 2, "prompts_per_step": 2, "max_new_tokens": 4, "lora_rank": 2, "held_out": 2, "show_every": 0}


def test_a_run_outlives_a_reward_that_sometimes_fails(home, capsys):
    calls = []

    def unlucky(completion):
        calls.append(completion)
        if len(calls) % 4 == 0:
            raise ValueError("\x1b[31mevery fourth")
        return float(len(calls))

    trainer = GRPO(rewards=[correctness, unlucky], reward_weights=[1.0, 0.5], steps=3, **SMALL)
    result = trainer.train("tasks.jsonl")
    lines = [json.loads(line) for line in (result.folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["rewards/unlucky/errors"] for line in lines] == [1, 1, 1]
    assert [line["rewards/unlucky/timeouts"] for line in lines] == [0, 0, 0]
    rollouts = [json.loads(line) for line in (result.folder / "rollouts.jsonl").read_text().splitlines()]
    assert [r["reward"] is None for r in rollouts] == [False, False, False, True] * 3
    assert [r["trained"] for r in rollouts] == [True, True, True, False] * 3
    out = capsys.readouterr().out
    assert out.count("every fourth") == 1
    assert "\x1b" not in out
    assert "rewards unlucky: no other process can import them" in out
    assert trainer.config.rewards == ("correctness", "<unlucky>")
    assert GRPO.from_run(result.folder).sample("What is 1 + 1?") is not None  # needs no reward


def test_a_reward_that_always_fails_stops_the_run_with_its_traceback_and_keeps_what_was_learned(home, capsys):
    (home / "mine.py").write_text(
        "count = 0\ndef breaks(completion):\n    global count\n    count += 1\n    return 1 / (count <= 4)\n"
    )
    flags = [f"--{name}={value}" for name, value in SMALL.items()]
    own = ["--reward", "mine.py:breaks", "--reward_weights", "1"]
    assert main(["train", "tasks.jsonl", *flags, *own, "--output_dir", "run", "--steps", "5"]) == 2
    err = capsys.readouterr().err
    assert "every answer of the step failed to be graded; reward breaks: ZeroDivisionError: division by zero" in err
    assert 'mine.py", line 5, in breaks' in err
    assert "grpocket/tasks" not in err
    assert len((home / "run" / "metrics.jsonl").read_text().splitlines()) == 1
    assert (home / "run" / "adapter" / "adapter_model.safetensors").is_file()


def test_one_failing_reward_is_enough_and_two_that_share_the_rows_are_as_well():
    def even(completion):
        return 1 / len(completion)

    def odd(completion):
        return 1 / (1 - len(completion))

    trainer_like = Rewards({"even": (even, 1.0), "odd": (odd, 1.0)}, say=lambda line: None)
    completions = [[tiny.Completion((5,) * n, (0.0,) * n, "stop") for n in (0, 1)]]
    found = score([problem()], tiny.prompts("?"), completions, lambda ids: "x" * len(ids), trainer_like.score)

    with pytest.raises(StoppedError, match=r"reward even: ZeroDivisionError(.|\n)*in even"):
        stop_if_none_was_graded(compare([problem()], found, tiny.Config()))


# The command line.


def test_a_reward_by_flag_trains_and_its_run_can_be_repeated(home, capsys):
    (home / "mine.py").write_text("def digits(completion, level, solution): return sum(map(str.isdigit, completion))")
    flags = [f"--{name}={value}" for name, value in SMALL.items()]
    own = ["--reward", "mine.py:digits", "--reward=format", "--reward-weights", "0.5", "1"]
    assert main(["train", "tasks.jsonl", *flags, *own, "--output_dir", "run", "--steps", "2"]) == 0
    assert "digits" in capsys.readouterr().out
    config = from_values(read_yaml(home / "run" / "config.yaml"))
    assert (config.rewards, config.reward_weights) == (("mine.py:digits", "format"), (0.5, 1.0))
    assert main(["train", "--config", "run/config.yaml", "--output_dir", "again"]) == 0
    first, second = ((home / name / "rollouts.jsonl").read_text() for name in ("run", "again"))
    assert first == second
    assert any(json.loads(line)["parts"]["digits"] for line in first.splitlines())


@pytest.mark.parametrize(
    ("flags", "wanted"),
    [
        (["--reward", "none.py:score", "--reward_weights", "1"], "there is no file none.py"),
        (["--reward", "mine.py:scor", "--reward_weights", "1"], "did you mean score?"),
        (["--reward", "mine.py", "--reward_weights", "1"], "FILE.py:FUNCTION"),
        (["--reward", "mine.py:wants", "--reward_weights", "1"], "wants `colour`, which the data has not"),
        (["--reward", "mine.py:odd", "--reward_weights", "1"], "neither `completion`"),
        (["--reward", "format", "--reward", "format", "--reward_weights", "1", "1"], "holds a reward twice"),
        (["--reward_timeout", "0"], "reward_timeout=0"),
        (["--reward", "mine.py:score"], "reward_weights has 3 values for 1 rewards"),
    ],
)
def test_a_reward_that_cannot_be_used_is_one_line_before_any_training(home, capsys, flags, wanted):
    (home / "mine.py").write_text(
        "def score(completion): return 1\ndef wants(completion, colour): return 1\ndef odd(text): return 1\n"
    )
    assert main(["train", "tasks.jsonl", "--output_dir", "run", *flags]) == 2
    err = capsys.readouterr().err
    assert wanted in err
    assert err.count("\n") == 1
    assert not (home / "run").exists()


# Model output is never executed.

MARK = "{marker}"
PAYLOADS = [
    "__import__('os').system('touch {marker}')",
    "<answer>__import__('pathlib').Path('{marker}').touch()</answer>",
    "<answer>open('{marker}', 'w')</answer>",
    "<answer>`touch {marker}`</answer>",
    "<answer>$(touch {marker})</answer>",
    "<answer>; touch {marker} #</answer>",
    "<answer>\\write18{{touch {marker}}}</answer>",
    "<answer>\\boxed{{exec(\"open('{marker}','w')\")}}</answer>",
    "<answer>{{'__class__': 1}}.__class__</answer>",
    "<answer>!!python/object/apply:os.system ['touch {marker}']</answer>",
    "<answer>eval(compile('open(\"{marker}\",\"w\")','','exec'))</answer>",
    "```python\nopen('{marker}', 'w')\n```",
    "{{{{ cycler.__init__.__globals__.os.system('touch {marker}') }}}}",
    "<think>x</think><answer>[open('{marker}','w') for _ in [1]]</answer>",
    '\n{{"at": 0, "rows": [{{"value": 1e9}}]}}\n',
]


def test_what_a_model_wrote_is_never_executed(tmp_path):
    marker = tmp_path / "marker"
    (tmp_path / "mine.py").write_text(
        "def one(completion, answer, question): print(completion); return 0.0\n"
        "def batch(completions, **columns): print(completions); return [0.0] * len(completions)\n"
    )
    own = {f"{tmp_path}/mine.py:{name}": 1.0 for name in ("one", "batch")}
    rewards = Rewards.named({**dict.fromkeys(REWARDS, 1.0), **own}, timeout=20)
    texts = [p.format(marker=marker) for p in PAYLOADS]
    samples = [Sample(problem(answer=gold), text) for text in texts for gold in ("7", text)]
    assert len(rewards.score(samples)) == len(samples)
    rewards.close()
    assert not marker.exists()


# The documentation.


def blocks(language):
    return re.findall(rf"```{language}\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)


def saved(home):
    """The files of the page, written down; and its other blocks, in order."""
    others = []
    for block in blocks("python"):
        name = re.match(r"# (\w+\.py)\n", block)
        if name:
            (home / name.group(1)).write_text(block)
        else:
            others.append(block)
    return others


def test_the_table_of_the_documentation_is_what_the_command_prints(capsys):
    assert main(["rewards"]) == 0
    out = capsys.readouterr().out
    assert out.startswith(blocks("text")[0])
    assert "completions, **columns" in out
    assert max(map(len, out.splitlines())) <= 140


def test_the_examples_of_the_documentation_run(home, capsys, monkeypatch):
    trying, training = saved(home)
    monkeypatch.syspath_prepend(home)
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(trying, "trying.py", "exec"), {})
    assert out.getvalue() == blocks("text")[1]
    (commands,) = blocks("console")
    data, train = commands.splitlines()
    with open("sums.jsonl", "w") as file, contextlib.redirect_stdout(file):
        assert main(data.split(" > ")[0].split()[1:]) == 0
    small = ["--steps", "1", "--max_new_tokens", "4", "--held_out", "2", "--lora_rank", "2", "--group_size", "2"]
    assert main([*train.split()[1:], *small]) == 0
    small_training = training.replace("steps=2", "steps=1, max_new_tokens=4, held_out=2, lora_rank=2, group_size=2")
    space = {}
    exec(compile(small_training, "training.py", "exec"), space)
    assert space["trainer"].config.rewards == ("correctness", "my_rewards.py:shows_work")


def test_the_tests_of_the_documentation_pass(home):
    saved(home)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_rewards.py"],
        capture_output=True, text=True, cwd=home,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


def test_the_other_rewards_of_the_documentation_work(home, monkeypatch):
    saved(home)
    named = {"trl_rewards.py:short_and_right": 1.0, "judge.py:judged": 1.0}
    rewards = Rewards.named(named)
    asked = problem(solution="7")
    assert [r.value for r in rewards.score([Sample(asked, "so 7", (1, 2)), Sample(asked, "17", (1,))])] == [2.0, 1.0]
    rewards.close()
    fake = home / "docker"  # drops its own options, and runs what it is given
    skip = 'while [ "$1" != python:3.12-slim ]; do shift; done; shift 4'
    fake.write_text(f'#!/bin/sh\n{skip}\nexec {sys.executable} "$@"\n')
    fake.chmod(0o755)
    monkeypatch.setenv("PATH", f"{home}:{os.environ['PATH']}")
    rewards = Rewards.named({"code_rewards.py:passes_tests": 1.0})
    asked = problem(tests="assert double(2) == 4")
    texts = ["<answer>def double(x): return 2 * x</answer>", "<answer>def double(x): return x</answer>", "nothing"]
    assert [r.value for r in rewards.score([Sample(asked, text) for text in texts])] == [1.0, 0.0, 0.0]
    rewards.close()
