"""Train a small face recogniser with a margin softmax, for the demo and for tests, on people used for nothing else.

Paper of the loss: Wang et al. 2018 (CosFace), eq. 4. Two runs with another `--arch` and `--seed` give one recogniser
for tokens and loss, and one to judge:

    python scripts/train_recognizer.py --index people.csv --out rec/train.safetensors
    python scripts/train_recognizer.py --index people.csv --out rec/judge.safetensors --arch mobilefacenet --seed 2

Leaves with 0; with 1 when the verification accuracy on held-out people is below --min_accuracy (the file is written all
the same, to be looked at); with 2 on a user's fault.

Shapes: N pictures; B batch; S side of the aligned input; E embedding; P people.
"""

from __future__ import annotations

import argparse
import dataclasses
import logging
import time
from pathlib import Path
from typing import NamedTuple

import _root  # noqa: F401 - puts the repository root on sys.path, refuses a foreign basicsr
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from basicsr.data.face_index import FaceIndex
from basicsr.data.similarity import cosines_by_identity
from basicsr.recognizers import Recognizer, RecognizerSpec, save_recognizer
from basicsr.recognizers.crop import crop_to_template
from basicsr.recognizers.iresnet import IResNet
from basicsr.recognizers.layouts import ARCFACE_MEAN, ARCFACE_STD
from basicsr.recognizers.mobilefacenet import MobileFaceNet
from basicsr.utils.cli import progress, run_main
from basicsr.utils.errors import OptionError
from basicsr.utils.img_util import img2tensor, imread
from basicsr.utils.seed import rng_for, seed_everything

logger = logging.getLogger(__name__)

NUM_FOLDS = 10
FAR = 1e-3  # false accept rate that the kept threshold stands for
MAX_PAIRS = 3000  # of each kind, for the accuracy
SHRINK_RANGE = (1.0, 4.0)  # factors that a degraded face was shrunk by
NOISE_RANGE = (0.0, 20.0)  # sigma, of 255


class FaceSet(NamedTuple):
    """Aligned faces in memory."""

    images: Tensor  # (N, 3, S, S) RGB [-1, 1]
    labels: Tensor  # (N,) int64, 0..P-1


class Verification(NamedTuple):
    """How well a recogniser tells held-out people apart."""

    accuracy: float  # mean over folds, 0..1
    far_threshold: float  # cosine that a share FAR of the different people reaches
    typical_norm: float  # mean length of the raw embeddings
    same_person_cosine: float  # mean over identities of the mean cosine of their pairs


class MarginSoftmax(nn.Module):
    """Cross-entropy of scaled cosines, the true class lowered by a margin.

    Args:
        scale: 1 / temperature of the softmax.
        margin: of the cosine.
    """

    def __init__(self, embed_dim: int, num_people: int, scale: float = 24.0, margin: float = 0.25) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.randn(num_people, embed_dim) * 0.05)
        self.scale = scale
        self.margin = margin

    def forward(self, embedding: Tensor, labels: Tensor) -> Tensor:
        """Raw embeddings (B, E), labels (B,) -> scalar."""
        cosine = F.normalize(embedding, dim=1) @ F.normalize(self.centers, dim=1).T  # (B, E) -> (B, P)
        lowered = cosine - self.margin * F.one_hot(labels, cosine.shape[1])
        return F.cross_entropy(self.scale * lowered, labels)


def read_faces(index: Path, split: str, size: int, num_people: int | None, num_photos: int | None) -> FaceSet:
    """The FFHQ-framed pictures of one split, cropped to the aligned template of S = `size` px.

    Args:
        num_people, num_photos: only the first so many people of the split, and photos of each; None: all.
    Raises:
        OptionError: fewer than two people, or none with two photos.
    """
    faces = FaceIndex.read(index, split)
    chosen = [numbers[:num_photos] for numbers in list(faces.by_identity.values())[:num_people]]
    if len(chosen) < 2 or max(len(numbers) for numbers in chosen) < 2:
        raise OptionError(f"{index}: split '{split}' needs at least two people, and somebody with two photos.")
    rows = [(faces.rows[number].path, label) for label, numbers in enumerate(chosen) for number in numbers]
    crops = [
        crop_to_template(img2tensor(imread(path))[None], (size, size))
        for path, _ in progress(rows, desc=f"read {split}")
    ]
    return FaceSet(torch.cat(crops).clamp_(-1, 1), torch.tensor([label for _, label in rows]))


def uniform(rng: torch.Generator, low: float, high: float, *shape: int) -> Tensor:
    """Independent draws from [low, high)."""
    return torch.rand(shape, generator=rng) * (high - low) + low


