"""Names and values -> a Config: from Python, from a preset, from a file."""

from __future__ import annotations

from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from .config import Config
from .records import UserError


def from_values(values: dict[str, Any]) -> Config:
    """A Config out of names and values, as `GRPO(**values)` has them; `preset` may be among the names.

    Raises:
        UserError: a name that is no setting, with the nearest one that is.
    """
    names = [f.name for f in fields(Config)]
    own: dict[str, Any] = {
        name: tuple(v) if isinstance(v, list) else v for name, v in values.items() if name != "preset"
    }
    for name in own:
        if name not in names:
            near = get_close_matches(name, names, n=1)
            raise UserError(f"{name}: no such setting" + (f"; did you mean {near[0]}?" if near else ""))
    return Config(**(preset(values.get("preset")) | own))


PRESETS: dict[str, dict[str, Any]] = {
    "grpo": {"loss": "grpo", "kl_coef": 0.04, "kl": "k3"},
    "dapo": {"loss": "dapo", "clip_low": 0.2, "clip_high": 0.28, "extra_groups": 8},
    "dr_grpo": {"loss": "dr_grpo", "advantage_scale": "none"},
    "gspo": {"loss": "gspo", "clip_low": 3e-4, "clip_high": 4e-4},
    "cispo": {"loss": "cispo"},
    "rloo": {"loss": "pg", "advantage_baseline": "leave_one_out", "advantage_scale": "none"},
}
"""What each paper sets otherwise than our defaults; docs/algorithms.md names the papers."""


def preset(name: str | None) -> dict[str, Any]:
    """The settings of a preset; none for no name.

    Raises:
        UserError: there is no preset of that name.
    """
    if name is not None and name not in PRESETS:
        raise UserError(f'preset="{name}": no such preset; use {", ".join(PRESETS)}')
    return {} if name is None else PRESETS[name]


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings in a file, such as a run's config.yaml.

    Raises:
        UserError: no such file, or not the settings of a run.
    """
    import yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(
            f"{path}: cannot be read ({' '.join(str(error).split())}); name a folder that `grpocket train` made"
        ) from None
    if not isinstance(values, dict):
        raise UserError(f"{path}: holds no settings; name a folder that `grpocket train` made")
    return values
