"""Where a reward function runs: a worker process that can be killed, or this process.

A worker is a fresh interpreter: nothing is forked, so no thread or device of the trainer is in it, and it is
fed by lines of JSON. It has the time-out for each call and half of the machine's memory; when it hangs,
dies or runs out, its process group is killed, the calls it had not answered are given to the next one, and only the
one that was to blame is lost. It keeps accidents away from the run. It is no jail: a reward function may do what
its user may do, so code that a model wrote needs a sandbox of its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from ..records import UserError
from . import worker
from .worker import Call, Outcomes

START_SECONDS = 120.0
"""For what the function's file imports; torch alone may take half a minute on a slow disk."""
GRACE_SECONDS = 0.5
"""On top of each time-out: async calls, which keep their own time, are to end first."""


class Runner(Protocol):
    """Something that calls one reward function."""

    signature: dict[str, Any]
    """As `worker.describe` has it."""

    def run(self, calls: list[Call]) -> list[Outcomes]:
        """The outcomes of each call, in order; never raises for what the function does."""
        ...

    def close(self) -> None:
        """Let go of what it holds; the next call takes it up again."""
        ...


class InProcess:
    """Calls a function right here: without a time-out, unless it is async."""

    def __init__(self, function: Callable[..., Any], timeout: float) -> None:
        self.signature = worker.describe(function)
        self._function, self._timeout = function, timeout

    def run(self, calls: list[Call]) -> list[Outcomes]:
        """The outcomes of each call, in order."""
        return [rows for _, rows in worker.run(self._function, calls, self._timeout)]

    def close(self) -> None:
        """There is nothing to let go."""


class Worker:
    """Calls `place:name` in a process of its own, which is started here so that a mistake shows at once.

    Args:
        place: "my_rewards.py", or a module that can be imported.
        name: of the function in it.
        timeout: seconds a call.
        memory: bytes the process may take; half of the machine's when not given.

    Raises:
        UserError: the function can't be had.
    """

    def __init__(self, place: str, name: str, timeout: float, memory: int | None = None) -> None:
        if place.endswith(".py") and not Path(place).is_file():
            raise UserError(f"reward {place}:{name}: there is no file {place}; check the path")
        self.label = f"{place}:{name}"
        self.timeout = timeout
        self._setup = {
            "place": str(Path(place).absolute()) if place.endswith(".py") else place,
            "name": name,
            "path": [str(Path(folder).absolute()) for folder in sys.path],
            "timeout": timeout,
            "memory": memory or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2,
        }
        self._process: _Process | None = None
        self.signature = self._start()

    def run(self, calls: list[Call]) -> list[Outcomes]:
        """The outcomes of each call, in order."""
        found: dict[int, Outcomes] = {}
        while left := [at for at in range(len(calls)) if at not in found]:
            found |= {left[at]: rows for at, rows in self._attempt([calls[at] for at in left]).items()}
        return [found[at] for at in range(len(calls))]

    def _attempt(self, calls: list[Call]) -> dict[int, Outcomes]:
        """The calls that were answered until all were, or until the process had to go; at least one."""
        found: dict[int, Outcomes] = {}
        try:
            if self._process is None:
                self._start()
            assert self._process is not None
            self._process.send(calls)
            while len(found) < len(calls):
                reply = self._process.receive(self.timeout + GRACE_SECONDS)
                found[reply["at"]] = reply["rows"]
                if reply["rows"][0].get("error", "").startswith("MemoryError"):
                    self.close()  # it may go on holding what it took
                    break
        except Empty:
            self.close()
            found |= self._blame({"timeout": f"no answer within {self.timeout:g} s"}, calls, found)
        except EOFError as end:
            self.close()
            found |= self._blame({"error": f"process ended: {end}"}, calls, found)
        except (UserError, TypeError, ValueError) as error:  # it no longer starts, or a column is nothing that JSON has
            found |= {at: [{"error": str(error)}] * (c["rows"] or 1) for at, c in enumerate(calls) if at not in found}
        except BaseException:  # Ctrl-C: answers that are still on their way belong to nobody
            self.close()
            raise
        return found

    def _blame(self, outcome: dict[str, Any], calls: list[Call], found: dict[int, Outcomes]) -> dict[int, Outcomes]:
        """The call that was under way; of async ones any may have been it."""
        left = [at for at in range(len(calls)) if at not in found]
        return {at: [outcome] * (calls[at]["rows"] or 1) for at in (left if self.signature["is_async"] else left[:1])}

    def _start(self) -> dict[str, Any]:
        self._process = _Process(self)
        try:
            self._process.send(self._setup)
            signature = self._process.receive(START_SECONDS)
        except Empty:
            signature = {"refused": f"its file was not loaded within {START_SECONDS:g} s"}
        except EOFError as end:
            signature = {"refused": f"loading its file ended the process: {end}"}
        if "refused" in signature:
            self.close()
            raise UserError(f"reward {self.label}: {signature['refused']}")
        return signature

    def close(self) -> None:
        """End the process, if there is one."""
        if self._process is not None:
            self._process.end()
            self._process = None


class _Process:
    """One worker process, ended at the latest with its owner or with this interpreter."""

    def __init__(self, owner: Worker) -> None:
        command = [sys.executable, "-P", worker.__file__]
        self._popen = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, encoding="utf-8"
        )
        self._lines: SimpleQueue[str] = SimpleQueue()
        threading.Thread(target=_read, args=(self._popen, self._lines), daemon=True).start()
        self.end = weakref.finalize(owner, _end, self._popen)

    def send(self, message: Any) -> None:
        """One line of JSON; the process reads it whole before it does anything else."""
        assert self._popen.stdin is not None
        line = json.dumps(message) + "\n"
        with suppress(BrokenPipeError):  # receive tells that it is gone
            self._popen.stdin.write(line)
            self._popen.stdin.flush()

    def receive(self, seconds: float) -> dict[str, Any]:
        """The next line.

        Raises:
            Empty: there was none in time.
            EOFError: the process has ended; says how.
        """
        line = self._lines.get(timeout=seconds)
        if not line:
            with suppress(subprocess.TimeoutExpired):
                self._popen.wait(GRACE_SECONDS)
            code = self._popen.returncode or 0
            raise EOFError(f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}")
        return json.loads(line)


def _read(process: subprocess.Popen[str], lines: SimpleQueue[str]) -> None:
    assert process.stdout is not None
    with process.stdout as stdout:
        for line in stdout:
            lines.put(line)
    lines.put("")


def _end(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert process.stdin is not None
    with suppress(BrokenPipeError):
        process.stdin.close()
