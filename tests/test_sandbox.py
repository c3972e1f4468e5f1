"""A reward function that fails, hangs, dies or takes everything: what is lost, and what is not."""

import os
import signal
import subprocess
import sys
import time

import pytest

from grpocket.records import UserError
from grpocket.tasks import sandbox
from grpocket.tasks.sandbox import InProcess, Worker

CODE = '''
import asyncio, os, re, sys, time

class Odd:
    def __float__(self):
        return 0.25

def fine(completion): return len(completion)
def number(completion): return Odd()
def true(completion): return completion == "abc"
def none(completion): return None
def raises(completion): raise KeyError(completion)
def text(completion): return "1.0"
def nan(completion): return float("nan")
def infinite(completion): return float("inf")
def leaves(completion): sys.exit(3)

def some(completion):
    """A mishap by the first letter, otherwise 1."""
    if completion[0] == "r": raise ValueError("no\\x1b[31m\\nway")
    if completion[0] == "e": os._exit(7)
    if completion[0] == "s": time.sleep(60)
    if completion[0] == "g": re.match(r"(a+)+$", "a" * 40 + "!")  # one call into C that keeps the lock
    if completion[0] == "m": return len("x" * (8 << 30))
    if completion[0] == "p": print('{"at": 0, "rows": [{"value": 9.0}]}', flush=True); os.write(1, b"noise\\n")
    if completion[0] == "i": return float(len(sys.stdin.read()))
    if completion[0] == "c": os.fork(); time.sleep(60)
    return 1.0

def batch(completions):
    if completions[0] == "short": return [1.0]
    if completions[0] == "raise": raise RuntimeError("all of them")
    if completions[0] == "number": return 1.0
    if completions[0] == "text": return "11"
    return [None if c == "n" else c if c == "bad" else 1 for c in completions]

async def judge(completion):
    if completion == "slow": await asyncio.sleep(60)
    if completion == "block": time.sleep(60)
    if completion == "own": raise TimeoutError("mine")
    await asyncio.sleep(0.2)
    return 1.0

count = 0
def counts(completion):
    global count
    count += 1
    return count

def pid(completion): return os.getpid()
def nested(completion): return asyncio.run(judge(completion))
nothing = 3
'''


@pytest.fixture
def made(tmp_path):
    """Makes workers for functions of CODE, and closes them."""
    path = tmp_path / "mine.py"
    path.write_text(CODE)
    workers = []

    def make(name, timeout=20.0, **settings):
        workers.append(Worker(str(path), name, timeout, **settings))
        return workers[-1]

    yield make
    for worker in workers:
        worker.close()


def calls(*completions):
    return [{"arguments": {"completion": c}, "extras": [], "step": 0, "rows": None} for c in completions]


def batch(*completions):
    return [{"arguments": {"completions": c}, "extras": [], "step": 0, "rows": len(c)} for c in completions]


def brief(outcomes):
    """Values as they are, of faults what stands before the colon."""
    said = lambda o: o["value"] if "value" in o else "timeout" if "timeout" in o else o["error"].partition(":")[0]  # noqa: E731
    return [[said(o) for o in rows] for rows in outcomes]


@pytest.mark.parametrize(
    ("name", "outcome"),
    [
        ("fine", 3.0),
        ("number", 0.25),
        ("true", 1.0),
        ("none", None),
        ("raises", "KeyError"),
        ("text", "wrong type"),
        ("nan", "not finite"),
        ("infinite", "not finite"),
        ("leaves", "SystemExit"),
        ("nested", 1.0),
    ],
)
def test_what_a_function_gives_is_the_same_in_a_worker_and_in_process(made, name, outcome, tmp_path):
    space = {}
    exec(compile(CODE, "mine.py", "exec"), space)
    assert brief(made(name).run(calls("abc", "abc"))) == [[outcome]] * 2
    assert brief(InProcess(space[name], 20.0).run(calls("abc", "abc"))) == [[outcome]] * 2


