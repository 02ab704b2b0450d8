"""Restore degraded faces, guided by reference photos of the person.

    python inference_codeformer.py -i old.png --ref mum_1.jpg mum_2.jpg --has_aligned -w 0.5 -o results/mum

Flags that upstream's tool has keep their names and meaning.
Results: OUT/restored_faces/<stem>.png and OUT/results.json. Inputs of the same name in several folders keep their
folders: OUT/restored_faces/a/001.png. A second run into OUT adds to results.json.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent
sys.path[0] = str(ROOT)
sys.path.insert(1, str(ROOT / "scripts"))
import _root  # noqa: F401  a foreign basicsr is named and refused

from basicsr.inference import (
    FaceRestorer,
    Job,
    References,
    Request,
    ResultsFile,
    check_knobs,
    check_square,
    find_jobs,
    read_pairs,
    read_results,
)
from basicsr.utils.cli import progress, run_main
from basicsr.utils.errors import ImageFileError, UserError
from basicsr.utils.img_util import Image, imread, imwrite, list_images
from basicsr.utils.text_util import make_folder

logger = logging.getLogger("inference_codeformer")


class LoadedJob(NamedTuple):
    """A job whose pictures could all be read."""

    job: Job
    photo: Image
    refs: References


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", "--input_path", type=Path, help="picture or folder of pictures")
    parser.add_argument(
        "--ref", type=Path, nargs="+", default=[], help="reference photos of the person, for all inputs"
    )
    parser.add_argument(
        "--pairs", type=Path, help="CSV with columns lq,ref[,restored] instead of -i/--ref: a reference for each input"
    )
    parser.add_argument("-o", "--output_path", type=Path, help="default: results/<input name>_<w>")
    parser.add_argument("-w", "--fidelity_weight", type=float, default=0.5, help="0 quality .. 1 fidelity to the input")
    parser.add_argument("--w_id", type=float, default=1.0, help="strength of the identity styling, 0 is off")
    parser.add_argument(
        "--id_scale", type=float, default=1.0, help="guidance by the identity: 0 blind, 1 plain, 2 strong"
    )
    parser.add_argument("--mode", choices=["ref", "self", "none"], help="default: ref with references, else self")
    parser.add_argument("--has_aligned", action="store_true", help="inputs and references are aligned face crops")
    parser.add_argument(
        "--adain", action=argparse.BooleanOptionalAction, help="default: on for CodeFormer weights only"
    )
    parser.add_argument("--weights", type=Path, default=Path("weights/CodeFormer/codeformer.pth"))
    parser.add_argument("--recognizer", type=Path, help="recogniser file, if not where the weights say")
    parser.add_argument("--self_encoder", type=Path, help="E_LQ file for the mode self, if not where the weights say")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto")
    parser.add_argument("--batch_size", type=int, default=4)
    parser.add_argument("--suffix", help="_SUFFIX is added to the names of the results")
    return parser.parse_args(argv)


def find_requests(args: argparse.Namespace) -> list[Request]:
    """What to restore, with which references."""
    if args.pairs is not None:
        return read_pairs(args.pairs, needs_refs=args.mode == "ref")
    inputs = list_images(args.input_path, recursive=False) if args.input_path.is_dir() else [args.input_path]
    return [Request(path, tuple(args.ref)) for path in inputs]


def read_aligned(path: Path) -> Image:
    """A picture that is square, as aligned crops are."""
    image = imread(path)
    check_square(image, str(path))
    return image


def load_jobs(
    jobs: Sequence[Job],
    restorer: FaceRestorer,
    mode: str | None,
    photos_of: Mapping[tuple[Path, ...], Sequence[Image]],
    results: ResultsFile,
) -> Iterator[LoadedJob]:
    """Read pictures; a broken one is named in `results` and the rest goes on. The networks see the references of
    neighbouring jobs once where they are the same; those in `photos_of` are there already."""
    encodes = restorer.takes_identity and mode in (None, "ref")
    last_paths: tuple[Path, ...] = ()
    refs: References = ()
    for job in jobs:
        try:
            if job.refs != last_paths:
                photos = photos_of.get(job.refs) or [read_aligned(path) for path in job.refs]
                refs, last_paths = restorer.encode_references(photos) if encodes and photos else photos, job.refs
            yield LoadedJob(job, read_aligned(job.path), refs)
        except ImageFileError as error:
            logger.error("%s", error)
            results.fail(job, error)


def restore_all(
    restorer: FaceRestorer,
    jobs: Sequence[Job],
    args: argparse.Namespace,
    photos_of: Mapping[tuple[Path, ...], Sequence[Image]],
    results: ResultsFile,
) -> None:
    """Restore in batches. However the run ends, `results` is on disk and speaks of every picture that is."""
    knobs = {"w": args.fidelity_weight, "w_id": args.w_id, "id_scale": args.id_scale, "adain": args.adain}
    loaded = load_jobs(jobs, restorer, args.mode, photos_of, results)
    try:
        with progress(total=len(jobs), desc="restore") as bar:
            while batch := [item for _, item in zip(range(args.batch_size), loaded, strict=False)]:
                start = time.perf_counter()
                photos, refs = [b.photo for b in batch], [b.refs for b in batch]
                faces = restorer.restore_batch(photos, refs, mode=args.mode, **knobs)
                seconds = (time.perf_counter() - start) / len(batch)
                for item, face in zip(batch, faces, strict=True):
                    imwrite(item.job.output, face.image)
                    results.add(item.job, face, seconds)
                results.write_when_due()
                bar.update(len(batch))
        results.finish()
    finally:
        results.write()


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is loaded."""
    if (args.input_path is None) == (args.pairs is None):
        raise UserError("give either -i FILE|FOLDER or --pairs CSV.")
    if args.pairs is not None and args.ref:
        raise UserError("--ref beside --pairs: the references of --pairs stand in its column ref. Leave one out.")
    if args.input_path is not None and not args.input_path.exists():
        raise UserError(f"-i {args.input_path}: no such file or folder.")
    if not args.has_aligned:
        raise UserError(
            "only aligned face crops are restored so far: crop and align the faces to the FFHQ template, "
            "then pass --has_aligned."
        )
    if args.mode == "ref" and args.pairs is None and not args.ref:
        raise UserError("--mode ref: needs reference photos. Name them with --ref, or use --mode self.")
    if args.batch_size < 1:
        raise UserError(f"--batch_size is {args.batch_size}, expected at least 1.")
    check_knobs(args.fidelity_weight, args.w_id, args.id_scale)


