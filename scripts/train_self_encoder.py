"""Train E_LQ: the identity of a degraded photo, from the photo alone, for the mode `self`.

    python scripts/train_self_encoder.py --index datasets/lfw64/index.csv --size 64 \\
        --recognizer weights/recognizers/mobilefacenet_ms1m_128.onnx --out weights/self_encoder_lfw64.pth

It learns on the people of split train to point where the recogniser points on the clean photo. Then it prints, for the
people of split val and three levels of degradation (the lower, middle and upper third of every range), the cosine to
the embedding of the clean photo, E_LQ beside the recogniser itself: the ceiling of blind conditioning. Beside it stand
the cosine to other people and how often the nearest clean photo is one of the right person, for a cosine alone also
rises when all outputs move towards the mean face.

A photo whose expected cosine is below what one pair of strangers in a hundred reaches (clean photos, split val) gives
no identity; that threshold goes into the file. Use it with `network_identity: {path: ..., self_path: ...}`.

Shapes: B batch; N held-out photos; S side of a face; E embedding.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import _root  # noqa: F401 - puts the repository root on sys.path, refuses a foreign basicsr
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from basicsr.archs.self_encoder_arch import SelfEncoder, SelfIdentity
from basicsr.data.degradation import DegradationRanges
from basicsr.data.face_index import FaceIndex
from basicsr.data.ffhq_blind_dataset import FFHQBlindDataset
from basicsr.data.sampler import EndlessSampler
from basicsr.models.identity_source import quality_from_norm
from basicsr.models.self_encoder import save_self_encoder, self_encoder_loss
from basicsr.recognizers import Recognizer, load_recognizer
from basicsr.utils.cli import progress, run_main
from basicsr.utils.dist_util import default_device
from basicsr.utils.errors import OptionError
from basicsr.utils.seed import seed_everything

logger = logging.getLogger(__name__)

FAR = 1e-2  # share of pairs of strangers that the smallest quality stands for
LEVELS = ("light", "medium", "severe")
HARDER_UPWARDS = {"blur_sigma": True, "downsample_range": True, "noise_range": True, "jpeg_range": False}


class Answer(NamedTuple):
    """How an embedding of degraded photos does on held-out people."""

    same: float  # mean cosine to the clean photo's embedding
    other: float  # mean cosine to clean photos of other people
    rank1: float  # share of photos whose nearest clean photo is of the right person


class Level(NamedTuple):
    """A line of the table."""

    recognizer: Answer
    student: Answer
    quality: float  # mean expected cosine
    refused: float  # share of photos below the smallest quality


def level_ranges(ranges: DegradationRanges, number: int) -> DegradationRanges:
    """The third of every range that belongs to LEVELS[number]."""
    parts: dict[str, Any] = {}
    for name, upwards in HARDER_UPWARDS.items():
        limits = getattr(ranges, name)
        if limits is not None:
            third, step = (number if upwards else len(LEVELS) - 1 - number), (limits[1] - limits[0]) / len(LEVELS)
            parts[name] = (limits[0] + third * step, limits[0] + (third + 1) * step)
    return dataclasses.replace(ranges, **parts)


@torch.no_grad()
def look(net: SelfEncoder, recognizer: Recognizer, lq: Tensor) -> tuple[Tensor, SelfIdentity]:
    """The recogniser's embedding of degraded photos (B, 3, S, S), and what E_LQ makes of it."""
    own = recognizer(lq)
    return own.embedding, net(lq, own.embedding, quality_from_norm(own.norm, recognizer.spec.typical_norm))


def train(net: SelfEncoder, recognizer: Recognizer, loader: Iterator[dict[str, Any]], args: argparse.Namespace) -> None:
    """AdamW with one learning-rate cycle; `net` is trained in place."""
    device = next(net.parameters()).device
    optimizer = torch.optim.AdamW(net.parameters(), args.lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, args.lr, total_steps=args.iterations, pct_start=0.2)
    net.train()
    with progress(range(args.iterations), desc="train") as bar:
        for step in bar:
            batch = next(loader)
            lq, gt = batch["lq"].to(device), batch["gt"].to(device)
            with torch.no_grad():
                own, target = recognizer(lq), recognizer(gt).embedding
            out = net(lq, own.embedding, quality_from_norm(own.norm, recognizer.spec.typical_norm))
            loss = self_encoder_loss(out, target)
            if not torch.isfinite(loss):
                raise OptionError(f"the loss is {loss.item()} at step {step + 1}: lower --lr (now {args.lr}).")
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()
            bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


def answer(embedding: Tensor, clean: Tensor, same_person: Tensor) -> Answer:
    """Figures of the embeddings (N, E) of degraded photos against those of the clean ones, in the same order.

    Args:
        same_person: (N, N) bool.
    """
    cosines = embedding @ clean.T  # (N, N)
    right = same_person[torch.arange(len(cosines)), cosines.argmax(1)]
    return Answer(cosines.diagonal().mean().item(), cosines[~same_person].mean().item(), right.float().mean().item())


@torch.no_grad()
def clean_embeddings(recognizer: Recognizer, loader: DataLoader[Any], device: torch.device) -> Tensor:
    """E of the clean photos, (N, E)."""
    parts = [recognizer(batch["gt"].to(device)).embedding for batch in progress(loader, desc="clean photos")]
    return torch.cat(parts).cpu()


