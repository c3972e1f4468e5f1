"""Kills a save, or fills the disk, at the k-th file event, for every k; checks what is left each time.

    python kill_saves.py FOLDER kill|full KEEP  ->  "EVENTS OLD NEW" on the standard output

Every event happens in a process of its own, which ends at once. OLD and NEW count after which events the newest
whole checkpoint was the one before, and the one that was being written.
"""

import builtins
import errno
import io
import json
import os
import shutil
import sys
from pathlib import Path

from grpocket.learn import checkpoint

count = 0
armed = None  # (fault, number of the event)


def event(fills: bool) -> None:
    """One file event; `fills`: it needs room on the disk."""
    global count
    if armed is None:
        return
    fault, at = armed
    if fault == "kill" and count == at:
        os._exit(9)
    if fault == "full" and fills and count >= at:  # and from then on it stays full
        raise OSError(errno.ENOSPC, "No space left on device")
    count += fault == "kill" or fills


class Halves:
    """A file that writes everything in two halves, with an event before each."""

    def __init__(self, file):
        self._file = file

    def write(self, data):
        for part in (data[: len(data) // 2], data[len(data) // 2 :]):
            event(fills=True)
            self._file.write(part)
            self._file.flush()
        return len(data)

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self._file.close()


def watch() -> None:
    """Have every file event pass by `event`."""
    for name, fills in (
        *(("open", False), ("mkdir", True), ("fsync", True), ("rename", False), ("replace", False)),
        *(("unlink", False), ("rmdir", False)),
    ):
        real = getattr(os, name)

        def passing(*arguments, real=real, fills=fills, **options):
            event(fills)
            return real(*arguments, **options)

        setattr(os, name, passing)
    real_open = io.open

    def opened(file, mode="r", *arguments, **options):
        if not set(mode) & set("wax+"):
            return real_open(file, mode, *arguments, **options)
        event(fills=True)
        return Halves(real_open(file, mode, *arguments, **options))

    io.open = builtins.open = opened


def fill(step: int):
    """Files that say which step they are of."""

    def write(folder: Path) -> None:
        (folder / "optimizer.safetensors").write_bytes(bytes([step]) * 3000)
        (folder / "state.json").write_text(json.dumps({"step": step}))

    return write


def save(root: Path, step: int, keep: int) -> None:
    checkpoint.write(root, step, fill(step), needed=4000, keep=keep)


def newest(root: Path) -> int:
    """The step of the newest whole checkpoint; what is in it must be that step's."""
    folder = checkpoint.newest(root, warn=print)
    assert folder is not None
    step = int(folder.name)
    assert (folder / "optimizer.safetensors").read_bytes() == bytes([step]) * 3000
    assert json.loads((folder / "state.json").read_text()) == {"step": step}
    return step


def attempt(root: Path, fault: str, at: int, keep: int) -> int:
    """Save step 30 in a process that meets the fault at event `at`; its exit code, 0 where it was not met."""
    global armed
    pid = os.fork()
    if pid == 0:
        armed = (fault, at)
        try:
            save(root, 30, keep)
        except OSError:
            os._exit(28)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(folder: Path, fault: str, keep: int) -> None:
    left = {20: 0, 30: 0}
    at = 0
    save(folder / "model", 10, keep)
    save(folder / "model", 20, keep)
    watch()
    while True:
        root = folder / f"{fault}-{at}"
        shutil.copytree(folder / "model", root)
        if (code := attempt(root, fault, at, keep)) == 0:
            break
        assert code == {"kill": 9, "full": 28}[fault], code
        if fault == "full":
            assert not list(root.glob("*.tmp")), f"event {at} left something behind"
        left[newest(root)] += 1
        save(root, 30, keep)  # resumed, it comes by again
        assert newest(root) == 30
        assert len(list(root.iterdir())) == keep, f"event {at} left something behind"
        at += 1
    print(at, left[20], left[30])


main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
