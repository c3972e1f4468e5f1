"""From a name to a model that can be trained: weights, tokenizer, adapter, device and precision.

A name is a local folder, a hub id, or "embedded" (`embedded.py`). Code that comes with a model is never run.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # comes with peft
import torch

from ..config import EMBEDDED, Config
from ..records import UserError
from .embedded import embedded_folder, quiet

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Loaded:
    """A causal language model, ready to be trained, and the tokenizer that belongs to it.

    >>> load(Config(model="embedded")).stop_ids
    (2,)
    """

    model: Any
    """A PeftModel around a transformers causal LM, or with lora_rank=0 the LM itself; every dropout 0."""
    tokenizer: Any
    stop_ids: tuple[int, ...]
    """Every token that ends an answer."""
    context: int
    """The longest sequence the model was made for, in tokens."""


def load(config: Config) -> Loaded:
    """The model that `config` names, with a fresh adapter, or with every weight to be trained.

    Raises:
        UserError: the model is not there, or cannot be loaded safely.
    """
    device = choose_device(config.device)
    if device.type == "cpu":
        keep_freed_memory()
    # Updates of whole weights would be lost to the rounding of 16 bits.
    dtype = choose_dtype(config.dtype, device) if config.lora_rank else torch.float32
    folder, name = resolve(config.model)
    tokenizer, base = read(folder, dtype)
    switch_off_dropout(base)
    model = add_adapter(base.to(device), config, name) if config.lora_rank else base.to(device)
    if config.gradient_checkpointing:
        checkpoint_activations(model)
    model.train()
    return Loaded(model, tokenizer, stop_ids(base, tokenizer), context_length(base))


def use_threads(number: int | None) -> None:
    """Compute with so many threads; by default one for each physical core that this process may use."""
    if number is None and "OMP_NUM_THREADS" in os.environ:
        return
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    torch.set_num_threads(number or min(usable, psutil.cpu_count(logical=False) or usable))


def keep_freed_memory() -> None:
    """Let glibc reuse large blocks instead of returning each to the system, where the C library is glibc.

    Otherwise every activation is fresh memory, zeroed page by page: a fifth of an update's time on a CPU.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mmap_threshold, trim_threshold = -3, -1  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD of malloc.h
        mallopt(mmap_threshold, 1 << 30)
        mallopt(trim_threshold, (1 << 31) - 1)


def choose_device(device: str) -> torch.device:
    """ "auto" is the GPU where there is one, else the CPU."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        chosen = torch.device(device)
    except RuntimeError:
        raise UserError(f'device="{device}": no such device; use "auto", "cpu", "cuda" or "cuda:1"') from None
    if chosen.type not in ("cpu", "cuda"):
        raise UserError(f'device="{device}": only cpu and cuda are supported')
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise UserError(f'device="{device}": this torch sees {torch.cuda.device_count()} GPUs; use device="cpu"')
    return chosen


def choose_dtype(dtype: str, device: torch.device, capability: tuple[int, int] | None = None) -> torch.dtype:
    """Float32 on a CPU; on a GPU bfloat16 from compute capability 8.0 on, float32 before.

    `torch.cuda.is_bf16_supported()` is not asked: it says yes on a T4, which only emulates bfloat16. float16
    is left out: its gradients need scaling, which is not built.
    """
    if dtype != "auto":
        return DTYPES[dtype]
    if device.type != "cuda":
        return torch.float32
    capability = capability or torch.cuda.get_device_capability(device)
    return torch.bfloat16 if capability >= (8, 0) else torch.float32


def resolve(name: str) -> tuple[str, str]:
    """(what transformers can load, the name to show) of a folder, a hub id or "embedded"."""
    if name == EMBEDDED:
        return str(embedded_folder()), "SmolLM2-135M-Instruct"
    path = Path(name).expanduser()
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise UserError(
                f'model="{name}": the folder holds no config.json; give a folder that transformers can load'
            )
        return str(path), name
    if path.exists() or name.startswith((".", "/", "~")) or name.count("/") > 1:
        raise UserError(f'model="{name}": no such folder; give a local folder, a hub id, or "{EMBEDDED}"')
    return name, name


def read(folder: str, dtype: torch.dtype) -> tuple[Any, Any]:
    """Tokenizer and base model; safetensors only, no code from the model's folder."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    try:
        with quiet():
            if hasattr(AutoConfig.from_pretrained(folder, trust_remote_code=False), "auto_map"):
                raise ValueError("it asks for code of its own by auto_map, and code that comes with a model is not run")
            tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
            model = AutoModelForCausalLM.from_pretrained(
                folder, dtype=dtype, use_safetensors=True, trust_remote_code=False
            )
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(
            f'model="{folder}": cannot be loaded ({reason}); give a local folder, a hub id, or "{EMBEDDED}"'
        ) from None
    return tokenizer, model


def switch_off_dropout(model: Any) -> None:
    """Set every dropout to 0: sampling has none, and the ratio must be 1 on the first pass."""
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if name.endswith("dropout") and isinstance(value, float):
                setattr(module, name, 0.0)
    for name, value in vars(model.config).items():
        if name.endswith("dropout") and isinstance(value, float):
            setattr(model.config, name, 0.0)


def add_adapter(base: Any, config: Config, name: str) -> Any:
    """A PeftModel: the base frozen, LoRA matrices in float32."""
    from peft import LoraConfig, get_peft_model

    targets: Any = config.lora_targets
    if targets != "all-linear":
        targets = [part.strip() for part in targets.split(",")]
    lora = LoraConfig(
        r=config.lora_rank,
        lora_alpha=config.lora_alpha,
        target_modules=targets,
        lora_dropout=0.0,
        task_type="CAUSAL_LM",
    )
    base.name_or_path = name  # what the adapter will say it belongs to
    with torch.random.fork_rng(), quiet():
        torch.manual_seed(config.seed)
        try:
            model: Any = get_peft_model(base, lora)
        except ValueError as error:
            reason = " ".join(str(error).split())[:200]
            raise UserError(f'lora_targets="{config.lora_targets}": {reason}; "all-linear" suits every model') from None
    return model


def checkpoint_activations(model: Any) -> None:
    """Recompute activations in the backward pass; transformers does so in train mode only."""
    with quiet():
        model.enable_input_require_grads()
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})


def stop_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Every id that ends an answer: the model's (there may be several) and the tokenizer's."""
    found: list[int] = []
    for source in (model.generation_config, model.config, tokenizer):
        ids = getattr(source, "eos_token_id", None)
        found += [ids] if isinstance(ids, int) else list(ids or ())
    if not found:
        raise UserError("the model names no end-of-sequence token; set eos_token_id in its generation_config.json")
    return tuple(sorted(set(found)))


def context_length(model: Any) -> int:
    """The longest sequence the model was made for, in tokens."""
    return int(getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 30)
