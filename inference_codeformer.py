"""Restore the faces of photos, guided by reference photos of the person.

    python inference_codeformer.py -i old.jpg --ref mum_1.jpg mum_2.jpg --detector scrfd_2.5g_bnkps.onnx -o results/mum
    python inference_codeformer.py -i album --ref_dir family --detector scrfd_2.5g_bnkps.onnx --recursive --resume
    python inference_codeformer.py -i crop.png --ref mum_crop.png --has_aligned -w 0.5
    python inference_codeformer.py -i clip.mp4 --ref_dir family --detector scrfd_2.5g_bnkps.onnx --resume

Flags that upstream's tool has keep their names and meaning. Results of photos: OUT/final_results/<stem>.png,
OUT/cropped_faces/<stem>_<NN>.png and OUT/restored_faces/<stem>_<NN>.png; of aligned crops:
OUT/restored_faces/<stem>.png; of a video: OUT/<stem>.mp4, and the clearest view of each person in the folders of the
faces. OUT/results.json says what was used for each face. Inputs of the same name in several
folders keep their folders. A second run into OUT adds to results.json. Exit code: 0 all restored, 1 some pictures or
faces failed, 2 nothing was restored.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import signal
import sys
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent
sys.path[0] = str(ROOT)
sys.path.insert(1, str(ROOT / "scripts"))
import _root  # noqa: F401  a foreign basicsr is named and refused
import torch

from basicsr.faces import FaceDetector, load_detector
from basicsr.faces.parsing import FaceParser
from basicsr.inference import (
    FaceRestorer,
    Job,
    ResultsFile,
    choose_device,
    find_jobs,
    read_results,
)
from basicsr.inference.arguments import (
    WEIGHTS,
    check_arguments,
    check_files,
    detector_file,
    make_parser,
    parsing_file,
    upsampler_file,
)
from basicsr.inference.comparison import SWEEP
from basicsr.inference.gallery import Gallery, people_of, read_gallery
from basicsr.inference.inputs import default_output, find_requests, videos_in
from basicsr.inference.jobs import RESULTS_NAME
from basicsr.inference.photo import Painter
from basicsr.inference.pipeline import Run, RunSettings
from basicsr.inference.references import ReferenceReader
from basicsr.inference.upsampler import Upsampler
from basicsr.inference.video import VideoRun, VideoSettings, video_output
from basicsr.inference.video_file import is_video
from basicsr.recognizers import find_recognizer
from basicsr.utils.cli import run_main
from basicsr.utils.errors import UserError, WeightsError
from basicsr.utils.text_util import make_folder
from basicsr.utils.weights import sha256_of

logger = logging.getLogger("inference_codeformer")

REFERENCES_KEPT = 64  # decoded reference photos that are kept
# flags that change no result, or are said otherwise in a fingerprint
NOT_IN_FINGERPRINT = (
    "input_path", "output_path", "pairs", "ref", "device", "recursive", "resume", "dry_run", "batch_size", "threads",
    "weights", "gallery_cache", "doubtful", "suffix", "ext", "compile", "cpu_threads",
)  # fmt: skip


def load_detectors(args: argparse.Namespace) -> tuple[FaceDetector | None, FaceDetector | None]:
    """What finds the faces of photos, and of references; None for aligned crops."""
    if args.has_aligned and args.detector is None:
        return None, None
    try:
        detector = load_detector(
            args.detector or args.detection_model,
            score_threshold=args.detection_threshold,
            nms_threshold=args.nms_threshold,
            max_side=args.detect_size,
            num_threads=1,  # the threads that read ahead are the parallelism
            weights_folder=WEIGHTS,
        )
    except WeightsError as error:
        raise WeightsError(f"{error} Aligned face crops need no detector: --has_aligned.") from error
    return None if args.has_aligned else detector, detector


def make_painter(args: argparse.Namespace, device: str) -> Painter:
    """How faces get back into their photo."""
    parsing = parsing_file(args)
    parser = None if args.has_aligned or parsing is None else FaceParser(parsing, device)
    if not args.has_aligned:
        logger.info("faces are pasted by %s", parsing or "a soft oval: there is no --parsing network")
    path = upsampler_file(args)
    upsampler = None if path is None else Upsampler(path, device, args.bg_tile)
    return Painter(
        upscale=args.upscale,
        parser=parser,
        upsampler=upsampler,
        face_upsampler=upsampler if args.face_upsample else None,
        draw_box=args.draw_box,
        keep_gray=args.keep_gray,
    )


def make_gallery(
    args: argparse.Namespace, restorer: FaceRestorer, reader: ReferenceReader, output: Path
) -> Gallery | None:
    """The people of --ref_dir."""
    if args.ref_dir is None:
        return None
    if restorer.recognizer_file is None:
        raise UserError(
            f"--ref_dir: {args.weights} names no recognizer to tell people apart. Give one: --recognizer FILE."
        )
    file = detector_file(args)
    parts = [restorer.recognizer_file.sha256, None if file is None else sha256_of(file)]
    key = json.dumps([*parts, args.detection_threshold, args.nms_threshold, args.detect_size])
    cache = args.gallery_cache or output / "gallery_embeddings.safetensors"
    return read_gallery(
        args.ref_dir,
        lru_cache(REFERENCES_KEPT)(reader.read),
        lambda faces: restorer.embed(faces).cpu().numpy(),
        key=key,
        cache=cache,
        threshold=args.match_threshold,
        margin=args.match_margin,
        doubtful=args.doubtful,
    )


def fingerprints(args: argparse.Namespace, jobs: Sequence[Job]) -> dict[Path, str]:
    """Of each result what decides it: weights, flags, and the files that go in, by size and time of change."""
    flags = {name: str(value) for name, value in vars(args).items() if name not in NOT_IN_FINGERPRINT}
    people = people_of(args.ref_dir) if args.ref_dir is not None else {}
    gallery = [stamp(path) for files in people.values() for path in files]
    recognizer = None if args.recognizer is None else find_recognizer(args.recognizer) or args.recognizer
    parts = [detector_file(args), parsing_file(args), upsampler_file(args), recognizer, args.self_encoder]
    files = [stamp(path) for path in parts if path is not None]
    common: list[Any] = [sha256_of(args.weights), flags, files, gallery]

    def digest(job: Job) -> str:
        # guidance of a video starts from an earlier batch
        batch = [args.batch_size] if args.guide != 0 and is_video(job.path) else []
        text = json.dumps([*common, *(stamp(path) for path in (job.path, *job.refs)), *batch])
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    return {job.output: digest(job) for job in jobs}


def stamp(path: Path) -> tuple[str, int, int]:
    """Name, size and time of change of a file; zeros where it cannot be read, which is said when its turn comes."""
    try:
        facts = path.stat()
    except OSError:
        return str(path), 0, 0
    return str(path), facts.st_size, facts.st_mtime_ns


def left_to_do(
    args: argparse.Namespace, jobs: Sequence[Job], results: ResultsFile, settings: dict[Path, str]
) -> list[Job]:
    """The jobs that --resume does not leave out."""
    todo = [job for job in jobs if not (args.resume and results.is_done(job, settings[job.output]))]
    if args.resume:
        logger.info("%d of %d inputs were done by an earlier run", len(jobs) - len(todo), len(jobs))
    return todo


def say_what_would_be_done(jobs: Sequence[Job]) -> int:
    """For --dry_run. Exit code 0."""
    for job in jobs:
        logger.info("%s -> %s (%d references)", job.path, job.output, len(job.refs))
    logger.info("%d inputs to restore; nothing was done (--dry_run)", len(jobs))
    return 0


def main(argv: list[str] | None = None) -> int:
    """Exit code 0; 1 when some pictures could not be read; 2 when none was restored."""
    args = make_parser(__doc__).parse_args(argv)
    check_arguments(args)
    source = args.pairs or args.input_path
    output = args.output_path or default_output(source, args.fidelity_weight)
    is_clip = args.input_path is not None and is_video(args.input_path)
    folder = output / ("" if is_clip else "restored_faces" if args.has_aligned else "final_results")
    if is_clip:
        jobs = [Job(args.input_path, tuple(args.ref), video_output(args.input_path, folder, args.suffix))]
    else:
        jobs = find_jobs(find_requests(args), folder, args.suffix, args.ext)
    photo_detector, ref_detector = load_detectors(args)
    reader = ReferenceReader(ref_detector)
    read_ref = lru_cache(REFERENCES_KEPT)(reader.read)
    # references for all inputs: without one of them there is nothing to do, so they are read before the networks
    for path in args.ref:
        read_ref(path)
    check_files(args)
    results = ResultsFile(output / RESULTS_NAME, read_results(output / RESULTS_NAME))
    settings = fingerprints(args, jobs)
    todo = left_to_do(args, jobs, results, settings)
    if args.dry_run:
        return say_what_would_be_done(todo)
    if args.cpu_threads is not None:
        torch.set_num_threads(args.cpu_threads)
    restorer = FaceRestorer(
        args.weights, args.recognizer, args.device, self_encoder=args.self_encoder, precision=args.precision,
        compile_net=args.compile,
    )  # fmt: skip
    results.describe_restorer(restorer)
    painter = make_painter(args, str(choose_device(args.device)))
    make_folder(folder)
    announce_guidance(args, restorer, any(job.refs for job in jobs) or args.ref_dir is not None)
    run = RunSettings(
        folder=output,
        mode=args.mode,
        knobs={
            "w": args.fidelity_weight,
            "w_id": args.w_id,
            "id_scale": args.id_scale,
            "adain": args.adain,
            "guide": args.guide,
        },
        read_ref=read_ref,
        painter=painter,
        detector=photo_detector,
        gallery=make_gallery(args, restorer, reader, output),
        only_center_face=args.only_center_face,
        batch_size=args.batch_size,
        quality=args.quality,
        threads=args.threads,
        doubtful=args.doubtful,
        fingerprints=settings,
        grid=() if args.grid is None else args.grid or SWEEP,
    )
    if is_clip:
        clip = VideoSettings(args.smooth, args.video_crf, args.save_video_fps, args.resume)
        for job in todo:
            VideoRun(restorer, run, clip, results).restore(job)
    else:
        Run(restorer, run, results).restore(todo)
    return summary(results, len(todo), len(jobs), folder, len(videos_in(args)))


def announce_guidance(args: argparse.Namespace, restorer: FaceRestorer, has_refs: bool) -> None:
    """Say whether references guide the result, and what is missing where they cannot.

    Raises:
        UserError: --guide without a recognizer.
    """
    steps = restorer.guidance_options(args.guide).steps
    if not has_refs or args.mode in ("self", "none"):
        return
    if steps:
        logger.info("identity guidance: at most %d steps a face towards its references (--guide 0 turns it off)", steps)
    elif not restorer.takes_identity:
        way_out = (
            "--guide is 0" if restorer.recognizer else "name a recognizer for identity guidance: --recognizer FILE"
        )
        logger.warning("%s takes no identity, so references have no effect: %s.", args.weights, way_out)


def summary(results: ResultsFile, num_todo: int, num_jobs: int, folder: Path, num_videos: int) -> int:
    """What came of the run, in a line or two. Returns the exit code."""
    if results.num_by_other_weights:
        logger.warning("%s: %d faces of earlier runs are by other weights", results.path, results.num_by_other_weights)
    logger.info(
        "restored %d faces of %d inputs into %s; %d failed%s", results.num_restored, num_todo, folder,
        results.num_failed, f"; {num_videos} videos left out" if num_videos else "",
    )  # fmt: skip
    if not results.num_restored and num_todo == num_jobs:
        return 2
    return 1 if results.num_failed else 0


if __name__ == "__main__":
    # a run that is told to end says what it has done, as after Ctrl-C
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    run_main(main)
