"""What the tools that embed whole sets of faces share: their options, and the call."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import _root  # noqa: F401
import torch

from basicsr.recognizers import EmbeddedFiles, embed_files
from basicsr.recognizers.embedding_store import FRAMINGS
from basicsr.recognizers.runtime_net import load_for_judging
from basicsr.utils.dist_util import default_device
from basicsr.utils.errors import OptionError


def add_embedding_arguments(parser: argparse.ArgumentParser, required: bool = True) -> None:
    """--recognizer, --framing, --cache, --batch_size, --device, --threads."""
    add = parser.add_argument
    add("--recognizer", type=Path, required=required, help="weights of any layout in docs/recognizers.md")
    add("--framing", choices=sorted(FRAMINGS), default="ffhq", help="how the faces are cropped (default: %(default)s)")
    add("--cache", type=Path, help="folder that keeps the embeddings; needed to go on after a kill")
    add("--batch_size", type=int, default=64, help="faces at once (default: %(default)s)")
    add("--device", help="cpu, cuda, cuda:1, ... (default: the GPU where there is one)")
    add("--threads", type=int, default=4, help="that decode pictures (default: %(default)s)")


def embed_photos(paths: Sequence[Path], args: argparse.Namespace, desc: str = "embed") -> EmbeddedFiles:
    """The embeddings of these files, by the options of `add_embedding_arguments`."""
    try:
        device = torch.device(args.device) if args.device else default_device()
    except RuntimeError as error:
        raise OptionError(f"--device {args.device}: no such device; expected cpu, cuda, cuda:1, ...") from error
    return embed_files(
        paths,
        load_for_judging(args.recognizer, device),
        framing=FRAMINGS[args.framing],
        cache=args.cache,
        batch_size=args.batch_size,
        device=device,
        threads=args.threads,
        desc=desc,
    )


def check_numbers(args: argparse.Namespace, ranges: Mapping[str, tuple[float, float]]) -> None:
    """Refuse options outside their (lowest, highest) values, those of `add_embedding_arguments` included."""
    for name, (low, high) in {"batch_size": (1, 1e6), "threads": (1, 256), **ranges}.items():
        value = getattr(args, name)
        if value is not None and not low <= value <= high:
            raise OptionError(f"--{name} {value:g}: expected {low:g} to {high:g}.")