def test_an_exception_is_told_in_one_clean_line_with_the_users_own_traceback(made):
    ((outcome,),) = made("some").run(calls("r"))
    assert outcome["error"] == "ValueError: no\ufffd[31m way"
    assert "\x1b" not in outcome["traceback"]
    assert outcome["traceback"].count("File ") == 1
    assert 'if completion[0] == "r"' in outcome["traceback"]


def test_each_mishap_costs_its_own_row_and_no_other(made):
    worker = made("some", timeout=0.5)
    start = time.perf_counter()
    outcomes = worker.run(calls("a", "sleep", "b", "exit", "r", "g", "p", "i", "z"))
    assert brief(outcomes) == [
        *([1.0], ["timeout"], [1.0], ["process ended"], ["ValueError"], ["timeout"], [1.0], [0.0], [1.0])
    ]
    assert "exit code 7" in outcomes[3][0]["error"]
    assert time.perf_counter() - start < 20  # two time-outs of 1 s and three starts


def test_a_call_ends_within_its_timeout_and_a_second(made):
    worker = made("some", timeout=1.0)
    for mishap in ("sleep", "g"):
        worker.run(calls("a"))  # the process is there
        start = time.perf_counter()
        assert brief(worker.run(calls(mishap))) == [["timeout"]]
        assert time.perf_counter() - start < 1.0 + 1.0


def test_memory_is_limited_and_given_back(made):
    worker = made("some", memory=2 << 30)
    outcomes = worker.run(calls("a", "memory", "b"))
    assert brief(outcomes) == [[1.0], ["MemoryError"], [1.0]]


def test_a_process_that_ran_out_of_memory_is_replaced(made):
    worker = made("some", memory=2 << 30)
    worker.run(calls("a"))
    first = worker._process
    worker.run(calls("memory", "b"))
    assert worker._process is not first


def test_what_a_function_started_goes_with_it(made):
    def alive():
        done = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True)
        return {line for line in done.stdout.splitlines() if line.endswith(sandbox.worker.__file__)}

    before = alive()  # workers that other tests keep
    worker = made("some", timeout=0.5)
    assert brief(worker.run(calls("children"))) == [["timeout"]]
    assert alive() <= before


def test_a_failed_batch_costs_its_call_and_a_bad_value_its_row(made):
    outcomes = made("batch").run(
        batch(["a", "n"], ["short", "b"], ["raise", "b"], ["number", "b"], ["text", "b"], ["a", "bad", "n"])
    )
    assert brief(outcomes) == [
        [1.0, None],
        ["wrong length"] * 2,
        ["RuntimeError"] * 2,
        ["wrong type"] * 2,
        ["wrong type"] * 2,
        [1.0, "wrong type", None],
    ]


def test_async_calls_run_at_the_same_time_and_time_out_alone(made):
    worker = made("judge", timeout=1.0)
    start = time.perf_counter()
    outcomes = worker.run(calls(*["a"] * 20, "slow", "own"))
    assert time.perf_counter() - start < 3.0  # one after the other they take 5 s
    assert brief(outcomes) == [[1.0]] * 20 + [["timeout"], ["TimeoutError"]]
    assert brief(worker.run(calls("a", "block", "b"))) == [["timeout"]] * 3
    assert brief(worker.run(calls("a"))) == [[1.0]]


def test_the_process_is_kept_between_runs_and_can_be_closed(made):
    worker = made("counts")
    assert brief(worker.run(calls("a", "b"))) == [[1.0], [2.0]]
    assert brief(worker.run(calls("a"))) == [[3.0]]
    worker.close()
    worker.close()
    assert brief(worker.run(calls("a"))) == [[1.0]]


def test_the_process_is_a_fresh_interpreter_of_a_group_of_its_own(made):
    worker = made("pid")
    pid = int(worker.run(calls("a"))[0][0]["value"])
    assert pid != os.getpid()
    assert os.getpgid(pid) == pid
    worker.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize("ending", ["return", "os.kill(os.getpid(), 9)"])
