import os

import pytest
import torch

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # which `GRPO` leaves alone, as it does the number of threads then


@pytest.fixture(autouse=True)
def _one_thread():
    """Tiny tensors are slower on several threads, and sums would depend on their number."""
    torch.set_num_threads(1)
