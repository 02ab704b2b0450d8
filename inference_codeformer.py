"""Restore degraded faces, guided by reference photos of the person.

    python inference_codeformer.py -i old.png --ref mum_1.jpg mum_2.jpg --has_aligned -w 0.5 -o results/mum

Flags that upstream's tool has keep their names and meaning.
Results: OUT/restored_faces/<stem>.png and OUT/results.json.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

sys.path[0] = str(Path(__file__).resolve().parent)

from basicsr.inference import FaceRestorer, References, RestoredFace
from basicsr.utils.cli import progress, run_main
from basicsr.utils.errors import ImageFileError, UserError
from basicsr.utils.img_util import Image, imread, imwrite, list_images

logger = logging.getLogger("inference_codeformer")


class Job(NamedTuple):
    """One face to restore."""

    path: Path
    refs: tuple[Path, ...]
    output: Path


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
        "--pairs", type=Path, help="CSV with columns lq,ref instead of -i/--ref: a reference for each input"
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


def find_jobs(args: argparse.Namespace, output: Path) -> list[Job]:
    """What to restore, with which references, to which files."""
    if args.pairs is not None:
        pairs = read_pairs(args.pairs)
    elif args.input_path.is_dir():
        pairs = [(path, tuple(args.ref)) for path in list_images(args.input_path, recursive=False)]
    else:
        pairs = [(args.input_path, tuple(args.ref))]
    stems = [path.stem for path, _ in pairs]
    suffix = f"_{args.suffix}" if args.suffix else ""
    jobs = []
    for path, refs in pairs:
        name = path.stem if stems.count(path.stem) == 1 else path.name  # a.png and a.jpg must not share a result
        jobs.append(Job(path, refs, output / "restored_faces" / f"{name}{suffix}.png"))
    return jobs


def read_pairs(path: Path) -> list[tuple[Path, tuple[Path, ...]]]:
    """(lq, refs) of a CSV; paths are relative to its folder, several references are separated by ';'."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise UserError(f"--pairs {path}: cannot be read ({error.strerror}).") from error
    if not rows or not {"lq", "ref"} <= rows[0].keys():
        raise UserError(f"--pairs {path}: needs rows below a header with the columns lq and ref.")
    folder = path.parent
    return [(folder / row["lq"], tuple(folder / ref for ref in row["ref"].split(";") if ref)) for row in rows]


def load_jobs(
    jobs: Sequence[Job], restorer: FaceRestorer, mode: str | None, failures: list[str]
) -> Iterator[LoadedJob]:
    """Read pictures; a broken one is named in `failures` and the rest goes on. The networks see the references of
    neighbouring jobs once where they are the same."""
    encodes = restorer.takes_identity and mode in (None, "ref")
    last_paths: tuple[Path, ...] = ()
    refs: References = ()
    for job in jobs:
        try:
            if job.refs != last_paths:
                photos = [imread(path) for path in job.refs]
                refs, last_paths = restorer.encode_references(photos) if encodes and photos else photos, job.refs
            yield LoadedJob(job, imread(job.path), refs)
        except ImageFileError as error:
            logger.error("%s", error)
            failures.append(str(error))


def restore_all(restorer: FaceRestorer, jobs: Sequence[Job], args: argparse.Namespace) -> tuple[list[Any], list[str]]:
    """Restore in batches. Returns the entries of results.json, and a line for each picture that could not be read."""
    knobs = {"w": args.fidelity_weight, "w_id": args.w_id, "id_scale": args.id_scale, "adain": args.adain}
    entries: list[Any] = []
    failures: list[str] = []
    loaded = load_jobs(jobs, restorer, args.mode, failures)
    with progress(total=len(jobs), desc="restore") as bar:
        while batch := [item for _, item in zip(range(args.batch_size), loaded, strict=False)]:
            start = time.perf_counter()
            faces = restorer.restore_batch([b.photo for b in batch], [b.refs for b in batch], mode=args.mode, **knobs)
            seconds = (time.perf_counter() - start) / len(batch)
            for item, face in zip(batch, faces, strict=True):
                imwrite(item.job.output, face.image)
                entries.append(describe(item.job, face, knobs, seconds))
            bar.update(len(batch))
    return entries, failures


def describe(job: Job, face: RestoredFace, knobs: dict[str, Any], seconds: float) -> dict[str, Any]:
    """One entry of results.json."""
    return {
        "input": str(job.path),
        "restored": str(job.output),
        "refs": [str(ref) for ref in job.refs],
        "mode": face.mode,
        "similarity_before": face.similarity_before,
        "similarity_after": face.similarity_after,
        "seconds": round(seconds, 4),
        **knobs,
    }


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is loaded."""
    if (args.input_path is None) == (args.pairs is None):
        raise UserError("give either -i FILE|FOLDER or --pairs CSV.")
    if args.input_path is not None and not args.input_path.exists():
        raise UserError(f"-i {args.input_path}: no such file or folder.")
    if not args.has_aligned:
        raise UserError(
            "only aligned face crops are restored so far: crop and align the faces to the FFHQ template, "
            "then pass --has_aligned."
        )
    if args.mode == "ref" and args.pairs is None and not args.ref:
        raise UserError("--mode ref: needs reference photos. Name them with --ref, or use --mode self.")
    if args.batch_size < 1 or args.fidelity_weight < 0:
        raise UserError("--batch_size must be at least 1 and -w at least 0.")


def main(argv: list[str] | None = None) -> int:
    """Exit code 0; 1 when some pictures could not be read."""
    args = parse_arguments(argv)
    check_arguments(args)
    source = args.pairs or args.input_path
    output = args.output_path or Path("results") / f"{source.stem}_{args.fidelity_weight}"
    jobs = find_jobs(args, output)
    restorer = FaceRestorer(args.weights, args.recognizer, args.device, self_encoder=args.self_encoder)
    if args.ref and not restorer.takes_identity:
        logger.warning("%s takes no identity: --ref has no effect.", args.weights)
    entries, failures = restore_all(restorer, jobs, args)
    if entries:
        text = json.dumps({"weights": str(args.weights), "faces": entries, "failures": failures}, indent=1)
        (output / "results.json").write_text(text + "\n", encoding="utf-8")
    logger.info("restored %d of %d faces into %s", len(entries), len(jobs), output / "restored_faces")
    return 1 if failures else 0


if __name__ == "__main__":
    run_main(main)
