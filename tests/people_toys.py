"""Made-up people for the data tools: a pattern of colours each, and a small recogniser that tells them apart.

A random network whose batch norms have seen the patterns maps photos of one pattern close together, others far apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from basicsr.recognizers import RecognizerSpec, save_recognizer
from basicsr.recognizers.crop import crop_to_template
from basicsr.recognizers.iresnet import IResNet
from basicsr.utils.img_util import Image, img2tensor, imwrite

SIDE = 32  # px, of a picture


def pattern(person: int) -> Image:
    """What all photos of a person share, uint8 BGR."""
    rng = np.random.default_rng([7, person])
    coarse = rng.integers(40, 216, (6, 6, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC))


def toy_photo(person: int, number: int, noise: float = 4.0) -> Image:
    """A photo of a person."""
    rng = np.random.default_rng([11, person, number])
    return np.clip(pattern(person) + rng.normal(0, noise, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


def write_people(folder: Path, photos: Sequence[int], noise: float = 4.0) -> list[tuple[str, str]]:
    """`photos[p]` photos of person p; (path relative to the folder, name of the person)."""
    rows = []
    for person, count in enumerate(photos):
        for number in range(count):
            name = f"p{person:02d}/{number}.png"
            imwrite(folder / name, toy_photo(person, number, noise))
            rows.append((name, f"p{person:02d}"))
    return rows


def write_index(path: Path, rows: Sequence[Sequence[str]], header: str = "path,identity,split") -> Path:
    """A CSV; the rows as they are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n", encoding="utf-8")
    return path


def toy_recognizer(path: Path, num_people: int = 24, seed: int = 3) -> Path:
    """Weights of the small recogniser."""
    torch.manual_seed(seed)
    net = IResNet((1, 1, 1, 1), width=4, input_size=(32, 32), embed_dim=32).train()
    pictures = torch.stack([img2tensor(toy_photo(person, 99)) for person in range(num_people)])
    crops = crop_to_template(pictures, (32, 32))
    with torch.no_grad():
        for _ in range(60):  # the running figures of batch norm come close to those of the patterns
            net(crops)
    side = 127.5
    spec = RecognizerSpec(
        "iresnet", (32, 32), "rgb", (side, side, side), (side, side, side), (0.0, 0.0), 32,
        tuple(net.eval()(crops[:1])[1].shape[1:]), None, "",
    )  # fmt: skip
    save_recognizer(net, path, spec)
    return path
