"""The demo: restore people in no training with the shipped small weights, and measure whose faces come out.

    make demo

Generates 20 identities, degrades their images until 5 to 11 px across are left, and restores them without a
reference, with one, with one and guidance, and guided by somebody else's reference. The evaluation recognizer then
names each restored face: the nearest of the 20 references. At last each training stage runs for a few iterations from
the shipped weights. No GPU.

Writes demo_out/: summary.json (seconds, matching, ids), demo.png, report/report.html. Every step is a program that a
real run uses, too. The weights (weights/demo/) are those of scripts/train_demo.py; their checksums are verified first.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import _root
import evaluate
import make_generated_faces
import make_test_set
import matplotlib
import numpy as np
import torch
from _steps import Step, Steps
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

import inference_codeformer
from basicsr.data.face_index import FaceIndex
from basicsr.recognizers import Recognizer, load_recognizer
from basicsr.utils.cli import run_main
from basicsr.utils.csv_util import read_rows, write_rows
from basicsr.utils.errors import UserError, WeightsError
from basicsr.utils.img_util import Image, img2tensor, imread
from basicsr.utils.text_util import write_text
from basicsr.utils.weights import load_file, load_state, save_atomic, sha256_of

logger = logging.getLogger("demo")

ROOT = _root.ROOT
OUT, WEIGHTS, SUMS = ROOT / "demo_out", ROOT / "weights" / "demo", "SHA256SUMS"
SIZE = 64  # px
NUM_TRAINED, NUM_TESTED, NUM_IMAGES = 10, 20, 5  # identities of the short trainings and of the test; images of each
SEED = 1  # of the identities: those of scripts/train_demo.py have seed 0
GUIDE = 10  # steps
W = 0  # fidelity weight: so little is left of the images that there is nothing to be true to
# Name of a restoration -> its table of pairs and its flags.
RUNS = {
    "none": ("pairs.csv", ["--mode", "none"]),
    "ref": ("pairs.csv", ["--mode", "ref", "--guide", "0"]),
    "guided": ("pairs.csv", ["--mode", "ref", "--guide", str(GUIDE)]),
    "wrong": ("pairs_wrong.csv", ["--mode", "ref", "--guide", str(GUIDE)]),
}
COLUMNS = (
    "degraded",
    "reference",
    "restored\nwithout it",
    "with it",
    "with it,\nguided",
    "guided by\nsomebody else",
    "ground truth",
)
NUM_PICTURED, TILE, GAP, HEADING = 5, 132, 6, 40  # rows; px
FACE = slice(SIZE // 8, SIZE - SIZE // 8)  # of both sides: the face without most of the background
NAMES_OF_RUNS = (*RUNS, "ground_truth")


class Naming(NamedTuple):
    """Whom the evaluation recognizer sees in the images of one run."""

    is_right: NDArray[np.bool_]  # (N,) the nearest reference is that of the right identity
    ids: NDArray[np.float64]  # (N,) cosine to the ground truth


def name_faces(
    faces: NDArray[np.float32], truth: NDArray[np.float32], candidates: NDArray[np.float32], identity: NDArray[np.int64]
) -> Naming:
    """Match each face to the nearest candidate.

    Args:
        faces, truth: (N, E) unit embeddings of the images and of their ground truths.
        candidates: (C, E) unit embeddings, one reference of each identity.
        identity: (N,) index of the right candidate.
    """
    nearest = (faces @ candidates.T).argmax(1)  # (N, E) @ (E, C) -> (N,)
    return Naming(nearest == identity, (faces * truth).sum(1, dtype=np.float64))


def check_sums(folder: Path) -> list[Path]:
    """The weights that SHA256SUMS lists, each of which must be as it was shipped.

    Raises:
        WeightsError: the list or a file is missing, or a file is another one.
    """
    again = "Get them again (git checkout weights/demo), or make your own: make demo-train."
    try:
        lines = (folder / SUMS).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise WeightsError(f"{folder / SUMS}: cannot be read ({error.strerror}). {again}") from error
    files = []
    for line in lines:
        expected, name = line.split(maxsplit=1)
        files.append(folder / name)
        found = sha256_of(files[-1])
        if found != expected:
            raise WeightsError(f"{files[-1]}: sha256 {found:.12}..., expected {expected:.12}... {again}")
    return files


def place_weights() -> None:
    """Put the shipped weights where a training would have put them."""
    check_sums(WEIGHTS)
    (OUT / "recognizers").mkdir(parents=True)
    for name in ("train", "judge"):
        shutil.copyfile(WEIGHTS / f"{name}.safetensors", OUT / "recognizers" / f"{name}.safetensors")
    for stage in (1, 2, 3):
        source = WEIGHTS / f"stage{stage}.safetensors"
        contents = load_file(source)
        state = {name: value.float() for name, value in load_state(source).items()}
        models = OUT / "experiments" / f"demo_stage{stage}" / "models"
        save_atomic({**contents, "params": state, "params_ema": state}, models / "net_g_latest.pth")


def make_faces() -> None:
    """Generated identities: some for the short trainings, then those of the test."""
    splits = f"train={NUM_TRAINED},test={NUM_TESTED}"
    arguments = ["--out", OUT / "faces", "--people", NUM_TRAINED + NUM_TESTED, "--photos", NUM_IMAGES, "--size", SIZE]
    arguments += ["--seed", SEED, "--splits", splits, "--workers", 1]
    make_generated_faces.main([str(argument) for argument in arguments])


def make_pairs() -> None:
    """Degraded images; the first image of each identity is its reference and is not restored."""
    index, folder = OUT / "faces" / "index.csv", OUT / "test_set"
    arguments = ["--index", index, "--size", SIZE, "--strength", "extreme", "--out", folder]
    make_test_set.main([str(argument) for argument in arguments])
    faces = FaceIndex.read(index, "test")
    reference = {name: faces.path_at(int(rows[0])) for name, rows in faces.by_identity.items()}
    names = list(reference)
    pairs, wrong = [], []
    for _, row in read_rows(folder / "pairs.csv"):
        name = row["identity"]
        if faces.path_at(int(Path(row["restored"]).stem)) == reference[name]:
            continue
        other = names[(names.index(name) + len(names) // 2) % len(names)]
        pairs.append({**row, "ref": str(reference[name]), "ref:wrong": str(reference[other])})
        wrong.append({**row, "ref": str(reference[other]), "ref:wrong": ""})
    write_rows(folder / "pairs.csv", pairs)
    write_rows(folder / "pairs_wrong.csv", wrong)


def restore(run: str) -> None:
    """Restore all images in the way of one run."""
    table, flags = RUNS[run]
    weights = OUT / "experiments" / "demo_stage3" / "models" / "net_g_latest.pth"
    command = ["--pairs", str(OUT / "test_set" / table), "--has_aligned", "--weights", str(weights), "-w", str(W)]
    command += ["--batch_size", "16", "-o", str(OUT / "results" / run), *flags]
    if inference_codeformer.main(command):
        raise UserError(f"the restoration '{run}' failed; its reason stands above.")


def restored_file(run: str, name: str) -> Path:
    """The image `name` of a run."""
    if run == "ground_truth":
        return OUT / "test_set" / "gt" / name
    return OUT / "results" / run / "restored_faces" / name


@torch.inference_mode()
def embed(recognizer: Recognizer, files: Sequence[Path]) -> NDArray[np.float32]:
    """(N, E) unit embeddings of aligned images of one size."""
    images = torch.stack([img2tensor(imread(file)) for file in files])  # (N, 3, S, S)
    return np.asarray(recognizer(images).embedding.numpy(), np.float32)


def measure() -> dict[str, Naming]:
    """Name the faces of every run by the evaluation recognizer, and those of the ground truth."""
    rows = [row for _, row in read_rows(OUT / "test_set" / "pairs.csv")]
    references = {row["identity"]: Path(row["ref"]) for row in rows}
    identity = np.array([list(references).index(row["identity"]) for row in rows])
    judge = load_recognizer(OUT / "recognizers" / "judge.safetensors")
    candidates = embed(judge, list(references.values()))
    faces = {run: embed(judge, [restored_file(run, row["restored"]) for row in rows]) for run in NAMES_OF_RUNS}
    return {run: name_faces(found, faces["ground_truth"], candidates, identity) for run, found in faces.items()}


def summary_of(found: Mapping[str, Naming], num_candidates: int, seconds: Mapping[str, float]) -> dict[str, object]:
    """What summary.json holds."""
    matching = {run: float(naming.is_right.mean()) for run, naming in found.items()}
    return {
        "seconds": {**seconds, "total": sum(seconds.values())},
        "matching": {"candidates": num_candidates, **matching},
        "ids": {run: float(naming.ids.mean()) for run, naming in found.items()},
    }


def sentence_of(found: Mapping[str, Naming]) -> str:
    """The result in one sentence."""
    share = {run: f"{naming.is_right.mean():.0%}" for run, naming in found.items()}
    return (
        f"An evaluation recognizer that took no part in any training finds the right one of {NUM_TESTED} people in "
        f"{share['none']} of {len(found['none'].ids)} faces restored without a reference, {share['ref']} with one, "
        f"{share['guided']} with one and guidance, {share['wrong']} guided by somebody else's reference, and "
        f"{share['ground_truth']} of the ground truths."
    )


def write_picture(found: Mapping[str, Naming]) -> Path:
    """demo.png, a row for each of a few identities, and what each run made of the face.

    Of the faces that are recognized when guided and not without a reference: those whose pixels change most.
    """
    rows = [row for _, row in read_rows(OUT / "test_set" / "pairs.csv")]
    none, guided = (
        np.stack([imread(restored_file(run, row["restored"])) for row in rows]).astype(np.float32)[:, FACE, FACE]
        for run in ("none", "guided")
    )
    shown: list[dict[str, str]] = []
    for number in np.argsort(-np.abs(guided - none).mean((1, 2, 3))):
        row = rows[int(number)]
        is_clear = found["guided"].is_right[number] and not found["none"].is_right[number]
        if is_clear and row["identity"] not in {other["identity"] for other in shown}:
            shown.append(row)
    shown = shown[:NUM_PICTURED]
    step = TILE + GAP
    sheet = PillowImage.new("RGB", (len(COLUMNS) * step + GAP, HEADING + len(shown) * step), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts/ttf/DejaVuSans.ttf"), 13)
    for column, heading in enumerate(COLUMNS):
        middle = GAP + column * step + TILE // 2
        draw.multiline_text((middle, HEADING // 2), heading, "black", font, anchor="mm", align="center")
    for line, row in enumerate(shown):
        name = row["restored"]
        files = [OUT / "test_set" / row["lq"], Path(row["ref"]), *(restored_file(run, name) for run in NAMES_OF_RUNS)]
        for column, file in enumerate(files):
            place = (GAP + column * step, HEADING + line * step)
            sheet.paste(enlarged(imread(file), TILE), place)
            if COLUMNS[column].startswith("guided by"):
                sheet.paste(enlarged(imread(Path(row["ref:wrong"])), TILE // 3), place)
    path = OUT / "demo.png"
    colors = sheet.quantize(256)
    sheet.quantize(palette=colors, dither=PillowImage.Dither.FLOYDSTEINBERG).save(path)  # half of the bytes
    return path


def enlarged(image: Image, side: int) -> PillowImage.Image:
    """uint8 BGR (S, S, 3) -> RGB (side, side)."""
    return PillowImage.fromarray(image[..., ::-1]).resize((side, side), PillowImage.Resampling.BICUBIC)


def write_report(sentence: str) -> None:
    """The report over all runs; its first screen is the image and the sentence."""
    command = ["--pairs", str(OUT / "test_set" / "pairs.csv")]
    folders = {"degraded": OUT / "test_set" / "lq"} | {run: restored_file(run, "").parent for run in RUNS}
    for run, folder in folders.items():
        command += ["--restored", f"{run}={folder}"]
    command += ["--recognizer", str(OUT / "recognizers" / "judge.safetensors")]
    command += ["--recognizer_label", "recognizer of generated faces"]
    command += ["--trained_with", str(OUT / "recognizers" / "train.safetensors")]
    command += ["--title", "ID-CodeFormer demo: generated faces, 64 px", "--note", sentence]
    command += ["--cover", str(OUT / "demo.png"), "--out", str(OUT / "report")]
    if evaluate.main(command):
        raise UserError("some images could not be evaluated; the reason stands above.")


def short_training(stage: int) -> Step:
    """A few iterations of a stage from the shipped weights."""
    done = OUT / "experiments" / f"demo_short_stage{stage}" / "models" / "net_g_latest.pth"
    return Step(f"stage {stage}", ["basicsr/train.py", "-opt", f"options/demo/short_stage{stage}.yml"], done)


@contextlib.contextmanager
def timed(seconds: dict[str, float], step: str) -> Iterator[None]:
    """Add what the body takes to `seconds`."""
    logger.info("== %s", step)
    start = time.perf_counter()
    yield
    seconds[step] = round(time.perf_counter() - start, 1)


def main(argv: list[str] | None = None) -> int:
    """Exit code 0 when the summary, the image and the report are there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.parse_args(argv)
    shutil.rmtree(OUT, ignore_errors=True)
    torch.set_num_threads(1)  # two threads wait for each other where a core is busy: then it takes five times as long
    seconds: dict[str, float] = {}
    with timed(seconds, "weights"):
        place_weights()
    with timed(seconds, "faces"):
        make_faces()
    with timed(seconds, "test set"):
        make_pairs()
    for run in RUNS:
        with timed(seconds, f"restore {run}"):
            restore(run)
    with timed(seconds, "matching"):
        found = measure()
    sentence = sentence_of(found)
    with timed(seconds, "report"):
        write_picture(found)
        write_report(sentence)
    with Steps() as steps:
        for stage in (1, 2, 3):
            with timed(seconds, f"train stage {stage}"):
                steps.run(short_training(stage), {"OMP_NUM_THREADS": "1"})
    summary = summary_of(found, NUM_TESTED, seconds)
    write_text(OUT / "summary.json", json.dumps(summary, indent=2) + "\n")
    logger.info("%s", sentence)
    logger.info("%.0f s. Open %s", sum(seconds.values()), OUT / "report" / "report.html")
    return 0


if __name__ == "__main__":
    run_main(main)
