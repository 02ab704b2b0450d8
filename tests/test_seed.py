"""Random draws are functions of their key, and torch's state can be put back."""

from __future__ import annotations

import torch

from basicsr.utils.seed import rng_for, rng_state, seed_everything, set_rng_state


def test_the_key_alone_decides_the_draws() -> None:
    assert rng_for(1, 2, 3).random() == rng_for(1, 2, 3).random()
    draws = {rng_for(*key).random() for key in ((1, 2, 3), (1, 3, 2), (1, 2), (1, 2, 3, 0), (2, 2, 3))}
    assert len(draws) >= 4  # NumPy's seed sequence takes (1, 2, 3) and (1, 2, 3, 0) for one key


def test_the_state_of_torch_is_put_back() -> None:
    seed_everything(5)
    torch.rand(3)
    state = rng_state()
    first = torch.rand(3)
    set_rng_state(state)
    assert torch.equal(torch.rand(3), first)
