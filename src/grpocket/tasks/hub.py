"""A data set of the Hugging Face hub: `hub:OWNER/NAME[:CONFIG[:SPLIT]]`, through the extra `[hub]`.

Which columns are the question and the answer is decided where files are read. Without a configuration it is the
only one, or "main" or "default"; without a split it is "train". A local folder of JSON or Parquet files is named
in the same way.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ..records import UserError

USUAL = ("main", "default")


def rows(spec: str) -> Iterator[dict[str, Any]]:
    """The rows of "OWNER/NAME", "OWNER/NAME:CONFIG" or "OWNER/NAME:CONFIG:SPLIT".

    Raises:
        UserError: `datasets` is missing, or the data can't be had; says why.
    """
    if not find_spec("datasets"):
        raise UserError(f"hub:{spec}: needs the package datasets; pip install datasets")
    datasets = import_module("datasets")
    name, config, split = (*spec.split(":"), "", "")[:3]
    try:
        config = config or _usual(datasets.get_dataset_config_names(name))
        loaded = datasets.load_dataset(name, config, split=split or "train")
    except UserError:
        raise
    except Exception as error:  # of the network, of the hub, of a format: each has its own kinds
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"hub:{spec}: {reason[:300]}; write hub:OWNER/NAME:CONFIG:SPLIT") from None
    yield from loaded


def _usual(names: list[str]) -> str:
    found = names if len(names) == 1 else [name for name in USUAL if name in names]
    if not found:
        raise UserError(f"there are several configurations: {', '.join(names)}; name one")
    return found[0]
