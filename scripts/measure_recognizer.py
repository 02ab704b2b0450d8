"""Typical norm and same-person cosine of a recognizer on clean faces.

    python scripts/measure_recognizer.py --recognizer w600k_r50.onnx --source datasets/celebahq512/index.csv

typical_norm is the mean norm of the embeddings. Quality is the feature norm of a photo over it, at most 1: the norm
falls with the quality of a photo (MagFace, AdaFace). Without it every reference of such a recognizer counts fully.

same_person_cosine is the typical cosine of two photos of one person: the mean cosine over all pairs of photos of an
identity, then the mean over identities, so that identities with many photos do not dominate. Identity guidance stops
there. It needs an index with identities. Near-duplicate photos count like all others and raise it.

Put both into the options: network_identity: {path: w600k_r50.onnx, typical_norm: A, same_person_cosine: B}.
Exit code 1 when some photos could not be read.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import _root  # noqa: F401
import numpy as np
from _embedding import add_embedding_arguments, check_numbers, embed_photos

from basicsr.data.photo_list import read_photos
from basicsr.data.similarity import cosines_by_identity
from basicsr.utils.cli import run_main

logger = logging.getLogger("measure_recognizer")


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 1 when some photos could not be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="index CSV or folder of clean, aligned faces")
    add_embedding_arguments(parser)
    args = parser.parse_args(argv)
    check_numbers(args, {})
    photos = read_photos(args.source)
    embedded = embed_photos([photo.path for photo in photos], args)
    norms = embedded.norms[embedded.ok]
    print(f"typical_norm: {norms.mean():.4g}")
    logger.info("%d photos, standard deviation %.3g", len(norms), norms.std())
    named = np.array([bool(photo.identity) for photo in photos]) & embedded.ok
    identities = [photo.identity for photo, kept in zip(photos, named, strict=True) if kept]
    cosines = cosines_by_identity(embedded.vectors[named], identities)
    if cosines:
        print(f"same_person_cosine: {np.mean([pairs.mean() for pairs in cosines]):.4g}")
        every = np.concatenate(cosines)
        logger.info(
            "%d identities with two or more photos, %d pairs, standard deviation over pairs %.3g",
            len(cosines), len(every), every.std(),
        )  # fmt: skip
    else:
        logger.info("no same_person_cosine: it needs an index with an identity that has two photos")
    if len(norms) < len(embedded.ok):
        logger.warning("%d photos could not be read", len(embedded.ok) - len(norms))
        return 1
    return 0


if __name__ == "__main__":
    run_main(main)
