"""Clean faces and their degraded copies, without identities. Compare upstream's FFHQBlindDataset.

Shapes: S = gt_size px.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.utils.data import Dataset

from basicsr.data.augment import flip
from basicsr.data.degradation import Degradation, DegradationRanges, apply_copies, sample_copies
from basicsr.data.image_source import named_files, read_face
from basicsr.data.lmdb_store import LmdbStore
from basicsr.utils.code_cache import CachedCodes
from basicsr.utils.errors import OptionError
from basicsr.utils.img_util import img2tensor
from basicsr.utils.registry import DATASET_REGISTRY
from basicsr.utils.seed import rng_for


@DATASET_REGISTRY.register(aliases=["FFHQBlindJointDataset"])
class FFHQBlindDataset(Dataset[dict[str, Any]]):
    """gt (3, S, S), lq, and lq_large where `degradation_large` is given.

    Args:
        source: folder of aligned faces (sub-folders are read), or an index CSV.
        split: of the CSV; None takes all rows. Without meaning for a folder.
        gt_size: px.
        degradation: ranges of lq; None: there is no lq (stage I).
        degradation_large: ranges of a second, stronger degradation (stage III).
        use_hflip: mirror half of the samples.
        resize: resize square pictures of another size instead of refusing them.
        lmdb: read the pictures from there (scripts/make_lmdb.py) instead of from their files.
        code_cache: file of scripts/make_code_cache.py; samples get the codes of gt, `code_idx` (L,), from it.
        seed: of flips and degradations; a sample is a function of (seed, epoch, index).
    """

    def __init__(
        self,
        source: str,
        split: str | None = None,
        gt_size: int = 512,
        degradation: DegradationRanges | None = None,
        degradation_large: DegradationRanges | None = None,
        use_hflip: bool = True,
        resize: bool = False,
        lmdb: str | None = None,
        code_cache: str | None = None,
        seed: int = 0,
    ) -> None:
        if degradation is None and degradation_large is not None:
            raise OptionError("degradation_large: goes with degradation, which is not given.")
        self.paths, names = named_files(source, split)
        self.gt_size = gt_size
        self.degradation = degradation
        self.degradation_large = degradation_large
        self.use_hflip = use_hflip
        self.resize = resize
        self.store = None if lmdb is None else LmdbStore(lmdb, source)
        self.seed = seed
        self.cached = None if code_cache is None else CachedCodes(code_cache, names, gt_size)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """The sample of (epoch, index); a plain index means epoch 0."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        rng = rng_for(self.seed, epoch, index)
        gt = read_face(self.paths[index], self.gt_size, self.resize, self.store)
        mirrored, identity_draw = rng.uniform(size=2)
        flipped = self.use_hflip and mirrored < 0.5
        if flipped:
            gt = flip(gt)
        sample: dict[str, Any] = {
            "gt": img2tensor(gt),
            "gt_path": str(self.paths[index]),
            "identity_draw": torch.tensor(identity_draw, dtype=torch.float32),
        }
        if self.cached is not None:
            sample["code_idx"] = self.cached.codes(index, flipped)
        copies = apply_copies(gt, self.drawn_degradations(epoch, index))
        return sample | {name: img2tensor(copy) for name, copy in copies.items()}

    def drawn_degradations(self, epoch: int, index: int) -> dict[str, Degradation]:
        """What makes the sample's `lq` and `lq_large` from its gt; empty in stage I."""
        if self.degradation is None:
            return {}
        rng = rng_for(self.seed, epoch, index)
        rng.uniform(size=2)  # mirroring and identity dropout come first
        return sample_copies(self.degradation, self.degradation_large, rng, self.gt_size)