def judge(
    net: SelfEncoder, recognizer: Recognizer, loader: DataLoader[Any], clean: Tensor, same_person: Tensor, desc: str
) -> Level:
    """The held-out photos at one level of degradation."""
    device = next(net.parameters()).device
    own, told, quality = [], [], []
    for batch in progress(loader, desc=desc):
        embedding, out = look(net, recognizer, batch["lq"].to(device))
        own.append(embedding.cpu())
        told.append(out.embedding.cpu())
        quality.append(out.quality.cpu())
    expected = torch.cat(quality)
    return Level(
        answer(torch.cat(own), clean, same_person),
        answer(torch.cat(told), clean, same_person),
        expected.mean().item(),
        (expected < net.min_quality).float().mean().item(),
    )


def held_out(args: argparse.Namespace, ranges: DegradationRanges) -> tuple[Subset[dict[str, Any]], list[str]]:
    """Photos of split val, evenly chosen, degraded by `ranges`, and whom they show."""
    dataset = FFHQBlindDataset(str(args.index), "val", args.size, ranges, use_hflip=False, seed=args.seed)
    total = min(len(dataset), args.num_val)
    places = [int(i * len(dataset) / total) for i in range(total)]
    rows = FaceIndex.read(args.index, "val").rows
    return Subset(dataset, places), [rows[place].identity for place in places]


def table(levels: dict[str, Level]) -> str:
    """The figures of all levels, a line each."""
    lines = [
        f"{'level':8} {'cosine to clean':>20} {'cosine to others':>20} {'nearest is right':>20}  expected  refused"
    ]
    lines.append(" " * 8 + f" {'E(LQ)':>11} {'E_LQ':>8}" * 3)
    for name, level in levels.items():
        pairs = zip(level.recognizer, level.student, strict=True)
        columns = "".join(f" {one:11.3f} {other:8.3f}" for one, other in pairs)
        lines.append(f"{name:8}{columns}  {level.quality:8.3f}  {level.refused:6.0%}")
    return "\n".join(lines)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line; values that cannot be raise OptionError."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--index", type=Path, required=True, help="CSV path,identity,split with train and val; FFHQ-framed faces")
    add("--recognizer", type=Path, required=True, help="the recogniser of network_identity.path")
    add("--map_node", help="as network_identity.map_node")
    add("--typical_norm", type=float, help="as network_identity.typical_norm")
    add("--out", type=Path, required=True, help=".pth file to write")
    add("--size", type=int, default=512, help="side of the faces, px (default: %(default)s)")
    defaults = DegradationRanges()
    for name in HARDER_UPWARDS:
        text = "as in the data set's degradation (default: %(default)s)"
        add(f"--{name}", type=float, nargs=2, metavar=("LOW", "HIGH"), default=getattr(defaults, name), help=text)
    add("--input_size", type=int, default=64, help="side of the aligned face that E_LQ sees (default: %(default)s)")
    add("--iterations", type=int, default=1000, help="default: %(default)s")
    add("--batch_size", type=int, default=32, help="default: %(default)s")
    add("--lr", type=float, default=2e-3, help="highest learning rate of the cycle (default: %(default)s)")
    add("--num_val", type=int, default=400, help="held-out photos to judge by (default: %(default)s)")
    add("--workers", type=int, default=2, help="loader processes (default: %(default)s)")
    add("--seed", type=int, default=0, help="of weights, order and degradation (default: %(default)s)")
    args = parser.parse_args(argv)
    for name, low in {"size": 32, "input_size": 32, "iterations": 2, "batch_size": 2, "num_val": 4}.items():
        if getattr(args, name) < low:
            raise OptionError(f"--{name} {getattr(args, name)}: at least {low} is needed.")
    return args


def main(argv: list[str] | None = None) -> int:
    """Exit code 0."""
    args = parse_args(argv)
    device = default_device()
    seed_everything(args.seed)
    recognizer = load_recognizer(args.recognizer, map_node=args.map_node, typical_norm=args.typical_norm).to(device)
    given: dict[str, Any] = {name: tuple(getattr(args, name)) for name in HARDER_UPWARDS}
    ranges = DegradationRanges(**given)
    net = SelfEncoder(recognizer.spec.embed_dim, args.input_size).to(device)
    dataset = FFHQBlindDataset(str(args.index), "train", args.size, ranges, seed=args.seed)
    options: dict[str, Any] = {"batch_size": args.batch_size, "num_workers": args.workers}
    train(net, recognizer, iter(DataLoader(dataset, sampler=EndlessSampler(len(dataset)), **options)), args)
    net.eval()
    photos, people = held_out(args, ranges)
    same_person = torch.tensor([[one == other for other in people] for one in people])
    clean = clean_embeddings(recognizer, DataLoader(photos, **options), device)
    strangers = (clean @ clean.T)[~same_person]
    if len(strangers) == 0:
        raise OptionError(f"{args.index}: split 'val' shows one person; at least two are needed.")
    net.min_quality = max(0.0, float(np.quantile(strangers.numpy(), 1 - FAR)))
    levels = {}
    for number, name in enumerate(LEVELS):
        degraded, _ = held_out(args, level_ranges(ranges, number))
        levels[name] = judge(net, recognizer, DataLoader(degraded, **options), clean, same_person, name)
    facts = {"index": str(args.index), "size": args.size, "iterations": args.iterations, "num_photos": len(dataset)}
    for name, level in levels.items():
        facts |= {f"{figure}_{name}": value for figure, value in level.student._asdict().items()}
    save_self_encoder(net, args.out, recognizer, facts)
    logger.info("%d held-out photos of %d people; E_LQ is in %s", len(people), len(set(people)), args.out)
    logger.info("%s", table(levels))
    logger.info("below an expected cosine of %.3f a photo gives no identity", net.min_quality)
    return 0


if __name__ == "__main__":
    run_main(main)
