"""Checkpoints on the disk: whole or not there, verified when read, never pickled.

    runs/NAME/checkpoints/000020/
        adapter_model.safetensors  and its config; or model.safetensors, where every weight is trained
        optimizer.safetensors      moments and counts
        state.json                 what else decides what comes next
        manifest.json              format, versions, size and SHA-256 of every file; written last

A checkpoint is written under another name, put on the disk file by file, and renamed, which a file system
does wholly or not at all. What its files mean is not known here. A run has one process that writes, so
whatever bears a temporary name is a leftover: no process number is needed to tell, and in a container it
would tell nothing.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

from .. import __version__
from ..records import UserError

FORMAT = 1
MANIFEST = "manifest.json"
SUFFIXES = (".safetensors", ".json")
"""What a checkpoint may hold: nothing that runs when it is read."""
TEMPORARY = ".tmp"


class DamagedError(ValueError):
    """Why a checkpoint can't be used."""


# Writing


def write(root: Path, step: int, fill: Callable[[Path], None], needed: int, keep: int) -> None:
    """Write the checkpoint of a step, then remove all but the newest `keep`.

    Args:
        root: the folder of a run's checkpoints.
        step: names it; what is numbered so or later belongs to a past that was not used, and goes first.
        fill: writes the files into the empty folder it is given.
        needed: about how many bytes that will be.
        keep: 1 or more.

    Raises:
        OSError, SafetensorError: it could not be written. Earlier checkpoints are as they were.
    """

    def fill_and_seal(folder: Path) -> None:
        fill(folder)
        seal(folder)

    clear(root, step)
    place(root / f"{step:06d}", fill_and_seal, needed)
    for old in numbered(root)[:-keep]:
        remove(old)


def place(final: Path, fill: Callable[[Path], None], needed: int) -> None:
    """Have a folder appear whole or not at all, filled by `fill`, in place of one that had its name.

    Raises:
        OSError, SafetensorError: it could not be written, and nothing of it is left.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    temporary = final.with_suffix(TEMPORARY)
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        check_space(final.parent, needed)
        temporary.mkdir()
        fill(temporary)
        for path in (*temporary.iterdir(), temporary):
            sync(path)
        shutil.rmtree(final, ignore_errors=True)
        temporary.rename(final)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)  # renamed by now, unless something failed
    sync(final.parent)
    sync(final.parent.parent)


def clear(root: Path, step: int) -> None:
    """Remove leftovers, and whatever is numbered `step` or later."""
    for leftover in root.glob(f"*{TEMPORARY}"):
        shutil.rmtree(leftover, ignore_errors=True)
    for folder in numbered(root):
        if int(folder.name) >= step:
            remove(folder)


def remove(folder: Path) -> None:
    """Remove a checkpoint: its name first, so that it is never seen in part."""
    if folder.is_symlink():
        folder.unlink()
    else:
        shutil.rmtree(folder.rename(folder.with_suffix(TEMPORARY)), ignore_errors=True)


def check_space(folder: Path, needed: int) -> None:
    """Refuse to begin what the disk has no room for."""
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(errno.ENOSPC, f"{needed:,} bytes are needed and {free:,} are free")


def seal(folder: Path) -> None:
    """Describe every file in the manifest."""
    files = {path.name: described(path) for path in sorted(folder.iterdir())}
    versions = {"grpocket": __version__} | {name: version(name) for name in ("torch", "transformers", "peft")}
    manifest = {"format": FORMAT, "versions": versions, "files": files}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")


def sync(path: Path) -> None:
    """Have the system put a file, or a folder's list of names, on the disk; Windows can't for a folder."""
    if os.name != "posix":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_text(path: Path, text: str) -> None:
    """Write a text file of a run's folder that is at any moment the old one or the new one.

    Raises:
        UserError: it can't be written; the disk may be full.
    """
    temporary = path.with_name(path.name + TEMPORARY)
    try:
        temporary.write_text(text, encoding="utf-8", newline="")
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise UserError(
            f"{path}: could not be written ({error.strerror}); mend that, then: grpocket train --resume {path.parent}"
        ) from None


# Reading


def newest(root: Path, warn: Callable[[str], None]) -> Path | None:
    """The newest checkpoint that is whole; None where there never was one.

    Raises:
        UserError: there are some and none can be used, or a later version of grpocket wrote them.
    """
    found = [] if root.is_symlink() else numbered(root)
    for folder in reversed(found):
        try:
            verify(folder)
        except DamagedError as error:
            warn(f"warning: {folder} is not used: {error}")
        else:
            return folder
    if found or root.is_symlink():
        raise UserError(f"{root}: holds no checkpoint that can be used; bring back a copy of it, or train anew")
    return None


def numbered(root: Path) -> list[Path]:
    """What is named like a checkpoint, in the order of the steps."""
    names = root.iterdir() if root.is_dir() else ()
    return sorted((p for p in names if re.fullmatch("[0-9]{6,}", p.name)), key=lambda p: int(p.name))


def verify(folder: Path) -> None:
    """Check that a checkpoint is what was written: no file more, less or other, and no link out of it.

    Raises:
        DamagedError: it is not.
    """
    if folder.is_symlink() or not folder.is_dir():
        raise DamagedError("it is a link, or no folder")
    wanted = manifest_of(folder)["files"]
    present = {path.name for path in folder.iterdir()} - {MANIFEST}
    for name in sorted(present | wanted.keys()):
        if Path(name).name != name or Path(name).suffix not in SUFFIXES:
            raise DamagedError(f"{name!r} is nothing that belongs into a checkpoint")
        if name not in wanted:
            raise DamagedError(f"{name!r} is not in its manifest")
        if not wanted[name] or described(folder / name) != wanted[name]:
            raise DamagedError(f"{name!r} is not what was written")


def manifest_of(folder: Path) -> dict[str, Any]:
    """A checkpoint's manifest.

    Raises:
        DamagedError: there is none that can be read.
        UserError: a later version of grpocket wrote it.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads("" if path.is_symlink() else path.read_text(encoding="utf-8"))
        number, _ = manifest["format"], manifest["files"].keys()
    except (OSError, ValueError, RecursionError, LookupError, TypeError, AttributeError):
        raise DamagedError("its manifest is missing or broken") from None
    if number != FORMAT:
        raise UserError(f"{folder}: has format {number!r}, and this grpocket reads {FORMAT}; install the one it names")
    return manifest


def described(path: Path) -> dict[str, Any] | None:
    """A file's size and SHA-256; None where it is no file of its own."""
    if path.is_symlink() or not path.is_file():
        return None
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
