"""Triplets of one person: reference photos, a degraded photo, its ground truth.

Shapes: S = gt_size px; R = the most references that a sample may have.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from basicsr.data.augment import augment_reference, flip
from basicsr.data.degradation import Degradation, DegradationRanges, apply_copies, sample_copies
from basicsr.data.face_index import FaceIndex
from basicsr.data.image_source import read_face
from basicsr.data.lmdb_store import LmdbStore
from basicsr.data.photo_hash import photo_hash
from basicsr.utils.code_cache import CachedCodes
from basicsr.utils.errors import OptionError
from basicsr.utils.img_util import Image, img2tensor
from basicsr.utils.registry import DATASET_REGISTRY
from basicsr.utils.seed import rng_for

logger = logging.getLogger(__name__)

DUPLICATE_COLUMN = "duplicate_group"  # of the index; empty: no duplicates
# Separate streams of random numbers: what is drawn for the references leaves ground truth and lq as they are.
CHOICE_STREAM, REFERENCE_STREAM, DEGRADATION_STREAM = range(3)


@DATASET_REGISTRY.register()
class IdentityBlindDataset(Dataset[dict[str, Any]]):
    """refs (R, 3, S, S) with ref_mask (R,), lq, gt (3, S, S), and lq_large where `degradation_large` is given.

    A reference is another photo of the same person: never the ground truth's own file, its mirror image, a photo that
    looks the same (see `photo_hash`), or one of the same `duplicate_group`, where the index has this column (photos
    that a recogniser finds too much alike, cosine .9 and above, to tell who somebody is rather than which photo it is).

    Args:
        index: CSV, see `FaceIndex`; people with a single photo are left out.
        split: train | val | test.
        gt_size: px.
        num_refs: fewest and most references; the number is drawn, and bounded by the photos that the person has.
        degradation: ranges of lq.
        degradation_large: ranges of a second, stronger degradation (stage III).
        sampling: identity draws a person, then a photo, so that people with many photos do not prevail (training);
            photo visits every photo once (validation).
        use_hflip: mirror half of the ground truths.
        augment_refs: mirror half of the references, move and tilt them a little, and change their colours a little.
        wrong_reference: take the references from another person of the split: the test of what identity does. Ground
            truth and lq stay what they are without it.
        resize: resize square pictures of another size instead of refusing them.
        lmdb: read the pictures from there (scripts/make_lmdb.py) instead of from their files.
        code_cache: file of scripts/make_code_cache.py; samples get the codes of gt, `code_idx` (L,), from it.
        seed: a sample is a function of (seed, epoch, index).
    """

    def __init__(
        self,
        index: str,
        split: str = "train",
        gt_size: int = 512,
        num_refs: tuple[int, int] = (1, 1),
        degradation: DegradationRanges = DegradationRanges(),  # noqa: B008  frozen
        degradation_large: DegradationRanges | None = None,
        sampling: Literal["identity", "photo"] = "identity",
        use_hflip: bool = True,
        augment_refs: bool = True,
        wrong_reference: bool = False,
        resize: bool = False,
        lmdb: str | None = None,
        code_cache: str | None = None,
        seed: int = 0,
    ) -> None:
        if not 1 <= num_refs[0] <= num_refs[1]:
            raise OptionError(f"num_refs: found {list(num_refs)}, expected [fewest, most] with 1 <= fewest <= most.")
        self.faces = FaceIndex.read(index, split)
        self.people = _People(self.faces)
        if not len(self.people):
            raise OptionError(f"{index}: nobody in split '{split}' has two photos, so there are no references.")
        if wrong_reference and len(self.people) < 2:
            raise OptionError(f"{index}: split '{split}' has one person with two photos; wrong_reference needs two.")
        self.duplicate_groups: Sequence[str] | None = self.faces.attributes.get(DUPLICATE_COLUMN)
        self.gt_size = gt_size
        self.num_refs = num_refs
        self.degradation = degradation
        self.degradation_large = degradation_large
        self.sampling = sampling
        self.use_hflip = use_hflip
        self.augment_refs = augment_refs
        self.wrong_reference = wrong_reference
        self.resize = resize
        self.store = None if lmdb is None else LmdbStore(lmdb, index)
        self.seed = seed
        self.cached = None if code_cache is None else CachedCodes(code_cache, self.faces.names, gt_size)
        self._warned: set[int] = set()  # photos without a usable reference, each named once

    def __len__(self) -> int:
        """Photos of people with two or more; with sampling identity, the number of draws that make an epoch."""
        return len(self.people.photos)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """The sample of (epoch, index); a plain index means epoch 0."""
        epoch, index = key if isinstance(key, tuple) else (0, key)
        rng = rng_for(self.seed, epoch, index, CHOICE_STREAM)
        mirrored, identity_draw = rng.uniform(size=2)
        person, photo = self._choose(index, rng)
        gt = self._read(photo)
        refs = self._choose_refs(person, photo, gt, rng_for(self.seed, epoch, index, REFERENCE_STREAM))
        flipped = self.use_hflip and mirrored < 0.5
        if flipped:
            gt = flip(gt)
        copies = apply_copies(gt, self.drawn_degradations(epoch, index))
        row = self.faces.rows[photo]
        return {
            "gt": img2tensor(gt),
            **{name: img2tensor(copy) for name, copy in copies.items()},
            **self._stack(refs),
            **({} if self.cached is None else {"code_idx": self.cached.codes(photo, flipped)}),
            "gt_path": str(row.path),
            "identity": row.identity,
            "identity_draw": torch.tensor(identity_draw, dtype=torch.float32),
        }

    def drawn_degradations(self, epoch: int, index: int) -> dict[str, Degradation]:
        """What makes the sample's `lq` and `lq_large` from its gt."""
        rng = rng_for(self.seed, epoch, index, DEGRADATION_STREAM)
        return sample_copies(self.degradation, self.degradation_large, rng, self.gt_size)

    def _choose(self, index: int, rng: np.random.Generator) -> tuple[int, int]:
        """(person, photo) of a sample."""
        if self.sampling == "photo":
            return self.people.person_of(index), int(self.people.photos[index])
        person = int(rng.integers(len(self.people)))
        return person, int(rng.choice(self.people.photos_of(person)))

    def _choose_refs(self, person: int, photo: int, gt: Image, rng: np.random.Generator) -> list[Image]:
        """References, augmented; fewer than drawn where the person has fewer, none where all look like gt."""
        if self.wrong_reference:
            person = (person + 1 + int(rng.integers(len(self.people) - 1))) % len(self.people)
        wanted = int(rng.integers(self.num_refs[0], self.num_refs[1] + 1))
        refs: list[Image] = []
        gt_hash = photo_hash(gt)
        for other in rng.permutation(self._others(person, photo)):
            if len(refs) == wanted:
                break
            ref = self._read(int(other))
            if not photo_hash(ref).looks_like(gt_hash):
                refs.append(augment_reference(ref, rng) if self.augment_refs else ref)
        if not refs and photo not in self._warned:
            self._warned.add(photo)
            logger.warning("%s: every other photo looks the same; it has no reference.", self.faces.rows[photo].path)
        return refs

    def _others(self, person: int, photo: int) -> list[int]:
        """The person's photos, less this one and those that the index puts into its duplicate group."""
        others = [other for other in self.people.photos_of(person).tolist() if other != photo]
        groups = self.duplicate_groups
        if groups is None or not groups[photo]:
            return others
        return [other for other in others if groups[other] != groups[photo]]

    def _stack(self, refs: list[Image]) -> dict[str, Any]:
        """References padded with zeros to the most that a sample may have, and which of them are real."""
        most = self.num_refs[1]
        stacked = torch.zeros(most, 3, self.gt_size, self.gt_size)
        for place, ref in enumerate(refs):
            stacked[place] = img2tensor(ref)
        return {"refs": stacked, "ref_mask": torch.arange(most) < len(refs)}

    def _read(self, photo: int) -> Image:
        return read_face(self.faces.path_at(photo), self.gt_size, self.resize, self.store)


class _People:
    """The people of an index who have two photos or more, in the order of their first rows. Arrays, as the index is:
    lists of millions of rows would take more memory than all of it, and be copied by every worker process.

    Args:
        faces: whose rows the photos are.
    """

    def __init__(self, faces: FaceIndex) -> None:
        rows = faces.by_identity
        counts = rows.ends - rows.starts
        nobody = np.array([not name for name in faces.identities.names], np.bool_)
        several = (counts > 1) & ~nobody[faces.identities.codes[rows.order[rows.starts]]]
        self.photos = rows.order[np.repeat(several, counts)]  # rows of the index, person by person
        self.ends = np.cumsum(counts[several])

    def __len__(self) -> int:
        return len(self.ends)

    def person_of(self, place: int) -> int:
        """Number of the person of photos[place]."""
        return int(np.searchsorted(self.ends, place, side="right"))

    def photos_of(self, person: int) -> NDArray[np.int64]:
        """The person's rows of the index."""
        return self.photos[self.ends[person - 1] if person else 0 : self.ends[person]]
