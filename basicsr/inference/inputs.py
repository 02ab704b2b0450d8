"""What a call of inference_codeformer.py restores, and where its results go."""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from basicsr.inference.jobs import Request, read_pairs, without_results
from basicsr.inference.video_file import is_video
from basicsr.utils.img_util import list_images

logger = logging.getLogger(__name__)


def find_requests(args: argparse.Namespace) -> list[Request]:
    """What to restore, with which references."""
    if args.pairs is not None:
        return read_pairs(args.pairs, needs_refs=args.mode == "ref")
    inputs = [args.input_path]
    if args.input_path.is_dir():
        for path in videos_in(args):
            logger.warning("%s: a video in a folder of pictures, left out. Restore it by itself: -i %s", path, path)
        inputs = without_results(list_images(args.input_path, args.recursive), args.input_path)
    return [Request(path, tuple(args.ref)) for path in inputs]


def videos_in(args: argparse.Namespace) -> list[Path]:
    """The videos of a folder, which are not restored with its pictures."""
    if args.input_path is None or not args.input_path.is_dir():
        return []
    found = args.input_path.glob("**/*" if args.recursive else "*")
    return sorted(path for path in found if is_video(path) and path.is_file())


def default_output(source: Path, w: float) -> Path:
    """results/<name of the input>_<w>."""
    source = source.absolute()
    return Path("results") / f"{source.name if source.is_dir() else source.stem}_{w}"
