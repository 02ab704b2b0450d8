"""Given pairs for validation: degraded pictures, their ground truth, and references.

Shapes: S = gt_size px.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.data import Dataset

from basicsr.data.image_source import read_face
from basicsr.utils.errors import ImageFileError, OptionError
from basicsr.utils.img_util import img2tensor, list_images
from basicsr.utils.registry import DATASET_REGISTRY

NUM_NAMED = 3  # of the files that have no partner


class ImagePair(NamedTuple):
    """Files of one sample."""

    lq: Path
    gt: Path
    ref: Path | None
    identity: str


@DATASET_REGISTRY.register()
class PairedImageDataset(Dataset[dict[str, Any]]):
    """lq and gt (3, S, S), and refs (1, 3, S, S) with ref_mask (1,) where there are references.

    Args:
        dataroot_lq, dataroot_gt, dataroot_ref: folders; a sample has the same file name in all, up to the suffix.
        pairs: instead of folders a CSV with the columns lq, gt, and where wanted ref and identity; paths are relative
            to its folder.
        gt_size: px.
        resize: resize square pictures of another size instead of refusing them.
    """

    def __init__(
        self,
        dataroot_lq: str | None = None,
        dataroot_gt: str | None = None,
        dataroot_ref: str | None = None,
        pairs: str | None = None,
        gt_size: int = 512,
        resize: bool = False,
    ) -> None:
        if pairs is not None and (dataroot_lq, dataroot_gt, dataroot_ref) == (None, None, None):
            self.pairs = _read_pairs(Path(pairs))
        elif pairs is None and dataroot_lq is not None and dataroot_gt is not None:
            self.pairs = _match_folders(dataroot_lq, dataroot_gt, dataroot_ref)
        else:
            raise OptionError("PairedImageDataset takes either 'pairs', or 'dataroot_lq' and 'dataroot_gt'.")
        self.gt_size = gt_size
        self.resize = resize

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, key: int | tuple[int, int]) -> dict[str, Any]:
        """The sample of index, or of (epoch, index): nothing is random here."""
        pair = self.pairs[key[1] if isinstance(key, tuple) else key]
        sample: dict[str, Any] = {
            "lq": img2tensor(read_face(pair.lq, self.gt_size, self.resize)),
            "gt": img2tensor(read_face(pair.gt, self.gt_size, self.resize)),
            "lq_path": str(pair.lq),
            "gt_path": str(pair.gt),
            "identity": pair.identity,
        }
        if pair.ref is not None:
            sample["refs"] = img2tensor(read_face(pair.ref, self.gt_size, self.resize)).unsqueeze(0)
            sample["ref_mask"] = torch.ones(1, dtype=torch.bool)
        return sample


def _match_folders(lq: str, gt: str, ref: str | None) -> list[ImagePair]:
    """Files of the same name, in the order of the names; ImageFileError naming those without a partner."""
    gts, others = _by_stem(gt), {"lq": _by_stem(lq)}
    if ref is not None:
        others["ref"] = _by_stem(ref)
    for name, files in others.items():
        without = {f"dataroot_{name}": sorted(set(gts) - set(files)), "dataroot_gt": sorted(set(files) - set(gts))}
        if any(without.values()):
            raise ImageFileError(
                "; ".join(
                    f"{folder} lacks {len(stems)} names that its partner has: {', '.join(stems[:NUM_NAMED])}"
                    + (", ..." if len(stems) > NUM_NAMED else "")
                    for folder, stems in without.items()
                    if stems
                )
            )
    return [
        ImagePair(others["lq"][stem], gts[stem], others["ref"][stem] if ref is not None else None, "")
        for stem in sorted(gts)
    ]


def _by_stem(folder: str) -> dict[str, Path]:
    """Pictures of a folder by file name without suffix; two of one name are refused."""
    files: dict[str, Path] = {}
    for path in list_images(folder, recursive=False):
        if path.stem in files:
            raise ImageFileError(f"{path}: {files[path.stem].name} has the same name; which of them is meant?")
        files[path.stem] = path
    return files


def _read_pairs(path: Path) -> list[ImagePair]:
    """Rows of a pairs CSV; OptionError with the line where one cannot be used."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            rows = [(reader.line_num, row) for row in reader]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise OptionError(f"{path}: the pairs cannot be read ({error}).") from error
    if not rows:
        raise OptionError(f"{path}: no pairs; expected the columns lq,gt[,ref][,identity] and a row for each sample.")
    pairs = []
    for line, row in rows:
        names = {key: row.get(key) or "" for key in ("lq", "gt", "ref", "identity")}
        files = {key: path.parent / names[key] for key in ("lq", "gt", "ref") if names[key]}
        if not {"lq", "gt"} <= set(files):
            raise OptionError(f"{path}:{line}: a pair needs lq and gt, found {', '.join(files) or 'neither'}.")
        absent = [str(file) for file in files.values() if not file.is_file()]
        if absent:
            raise OptionError(f"{path}:{line}: no such file: {', '.join(absent)}.")
        pairs.append(ImagePair(files["lq"], files["gt"], files.get("ref"), names["identity"]))
    if len({pair.ref is None for pair in pairs}) > 1:
        raise OptionError(f"{path}: some rows have a ref and some have none; a batch needs it in all or in none.")
    return pairs