def degrade(images: Tensor, rng: torch.Generator) -> Tensor:
    """Shrink and enlarge a batch (B, 3, S, S) by one drawn factor, and add noise to each face."""
    num, size = images.shape[0], images.shape[-1]
    small = round(size / float(uniform(rng, *SHRINK_RANGE, 1)))
    images = F.interpolate(images, size=(small, small), mode="bilinear", antialias=True, align_corners=False)
    images = F.interpolate(images, size=(size, size), mode="bicubic", align_corners=False)
    sigma = uniform(rng, *NOISE_RANGE, num, 1, 1, 1) * 2 / 255  # of 255 -> of [-1, 1]
    return images + sigma * torch.randn(images.shape, generator=rng)


def augment(images: Tensor, rng: torch.Generator) -> Tensor:
    """Flip, move and relight a batch (B, 3, S, S); degrade half of it, so that bad faces keep their name."""
    num = images.shape[0]
    angle, zoom = uniform(rng, -0.06, 0.06, num), uniform(rng, 0.94, 1.06, num)  # radians; factor
    mirror = torch.where(uniform(rng, 0, 1, num) < 0.5, -1.0, 1.0)
    cos, sin, shift = zoom * angle.cos(), zoom * angle.sin(), uniform(rng, -0.05, 0.05, 2, num)  # of half the side
    theta = torch.stack([torch.stack([cos * mirror, -sin, shift[0]]), torch.stack([sin * mirror, cos, shift[1]])])
    grid = F.affine_grid(theta.permute(2, 0, 1), list(images.shape), align_corners=False)  # (2, 3, B) -> (B, S, S, 2)
    images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    images = images * uniform(rng, 0.8, 1.2, num, 1, 1, 1) + uniform(rng, -0.1, 0.1, num, 3, 1, 1)  # contrast, tint
    # the batch is shuffled, so which half is degraded is chance
    return torch.cat([degrade(images[: num // 2], rng), images[num // 2 :]]) if num > 1 else images


def train(
    net: nn.Module, head: MarginSoftmax, faces: FaceSet, epochs: int, batch_size: int, lr: float, seed: int
) -> None:
    """AdamW with one learning-rate cycle over `epochs` passes; `net` and `head` are trained in place."""
    rng = torch.Generator().manual_seed(seed)
    trained = [parameter for parameter in [*net.parameters(), *head.parameters()] if parameter.requires_grad]
    steps = max(1, len(faces.labels) // batch_size)  # of an epoch
    optimizer = torch.optim.AdamW(trained, lr, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, total_steps=epochs * steps, pct_start=0.2)
    net.train()
    with progress(total=epochs * steps, desc="train") as bar:
        for _ in range(epochs):
            order = torch.randperm(len(faces.labels), generator=rng)
            for chosen in order.split(batch_size)[:steps]:
                images = augment(faces.images[chosen], rng).contiguous(memory_format=torch.channels_last)
                loss = head(net(images)[0], faces.labels[chosen])
                if not torch.isfinite(loss):
                    raise OptionError(f"the loss is {loss.item()} at step {bar.n + 1}: lower --lr (now {lr}).")
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update()
                bar.set_postfix(loss=f"{loss.item():.3f}", refresh=False)


def verification_accuracy(
    cosines: NDArray[np.float64], is_same: NDArray[np.bool_], num_folds: int = NUM_FOLDS
) -> float:
    """Accuracy of "same person", LFW's protocol: each fold with the best threshold of the other folds.

    Args:
        cosines, is_same: one value per pair, in chance order; fold k holds every num_folds-th pair from k on.
    """
    fold = np.arange(len(cosines)) % num_folds
    accuracies = []
    for k in range(num_folds):
        rest = fold != k
        order = np.argsort(-cosines[rest], kind="stable")
        # right minus wrong when the first i + 1 pairs are accepted
        hits = np.where(is_same[rest][order], 1, -1).cumsum()
        threshold = cosines[rest][order][int(hits.argmax())]
        accuracies.append(((cosines[~rest] >= threshold) == is_same[~rest]).mean())
    return float(np.mean(accuracies))


@torch.inference_mode()
def verify(recognizer: Recognizer, faces: FaceSet, seed: int) -> Verification:
    """Compare held-out faces, as many pairs of one person as of two, at most MAX_PAIRS of each."""
    outputs = [recognizer.embed_template(images) for images in faces.images.split(256)]
    embedding = torch.cat([out.embedding for out in outputs])
    norms = torch.cat([out.norm for out in outputs])
    first, second = (index.numpy() for index in torch.triu_indices(len(embedding), len(embedding), 1))
    cosines = (embedding @ embedding.T).double().numpy()[first, second]
    is_same = faces.labels.numpy()[first] == faces.labels.numpy()[second]
    by_identity = cosines_by_identity(embedding.numpy(), faces.labels.tolist())
    rng = rng_for(seed, 0)
    same, different = rng.permutation(np.flatnonzero(is_same)), rng.permutation(np.flatnonzero(~is_same))
    num = min(len(same), len(different), MAX_PAIRS)
    pairs = rng.permutation(np.concatenate([same[:num], different[:num]]))
    return Verification(
        accuracy=verification_accuracy(cosines[pairs], is_same[pairs]),
        far_threshold=float(np.quantile(cosines[different], 1 - FAR)),
        typical_norm=float(norms.mean()),
        same_person_cosine=float(np.mean([pairs.mean() for pairs in by_identity])),
    )


def build_net(arch: str, size: int, embed_dim: int) -> IResNet | MobileFaceNet:
    """A network small enough for a minute on two CPU cores."""
    if arch == "iresnet":
        return IResNet((1, 1, 1, 1), 16, (size, size), embed_dim)
    return MobileFaceNet((1, 2, 1), 0.5, (size, size), embed_dim)


def train_and_verify(args: argparse.Namespace, faces: FaceSet, held_out: FaceSet) -> Verification:
    """Train, verify on clean and on degraded held-out faces, write the file; returns the clean result."""
    started = time.perf_counter()
    seed_everything(args.seed)
    net = build_net(args.arch, args.size, args.embed_dim).to(memory_format=torch.channels_last)
    num_people = int(faces.labels.max()) + 1
    train(net, MarginSoftmax(args.embed_dim, num_people), faces, args.epochs, args.batch_size, args.lr, args.seed)
    seconds = time.perf_counter() - started
    spec = RecognizerSpec(
        layout=args.arch,
        input_size=(args.size, args.size),
        color_order="rgb",
        mean=ARCFACE_MEAN,
        std=ARCFACE_STD,
        template_offset=(0.0, 0.0),
        embed_dim=args.embed_dim,
        map_shape=net.map_shape,
        typical_norm=None,
        sha256="",
    )
    clean = verify(Recognizer(net, spec), held_out, args.seed)
    rng = torch.Generator().manual_seed(args.seed)
    bad_faces = torch.cat([degrade(images, rng) for images in held_out.images.split(16)])
    degraded = verify(Recognizer(net, spec), FaceSet(bad_faces, held_out.labels), args.seed)
    facts = {
        "trained_on": args.trained_on,
        "seed": args.seed,
        "num_people": num_people,
        "num_photos": len(faces.labels),
        "accuracy": clean.accuracy,
        "accuracy_degraded": degraded.accuracy,
        "far": FAR,
        "far_threshold": clean.far_threshold,
    }
    measured = dataclasses.replace(spec, typical_norm=clean.typical_norm, same_person_cosine=clean.same_person_cosine)
    save_recognizer(net, args.out, measured, facts)
    logger.info("%s: %d people, %d photos, %.0f s", args.out, num_people, len(faces.labels), seconds)
    for name, result in (("clean", clean), ("degraded", degraded)):
        logger.info("verification of held-out people, %s: %.1f %%", name, 100 * result.accuracy)
    return clean


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    """The command line; values that cannot be raise OptionError."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--index", type=Path, required=True, help="CSV path,identity,split with train and val; FFHQ-framed faces")
    add("--out", type=Path, required=True, help=".safetensors file to write")
    add("--arch", choices=("iresnet", "mobilefacenet"), default="iresnet", help="default: %(default)s")
    add("--seed", type=int, default=0, help="of weights, order and augmentation (default: %(default)s)")
    add("--size", type=int, default=48, help="side of the aligned input, px (default: %(default)s)")
    add("--embed_dim", type=int, default=128, help="width of the embedding (default: %(default)s)")
    add("--people", type=int, help="take the first so many people of each split (default: all)")
    add("--photos", type=int, help="take the first so many photos of each (default: all)")
    add("--epochs", type=int, default=4, help="default: %(default)s")
    add("--batch_size", type=int, default=64, help="default: %(default)s")
    add("--lr", type=float, default=3e-3, help="highest learning rate of the cycle (default: %(default)s)")
    add("--threads", type=int, default=1, help="of torch; so small a net gains little by more (default: %(default)s)")
    add("--min_accuracy", type=float, default=0.9, help="below it, exit code 1; 0..1 (default: %(default)s)")
    add("--trained_on", default="generated faces", help="kept in the file for reports (default: %(default)s)")
    args = parser.parse_args(argv)
    lows = {"size": 32, "embed_dim": 2, "epochs": 1, "batch_size": 2, "threads": 1, "people": 2, "photos": 2}
    for name, low in lows.items():
        value = getattr(args, name)
        if value is not None and value < low:
            raise OptionError(f"--{name} {value}: at least {low} is needed.")
    if args.out.suffix != ".safetensors":
        raise OptionError(f"--out {args.out}: expected a name that ends in .safetensors.")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse_args(argv)
    torch.set_num_threads(args.threads)
    faces = read_faces(args.index, "train", args.size, args.people, args.photos)
    held_out = read_faces(args.index, "val", args.size, args.people, args.photos)
    result = train_and_verify(args, faces, held_out)
    if result.accuracy < args.min_accuracy:
        logger.error(
            "accuracy %.3f is below --min_accuracy %.3f: more people, photos or epochs",
            result.accuracy, args.min_accuracy,
        )  # fmt: skip
        return 1
    return 0


if __name__ == "__main__":
    run_main(main)