def main(argv: list[str] | None = None) -> int:
    """Exit code 0; 1 when some pictures could not be read; 2 when none was restored."""
    args = parse_arguments(argv)
    check_arguments(args)
    source = args.pairs or args.input_path
    output = args.output_path or Path("results") / f"{source.stem}_{args.fidelity_weight}"
    jobs = find_jobs(find_requests(args), output / "restored_faces", args.suffix)
    # references for all inputs: without one of them there is nothing to do, so they are read before the networks
    photos_of = {tuple(args.ref): [read_aligned(path) for path in args.ref]}
    earlier = read_results(output / "results.json")
    restorer = FaceRestorer(args.weights, args.recognizer, args.device, self_encoder=args.self_encoder)
    make_folder(output / "restored_faces")
    if not restorer.takes_identity and any(job.refs for job in jobs):
        logger.warning("%s takes no identity: references have no effect.", args.weights)
    results = ResultsFile(output / "results.json", earlier, restorer)
    restore_all(restorer, jobs, args, photos_of, results)
    if results.num_by_other_weights:
        logger.warning("%s: %d faces of earlier runs are by other weights", results.path, results.num_by_other_weights)
    logger.info("restored %d of %d faces into %s", results.num_restored, len(jobs), output / "restored_faces")
    if not results.num_restored:
        return 2
    return 1 if results.num_failed else 0


if __name__ == "__main__":
    run_main(main)