def test_no_process_outlives_the_program(tmp_path, ending):
    (tmp_path / "mine.py").write_text(CODE)
    program = f"""
import os, threading, time
from grpocket.tasks.sandbox import Worker
def main():
    worker = Worker("mine.py", "some", 1.0)
    print(worker._process._popen.pid, flush=True)
    call = {{"arguments": {{"completion": "sleep"}}, "extras": [], "step": 0, "rows": None}}
    worker._process.send([call])
    time.sleep(0.2)
    {ending}
main()
"""
    # Not its stderr: the worker holds that too, so reading it would wait for what is to be seen.
    done = subprocess.run(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=tmp_path
    )
    pid = int(done.stdout)
    deadline = time.monotonic() + 15  # killed at once, or by its own alarm after 6 s
    while time.monotonic() < deadline:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        os.kill(pid, signal.SIGKILL)
        pytest.fail("the worker is still there")


def test_ctrl_c_while_waiting_leaves_no_stale_answer(made, monkeypatch):
    worker = made("fine")
    worker.run(calls("a"))
    with monkeypatch.context() as patch:
        patch.setattr(worker._process, "receive", lambda seconds: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            worker.run(calls("aaaa", "aaaa"))
    assert brief(worker.run(calls("aa"))) == [[2.0]]


def test_what_cannot_be_sent_is_an_error_of_the_call(made):
    ((outcome,),) = made("fine").run(calls(object()))
    assert "not JSON serializable" in outcome["error"]


def test_a_worker_that_no_longer_starts_is_an_error_of_its_calls(made, tmp_path):
    worker = made("fine")
    worker.close()
    (tmp_path / "mine.py").write_text("import nothing_like_it")
    assert "nothing_like_it" in worker.run(calls("a", "b"))[1][0]["error"]


MISTAKES = {
    "no file": ("none.py", "score", "there is no file none.py"),
    "no module": ("no_such_module", "score", "ModuleNotFoundError: No module named 'no_such_module'"),
    "no function": ("mine.py", "fin", "there is no function 'fin' in mine.py; did you mean fine?"),
    "no function like it": ("mine.py", "xyzzy", "there is no function 'xyzzy' in mine.py; define it there"),
    "not a function": ("mine.py", "nothing", "there is no function 'nothing'"),
    "syntax": ("broken.py", "score", "SyntaxError"),
    "import fails": ("failing.py", "score", "ZeroDivisionError: division by zero"),
    "import exits": ("exiting.py", "score", "loading its file ended the process: exit code 5"),
    "by position": ("slash.py", "score", "can only be given by position"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_function_that_cannot_be_had_is_refused_in_one_line(mistake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {
        "mine.py": CODE,
        "broken.py": "def score(:",
        "failing.py": "1 / 0",
        "exiting.py": "import os; os._exit(5)",
        "slash.py": "def score(completion, /): return 1",
    }
    for name, code in files.items():
        (tmp_path / name).write_text(code)
    place, name, wanted = MISTAKES[mistake]
    with pytest.raises(UserError) as caught:
        Worker(place, name, 10.0)
    assert wanted in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_never_loads_is_given_up(tmp_path, monkeypatch):
    (tmp_path / "slow.py").write_text("import time; time.sleep(60)")
    monkeypatch.setattr(sandbox, "START_SECONDS", 0.5)
    with pytest.raises(UserError, match="not loaded within"):
        Worker(str(tmp_path / "slow.py"), "score", 10.0)


def test_a_file_finds_its_neighbours_and_an_installed_module_its_functions(tmp_path):
    (tmp_path / "helper.py").write_text("half = 0.5")
    (tmp_path / "mine.py").write_text("from helper import half\ndef score(completion): return half")
    worker = Worker(str(tmp_path / "mine.py"), "score", 10.0)
    assert brief(worker.run(calls("a"))) == [[0.5]]
    worker.close()
    worker = Worker("grpocket.tasks.rewards", "repetition", 10.0)
    assert brief(worker.run(calls("a"))) == [[0.0]]
    worker.close()
