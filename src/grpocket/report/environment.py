"""Versions and machine, kept in the run's folder: what one has to know to compare its figures with another's."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("grpocket", "torch", "transformers", "peft")


def environment(device: str) -> dict[str, str | int | None]:
    """What the run runs on; `device` as the model's weights name it."""
    return {
        "python": platform.python_version(),
        **{package: installed(package) for package in PACKAGES},
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "device": device,
    }


def installed(package: str) -> str | None:
    """A package's version; None when it runs without being installed."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def cpu_model() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
