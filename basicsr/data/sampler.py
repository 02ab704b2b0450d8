"""The order of training samples: endless, shuffled, shared by the ranks, resumable anywhere."""

from __future__ import annotations

from collections.abc import Iterator

from torch.utils.data import Sampler

from basicsr.utils.seed import rng_for

SampleKey = tuple[int, int]  # (epoch, index)


class EndlessSampler(Sampler[SampleKey]):
    """Keys (epoch, index) for ever. Position p of the common stream is place p % N of epoch p // N, in an order that
    depends on (seed, epoch) alone; rank r of W takes the positions r, r + W, r + 2W, ...

    So W ranks with batch b see together what one rank with batch W * b sees, and a run that starts at position s goes
    on exactly as one that has come there by itself.

    Args:
        num_samples: N, length of the dataset.
        rank, world_size: r and W.
        seed: of the order.
        start: positions of the common stream that are consumed already; a multiple of world_size.
    """

    def __init__(self, num_samples: int, rank: int = 0, world_size: int = 1, seed: int = 0, start: int = 0) -> None:
        if num_samples < 1 or not 0 <= rank < world_size or start % world_size:
            raise ValueError(
                f"EndlessSampler: num_samples={num_samples}, rank={rank}, world_size={world_size}, start={start}; "
                "expected at least one sample, a rank below world_size, and a start that is a multiple of world_size"
            )
        self.num_samples = num_samples
        self.rank, self.world_size = rank, world_size
        self.seed, self.start = seed, start

    def __iter__(self) -> Iterator[SampleKey]:
        position = self.start + self.rank
        epoch, order = -1, rng_for(self.seed).permutation(self.num_samples)
        while True:
            if position // self.num_samples != epoch:
                epoch = position // self.num_samples
                order = rng_for(self.seed, epoch).permutation(self.num_samples)
            yield epoch, int(order[position % self.num_samples])
            position += self.world_size
