"""Checkpoints on the disk: killed, starved of space, torn, forged."""

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from grpocket.learn import checkpoint
from grpocket.records import UserError

HARNESS = Path(__file__).parent / "kill_saves.py"


def fill(step):
    def write(folder):
        (folder / "optimizer.safetensors").write_bytes(bytes([step]) * 3000)
        (folder / "state.json").write_text(json.dumps({"step": step}))

    return write


def save(root, *steps, keep=2):
    for step in steps:
        checkpoint.write(root, step, fill(step), needed=4000, keep=keep)


def names(root):
    return sorted(path.name for path in root.iterdir())


def found(root):
    """(step of the newest whole checkpoint or None, warnings)."""
    warnings = []
    newest = checkpoint.newest(root, warnings.append)
    return newest and int(newest.name), warnings


@pytest.mark.parametrize("fault", ["kill", "full"])
@pytest.mark.parametrize("keep", [1, 2])
def test_a_save_killed_or_starved_at_any_file_event_loses_nothing(tmp_path, fault, keep):
    """At every open, write, sync, rename and removal of a save; the harness checks what is left."""
    done = subprocess.run(
        [sys.executable, str(HARNESS), str(tmp_path), fault, str(keep)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    events, old, new = map(int, done.stdout.split())
    assert events == old + new
    assert old >= 15
    assert new >= 2


def test_the_newest_ones_are_kept(tmp_path):
    save(tmp_path / "c", 1, 2, 3, 10, keep=3)
    assert names(tmp_path / "c") == ["000002", "000003", "000010"]
    save(tmp_path / "c", 11, keep=1)
    assert names(tmp_path / "c") == ["000011"]
    assert found(tmp_path / "c") == (11, [])
    assert found(tmp_path / "none") == (None, [])


def test_everything_is_on_the_disk_before_it_gets_its_name(tmp_path, monkeypatch):
    events = []
    fsync, rename = os.fsync, Path.rename
    place = lambda handle: Path(os.readlink(f"/proc/self/fd/{handle}")).name  # noqa: E731
    monkeypatch.setattr(os, "fsync", lambda handle: events.append(place(handle)) or fsync(handle))
    monkeypatch.setattr(Path, "rename", lambda path, to: events.append("rename") or rename(path, to))
    save(tmp_path / "c", 7)
    at = events.index("rename")
    assert {*events[:at]} == {"optimizer.safetensors", "state.json", "manifest.json", "000007.tmp"}
    assert events[at + 1] == "c"


def test_no_save_is_begun_without_room_for_it(tmp_path, monkeypatch):
    save(tmp_path / "c", 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 3999, 3999))
    with pytest.raises(OSError, match="4,000 bytes are needed and 3,999 are free"):
        save(tmp_path / "c", 2)
    assert names(tmp_path / "c") == ["000001"]


def tear(path, what):
    file = path / "optimizer.safetensors"
    manifest = path / "manifest.json"
    written = json.loads(manifest.read_text())
    if what == "cut short":
        file.write_bytes(file.read_bytes()[:-1])
    elif what == "one bit":
        file.write_bytes(b"\0" + file.read_bytes()[1:])
    elif what == "missing":
        file.unlink()
    elif what == "no manifest":
        manifest.unlink()
    elif what == "torn manifest":
        manifest.write_text(manifest.read_text()[:-9])
    elif what == "manifest of nothing":
        manifest.write_text("[]")
    elif what == "manifest nested":
        manifest.write_text("[" * 100_000)
    elif what == "pickle":
        (path / "optimizer.pt").write_bytes(b"")
    elif what == "named pickle":
        (path / "model.bin").write_bytes(b"x")
        written["files"]["model.bin"] = checkpoint.described(path / "model.bin")
        manifest.write_text(json.dumps(written))
    elif what == "unknown file":
        (path / "more.json").write_text("{}")
    elif what == "a path out":
        written["files"]["../../outside.json"] = checkpoint.described(path.parent.parent / "outside.json")
        manifest.write_text(json.dumps(written))
    elif what == "a link out":
        shutil.move(file, path.parent.parent / "outside.safetensors")
        file.symlink_to(path.parent.parent / "outside.safetensors")
    elif what == "the manifest a link":
        shutil.move(manifest, path.parent.parent / "outside.manifest")
        manifest.symlink_to(path.parent.parent / "outside.manifest")
    elif what == "all a link":
        shutil.move(path, path.parent.parent / "elsewhere")
        path.symlink_to(path.parent.parent / "elsewhere")
    elif what == "a folder inside":
        (path / "more.json").mkdir()
        written["files"]["more.json"] = None
        manifest.write_text(json.dumps(written))


TEARS = {
    "cut short": "'optimizer.safetensors' is not what was written",
    "one bit": "'optimizer.safetensors' is not what was written",
    "missing": "'optimizer.safetensors' is not what was written",
    "no manifest": "its manifest is missing or broken",
    "torn manifest": "its manifest is missing or broken",
    "manifest of nothing": "its manifest is missing or broken",
    "manifest nested": "its manifest is missing or broken",
    "pickle": "'optimizer.pt' is nothing that belongs into a checkpoint",
    "named pickle": "'model.bin' is nothing that belongs into a checkpoint",
    "unknown file": "'more.json' is not in its manifest",
    "a path out": "'../../outside.json' is nothing that belongs into a checkpoint",
    "a link out": "'optimizer.safetensors' is not what was written",
    "the manifest a link": "its manifest is missing or broken",
    "all a link": "it is a link, or no folder",
    "a folder inside": "'more.json' is not what was written",
}


@pytest.mark.parametrize("what", TEARS)
def test_what_is_not_whole_is_named_and_the_one_before_it_used(tmp_path, what):
    (tmp_path / "outside.json").write_text("{}")
    root = tmp_path / "c"
    save(root, 10, 20)
    tear(root / "000020", what)
    step, (warning,) = found(root)
    assert step == 10
    assert warning == f"warning: {root / '000020'} is not used: {TEARS[what]}"
    save(root, 20)  # the run comes by again
    assert found(root) == (20, [])
    assert names(root) == ["000010", "000020"]
    assert (tmp_path / "outside.json").read_text() == "{}"


def test_without_a_whole_checkpoint_there_is_no_going_on(tmp_path):
    save(tmp_path / "c", 10, 20)
    for name in ("000010", "000020"):
        tear(tmp_path / "c" / name, "one bit")
    with pytest.raises(UserError, match="holds no checkpoint that can be used"):
        found(tmp_path / "c")


def test_a_folder_of_checkpoints_that_leads_elsewhere_is_refused(tmp_path):
    save(tmp_path / "other", 10)
    (tmp_path / "c").symlink_to(tmp_path / "other")
    with pytest.raises(UserError, match="holds no checkpoint that can be used"):
        found(tmp_path / "c")


def test_a_later_format_is_not_taken_for_damage(tmp_path):
    save(tmp_path / "c", 10, 20)
    manifest = tmp_path / "c" / "000020" / "manifest.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"format": 99}))
    with pytest.raises(UserError, match="format 99"):
        found(tmp_path / "c")


def test_a_text_is_replaced_as_a_whole(tmp_path, monkeypatch):
    path = tmp_path / "config.yaml"
    checkpoint.replace_text(path, "old")
    monkeypatch.setattr(checkpoint, "sync", lambda path: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        checkpoint.replace_text(path, "new")
    assert path.read_text() == "old"


def test_a_text_that_finds_no_room_is_named_and_the_old_one_stays(tmp_path, monkeypatch):
    path = tmp_path / "metrics.jsonl"
    checkpoint.replace_text(path, "old")

    def full(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "sync", full)
    with pytest.raises(UserError, match=rf"metrics\.jsonl: .*No space left.*--resume {tmp_path}"):
        checkpoint.replace_text(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
