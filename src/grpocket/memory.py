"""How much memory was taken at the worst, and how much there is: a GPU's where one is in use, else the process's."""

from __future__ import annotations

import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil  # comes with peft


def peak() -> int:
    """The most bytes held at one time since `reset_peak`, or since the start where the system can't forget it."""
    if cuda := _cuda():
        return cuda.max_memory_allocated()
    with suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text()):
            return int(found[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows: what is held now
        return psutil.Process().memory_info().rss
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reset_peak() -> None:
    """Forget the peak, where the system allows it."""
    if cuda := _cuda():
        cuda.reset_peak_memory_stats()
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def available() -> int:
    """The bytes that this process may come to hold, with those it holds."""
    if cuda := _cuda():
        return cuda.mem_get_info()[0] + cuda.memory_reserved()
    found = psutil.virtual_memory().available + psutil.Process().memory_info().rss
    with suppress(OSError, ValueError):  # a container's own limit; "max" for none
        found = min(found, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return found


def _cuda() -> Any:
    """torch.cuda where this process computes on a GPU, else None; torch is not imported for it."""
    torch = sys.modules.get("torch")
    return torch.cuda if torch is not None and torch.cuda.is_initialized() else None
