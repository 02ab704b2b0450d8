"""Randomness, handed around: every random draw is a function of a key, or of a state that a checkpoint holds."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def rng_for(*key: int) -> np.random.Generator:
    """A generator that depends on the key alone, e.g. `rng_for(seed, epoch, index)`. Keys are non-negative integers."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(key)))


def seed_everything(seed: int) -> None:
    """Seed torch (all devices), and the global generators of NumPy and Python that third parties may draw from."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state() -> dict[str, Any]:
    """State of torch's generators as tensors: what a checkpoint needs (our code draws from no other global one)."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"torch": torch.get_rng_state(), "cuda": cuda}


def set_rng_state(state: dict[str, Any]) -> None:
    """Put back what `rng_state` returned. CUDA states are put back on as many devices as there are now."""
    torch.set_rng_state(state["torch"].cpu())
    for device, cuda_state in enumerate(state["cuda"][: torch.cuda.device_count()]):
        torch.cuda.set_rng_state(cuda_state.cpu(), device)
