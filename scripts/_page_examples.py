"""Examples of the web page: degraded photos of generated people, each with other photos of the same person."""

from __future__ import annotations

from pathlib import Path

import _root  # noqa: F401  a foreign basicsr is named and refused
import cv2
import numpy as np

from basicsr.data.generated_faces import person_at, photo_at, render
from basicsr.utils.img_util import imwrite

EXAMPLE_PEOPLE, EXAMPLE_REFS, EXAMPLE_SIZE = 3, 2, 256
EXAMPLE_SHRINK = 10  # the degraded photo of an example is made this much smaller, and enlarged again


def make_examples(folder: Path) -> list[tuple[Path, list[Path]]]:
    """Write the pictures. Returns the degraded photo and the references of each example."""
    examples = []
    for person in range(EXAMPLE_PEOPLE):
        face, *others = (
            render(person_at(1, person), photo_at(1, person, photo), EXAMPLE_SIZE) for photo in range(1 + EXAMPLE_REFS)
        )
        side = EXAMPLE_SIZE // EXAMPLE_SHRINK
        small = cv2.resize(face, (side, side), interpolation=cv2.INTER_AREA)
        lq = np.asarray(cv2.resize(small, (EXAMPLE_SIZE,) * 2, interpolation=cv2.INTER_CUBIC), np.uint8)
        paths = [folder / f"person{person}_{what}.png" for what in ("degraded", *range(1, 1 + EXAMPLE_REFS))]
        for path, picture in zip(paths, [lq, *others], strict=True):
            imwrite(path, picture)
        examples.append((paths[0], paths[1:]))
    return examples
