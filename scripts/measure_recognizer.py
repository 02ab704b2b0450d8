"""Mean norm of a recogniser's embeddings on clean faces: what the quality of a reference is measured against.

    python scripts/measure_recognizer.py --recognizer w600k_r50.onnx --source datasets/celebahq512/index.csv

Quality is the feature norm of a photo over this figure, at most 1: the norm falls with the quality of a photo (MagFace,
AdaFace). Put it into the options: network_identity: {path: w600k_r50.onnx, typical_norm: FIGURE}. Without it
every reference of such a recogniser counts fully. Exit code 1 when some photos could not be read.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import _root  # noqa: F401
from _embedding import add_embedding_arguments, check_numbers, embed_photos

from basicsr.data.photo_list import read_photos
from basicsr.utils.cli import run_main

logger = logging.getLogger("measure_recognizer")


def main(argv: list[str] | None = None) -> int:
    """Exit code 0, or 1 when some photos could not be read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="index CSV or folder of clean, aligned faces")
    add_embedding_arguments(parser)
    args = parser.parse_args(argv)
    check_numbers(args, {})
    embedded = embed_photos([photo.path for photo in read_photos(args.source)], args)
    norms = embedded.norms[embedded.ok]
    print(f"typical_norm: {norms.mean():.4g}")
    logger.info("%d photos, standard deviation %.3g", len(norms), norms.std())
    if len(norms) < len(embedded.ok):
        logger.warning("%d photos could not be read", len(embedded.ok) - len(norms))
        return 1
    return 0


if __name__ == "__main__":
    run_main(main)
