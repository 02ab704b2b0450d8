"""Encode all ground truths of a training set once: stages II and III then take the codes from a file.

    python scripts/make_code_cache.py -opt options/stage2_id.yml --out datasets/celebahq512/codes.safetensors

The option file says which pictures (datasets.train), which frozen VQGAN and which weights; name the result there as
`datasets.train.code_cache`, and once it stands there --out may be left out. Codes of every picture of the index are
kept, as it is and mirrored, in float32. Run again it keeps what is encoded, so an interrupted run goes on, and pictures
that joined the index are added. --check encodes nothing. Leaves with 0; with 1 when a picture has no codes; with 2 on a
user's fault.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import _root  # noqa: F401 - puts the repository root on sys.path, refuses a foreign basicsr
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

import basicsr.archs
import basicsr.data
import basicsr.losses
import basicsr.metrics
import basicsr.models  # noqa: F401  the five fill the registries
from basicsr.archs.vqgan_arch import VQAutoEncoder
from basicsr.config import parse_options
from basicsr.config.options import Options
from basicsr.data.image_source import named_files, read_face
from basicsr.data.lmdb_store import LmdbStore
from basicsr.utils.cli import progress, run_main
from basicsr.utils.code_cache import MAX_CODES, CacheHeader, CodeCache, Codes, digest_of, write_cache
from basicsr.utils.dist_util import default_device
from basicsr.utils.errors import ImageFileError, OptionError, UserError
from basicsr.utils.img_util import img2tensor
from basicsr.utils.registry import ARCH_REGISTRY
from basicsr.utils.text_util import make_folder
from basicsr.utils.weights import load_into, load_state, sha256_of

logger = logging.getLogger("make_code_cache")

FILES_OF_A_PART = 1024  # encoded between two files on disk: what a kill costs at most
NUM_NAMED = 5


class Source(NamedTuple):
    """Pictures that are encoded."""

    paths: Sequence[Path]
    names: Sequence[str]
    gt_size: int
    resize: bool
    store: LmdbStore | None  # where their bytes are; None: in their files


class Encoded(NamedTuple):
    """Names (n) and their codes (n, 2, L), in one order."""

    names: list[str]
    codes: Codes


class Pictures(Dataset[tuple[int, Tensor | None, str]]):
    """(place, picture (3, S, S), "") or (place, None, why it cannot be read)."""

    def __init__(self, source: Source, places: Sequence[int]) -> None:
        self.source, self.places = source, places

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, number: int) -> tuple[int, Tensor | None, str]:
        place, source = self.places[number], self.source
        try:
            return place, img2tensor(read_face(source.paths[place], *source[2:])), ""
        except ImageFileError as error:
            return place, None, str(error)


def main(argv: list[str] | None = None) -> int:
    """Exit code 1 when a picture has no codes."""
    args = parse_args(argv)
    options = parse_options(args.opt, args.force_yml, check_files=False)
    spec = options.training()[1].spec
    out = args.out or (Path(spec["code_cache"]) if spec.get("code_cache") else None)
    if out is None:
        raise UserError(f"--out is missing, and {args.opt} names no datasets.train.code_cache.")
    if "use_hflip" not in spec:
        raise UserError(f"{args.opt}: datasets.train is a {spec['type']}, which takes no code_cache.")
    root = spec["source"] if "source" in spec else spec["index"]
    store = LmdbStore(spec["lmdb"], root) if spec.get("lmdb") else None
    source = Source(*named_files(root, args.split), spec["gt_size"], spec["resize"], store)
    vqgan, weights, param_key = build_vqgan(options)
    header = CacheHeader(sha256_of(weights), param_key, source.gt_size, digest_of(source.names))
    if not args.check:
        make_folder(out.parent)
        make_cache(out, header, source, vqgan, args)
    return report(out, header, source)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line; values that cannot be raise UserError."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-opt", "--opt", metavar="FILE", required=True, help="option file of stage II or III (YAML)")
    parser.add_argument(
        "--force_yml", nargs="+", action="extend", default=[], metavar="KEY:KEY=VALUE", help="as train.py"
    )
    parser.add_argument("--out", type=Path, help="default: datasets.train.code_cache of the option file")
    parser.add_argument("--split", help="encode one split alone (default: all pictures of the index)")
    parser.add_argument("--batch_size", type=int, default=8, help="pictures in one forward (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=2, help="processes that read pictures (default: %(default)s)")
    parser.add_argument("--check", action="store_true", help="say which pictures the file lacks, and leave")
    args = parser.parse_args(argv)
    for name, low in (("batch_size", 1), ("workers", 0)):
        if getattr(args, name) < low:
            raise UserError(f"--{name} {getattr(args, name)}: at least {low} is needed.")
    return args


def build_vqgan(options: Options) -> tuple[VQAutoEncoder, str, str]:
    """The frozen VQGAN of the options, its weights file, and the entry of that file."""
    spec, weights, param_key = options.network_vqgan, options.path.pretrain_network_vqgan, options.path.param_key_vqgan
    if spec is None:
        raise OptionError("network_vqgan: the option file has none, so there are no codes to take.")
    if weights is None:
        weights, param_key = spec.get("model_path"), "params_ema"
    if weights is None:
        raise OptionError("path.pretrain_network_vqgan: no weights, and codes of an untrained VQGAN mean nothing.")
    vqgan = cast(VQAutoEncoder, ARCH_REGISTRY.build({**spec, "model_path": None}))
    load_into(vqgan, load_state(weights, param_key), strict=True, where=weights)
    if len(vqgan.quantize.codebook) > MAX_CODES:
        raise OptionError(f"network_vqgan.codebook_size: at most {MAX_CODES} codes can be kept.")
    return vqgan.to(default_device()).eval(), weights, param_key


def make_cache(out: Path, header: CacheHeader, source: Source, vqgan: VQAutoEncoder, args: argparse.Namespace) -> None:
    """Encode what an earlier run has not, part by part, then write the cache in the order of the index."""
    start = time.perf_counter()
    kept = list(encoded_before(out, header))
    have = {name for part in kept for name in part.names}
    todo = [place for place, name in enumerate(source.names) if name not in have]
    if not todo and len(kept) == 1 and kept[0].names == list(source.names):
        return
    num_new = 0
    with progress(total=len(source.names), desc="codes") as bar:
        bar.update(len(source.names) - len(todo))
        for first in range(0, len(todo), FILES_OF_A_PART):
            part = encode(source, todo[first : first + FILES_OF_A_PART], vqgan, args, bar)
            if part.names:
                kept.append(part)
                num_new += len(part.names)
                digest = hashlib.sha256("\0".join(part.names).encode()).hexdigest()[:16]
                write_cache(parts_folder(out) / f"{digest}.safetensors", header, *part)
    if not kept:
        raise UserError(f"{out}: none of {len(source.names)} pictures could be encoded.")
    names = [name for part in kept for name in part.names]
    codes = np.concatenate([part.codes for part in kept])
    row_of = {name: row for row, name in enumerate(names)}
    rows = [row_of[name] for name in source.names if name in row_of]
    write_cache(out, header, [names[row] for row in rows], codes[rows])
    for file in parts_folder(out).glob("*"):
        file.unlink()
    with contextlib.suppress(OSError):  # absent where everything was there before
        parts_folder(out).rmdir()
    seconds = time.perf_counter() - start
    logger.info(
        "%d encoded, %d kept, %.1f s, %.1f pictures/s", num_new, len(rows) - num_new, seconds, num_new / seconds
    )


def parts_folder(out: Path) -> Path:
    return out.with_name(f"{out.name}.parts")


def encoded_before(out: Path, header: CacheHeader) -> Iterator[Encoded]:
    """The cache itself and the parts of an interrupted run, where they are of the same weights and size."""
    for file in [out, *sorted(parts_folder(out).glob("[!.]*.safetensors"))]:
        if not file.exists():
            continue
        try:
            cache = CodeCache(file)
        except OptionError as error:
            if file == out:  # whatever it is, it is not ours to replace
                raise
            logger.warning("%s Its pictures are encoded again.", error)
            continue
        if cache.header[:3] == header[:3]:
            yield Encoded(cache.names, cache.all_codes())
        elif file == out:
            raise UserError(f"{out}: holds codes of other weights or another size. Remove it, or take another --out.")


@torch.no_grad()
def encode(source: Source, places: Sequence[int], vqgan: VQAutoEncoder, args: argparse.Namespace, bar: Any) -> Encoded:
    """Codes of some pictures and of their mirror images; one that cannot be read is named and left out."""
    loader = DataLoader(
        Pictures(source, places),
        args.batch_size,
        num_workers=args.workers,
        collate_fn=list,
        generator=torch.Generator(),
    )
    device = next(vqgan.parameters()).device
    names: list[str] = []
    codes: list[Codes] = []
    for batch in loader:
        for _, _, error in batch:
            if error:
                logger.warning("%s", error)
        good = [(place, picture) for place, picture, _ in batch if picture is not None]
        if good:
            gt = torch.stack([picture for _, picture in good]).to(device)
            both = [vqgan.encode_codes(pictures)[0] for pictures in (gt, gt.flip(-1))]  # each (B, L)
            codes.append(torch.stack(both, 1).cpu().numpy().astype(np.uint16))
            names += [source.names[place] for place, _ in good]
        bar.update(len(batch))
    return Encoded(names, np.concatenate(codes) if codes else np.zeros((0, 2, 0), np.uint16))


def report(out: Path, header: CacheHeader, source: Source) -> int:
    """How much of the set the file covers; exit code 1 when something is missing."""
    cache = CodeCache(out)
    if cache.header[:3] != header[:3]:
        raise UserError(f"{out}: holds codes of other weights or another size than the option file asks for.")
    rows = cache.rows_of(source.names)
    missing = [source.names[int(place)] for place in np.flatnonzero(rows < 0)]
    codes = cache.all_codes()
    logger.info(
        "%s: %d of %d pictures, both flips, %d codes each, %d different codes used",
        out, len(rows) - len(missing), len(rows), codes.shape[2], len(np.unique(codes)),
    )  # fmt: skip
    for name in missing[:NUM_NAMED]:
        logger.warning("%s: has no codes", name)
    if len(missing) > NUM_NAMED:
        logger.warning("... and %d more", len(missing) - NUM_NAMED)
    return int(bool(missing))


if __name__ == "__main__":
    run_main(main)
