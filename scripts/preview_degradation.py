"""What the training set of an option file gives: a picture grid, and the drawn parameters in a CSV beside it.

    python scripts/preview_degradation.py -opt options/stage3_id.yml --out grid.png

A row is one photo: ground truth, several draws of lq (and of lq_large), references. Photos are taken from all over the
set and are not mirrored, so that the draws of a row can be compared; a row's references are those of its first draw.
--seed chooses photos and draws; the same seed gives the same grid.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import _root  # noqa: F401
import cv2
import matplotlib
import msgspec
import numpy as np
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

import basicsr.archs
import basicsr.data
import basicsr.losses
import basicsr.metrics
import basicsr.models  # noqa: F401  the five fill the registries
from basicsr.config import parse_options
from basicsr.config.options import DatasetSpec
from basicsr.data.degradation import Degradation
from basicsr.engine.loaders import build_dataset
from basicsr.utils.cli import progress, run_main
from basicsr.utils.csv_util import write_rows
from basicsr.utils.errors import OptionError, UserError
from basicsr.utils.img_util import Image, imwrite, tensor2img
from basicsr.utils.seed import rng_for

logger = logging.getLogger("preview_degradation")

FONT_SIZE, LINE = 10, 13  # px
NUM_LINES = 4  # of text under a picture
GAP = 6  # px
PAPER, INK = (255, 255, 255), (20, 20, 20)


class Tile(NamedTuple):
    """A picture, uint8 BGR, and the lines under it."""

    image: Image
    lines: Sequence[str]


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line.

    Raises:
        UserError: a number below its minimum.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-opt", "--opt", metavar="FILE", required=True, help="option file (YAML)")
    parser.add_argument("--force_yml", nargs="+", action="extend", default=[], metavar="KEY:KEY=VALUE")
    parser.add_argument("--out", type=Path, required=True, help="PNG; the CSV has the same name")
    parser.add_argument("--rows", type=int, default=4, help="photos (default: %(default)s)")
    parser.add_argument("--draws", type=int, default=4, help="of each degradation (default: %(default)s)")
    parser.add_argument("--tile", type=int, default=160, help="px of a picture in the grid (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    for name, minimum in (("rows", 1), ("draws", 1), ("tile", 32), ("seed", 0)):
        if getattr(args, name) < minimum:
            raise UserError(f"--{name} is {getattr(args, name)}, expected at least {minimum}.")
    return args


def main(argv: list[str] | None = None) -> int:
    """Exit code 0."""
    args = parse_arguments(argv)
    dataset = preview_dataset(parse_options(args.opt, args.force_yml, check_files=False).datasets, args.seed)
    places = np.sort(rng_for(args.seed).permutation(len(dataset))[: args.rows])
    rows: list[list[Tile]] = []
    table: list[dict[str, str]] = []
    for number, place in enumerate(progress(places, desc="preview"), 1):
        samples = [dataset[(draw, int(place))] for draw in range(args.draws)]
        drawn = [dataset.drawn_degradations(draw, int(place)) for draw in range(args.draws)]
        rows.append(tiles_of(samples, drawn))
        for draw, degradations in enumerate(drawn):
            for name, degradation in degradations.items():
                head = {"row": str(number), "draw": str(draw), "copy": name, "gt_path": str(samples[0]["gt_path"])}
                table.append({**head, **degradation.parameters()})
    imwrite(args.out, paint(rows, args.tile))
    logger.info("%s: %d photos of %d", args.out, len(rows), len(dataset))
    if table:
        columns = list(dict.fromkeys(name for row in table for name in row))
        write_rows(args.out.with_suffix(".csv"), [{name: row.get(name, "") for name in columns} for row in table])
        logger.info("%s: what was drawn", args.out.with_suffix(".csv"))
    return 0


def preview_dataset(datasets: Mapping[str, DatasetSpec], seed: int) -> Any:
    """The training set, photo by photo and not mirrored.

    Raises:
        OptionError: there is none, or one whose degraded pictures are files.
    """
    entry = next((entry for entry in datasets.values() if entry.phase == "train"), None)
    if entry is None:
        raise OptionError("datasets: no training set in this file.")
    changes = {"seed": seed, "use_hflip": False, "sampling": "photo"}
    spec = {**entry.spec, **{key: value for key, value in changes.items() if key in entry.spec}}
    dataset = build_dataset(msgspec.structs.replace(entry, spec=spec))
    if not hasattr(dataset, "drawn_degradations"):
        raise OptionError(f"datasets.{entry.key}: a {entry.spec['type']} degrades nothing, so nothing is to be seen.")
    return dataset


def tiles_of(samples: Sequence[Mapping[str, Any]], drawn: Sequence[Mapping[str, Degradation]]) -> list[Tile]:
    """One row: gt, the draws of each copy, references."""
    first = samples[0]
    tiles = [Tile(tensor2img(first["gt"]), ["gt", str(first.get("identity", "")), Path(first["gt_path"]).name])]
    for name in drawn[0]:
        for sample, degradations in zip(samples, drawn, strict=True):
            tiles.append(Tile(tensor2img(sample[name]), [name, *caption(degradations[name])]))
    if "refs" in first:
        for number, (ref, is_there) in enumerate(zip(first["refs"], first["ref_mask"], strict=True), 1):
            tiles.append(Tile(tensor2img(ref), [f"ref {number}" if is_there else f"ref {number}: none"]))
    return tiles


def caption(degradation: Degradation) -> list[str]:
    """Three short lines; the CSV has it in full."""
    shown = degradation.parameters()
    numbers = [shown[name] for name in ("sigma_x", "sigma_y", "length") if name in shown]
    lines = [f"{shown.get('kernel', 'no blur')} {' / '.join(numbers)}"]
    signs = {"small_size": "px", "noise_sigma": "n", "jpeg_quality": "q", "strokes": "strokes"}
    lines.append(", ".join(f"{sign} {shown[name]}" for name, sign in signs.items() if name in shown))
    extras: dict[str, object] = {"second": degradation.second, "video": degradation.video, "gray": degradation.gray}
    extras |= {"shift": degradation.color_shift, "jitter": degradation.jitter}
    lines.append(", ".join(name for name, value in extras.items() if value))
    return lines


def paint(rows: Sequence[Sequence[Tile]], side: int) -> Image:
    """The grid, uint8 BGR; pictures are scaled to `side` px."""
    cell = (side + GAP, side + GAP + NUM_LINES * LINE)
    width, height = cell[0] * max(len(row) for row in rows) + GAP, cell[1] * len(rows) + GAP
    sheet = PillowImage.new("RGB", (width, height), PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), FONT_SIZE)
    for row, tiles in enumerate(rows):
        for column, tile in enumerate(tiles):
            x, y = GAP + column * cell[0], GAP + row * cell[1]
            shrinks = tile.image.shape[0] > side
            scaled = cv2.resize(
                tile.image, (side, side), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST
            )
            sheet.paste(PillowImage.fromarray(np.ascontiguousarray(scaled[..., ::-1])), (x, y))
            for number, line in enumerate(tile.lines[:NUM_LINES]):
                while line and font.getlength(line) > side:
                    line = line[:-1]
                draw.text((x, y + side + number * LINE), line, INK, font)
    return np.ascontiguousarray(np.asarray(sheet)[..., ::-1])


if __name__ == "__main__":
    run_main(main)
