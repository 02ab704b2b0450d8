"""Ground truths through the autoencoder of stage I: the ceiling of what code prediction can show at w = 0.

    python scripts/reconstruct.py --weights experiments/vqgan/models/net_g_latest.pth --input datasets/test/gt --out DIR

Writes one PNG for each picture under the same name; pictures that are there already are not made again. Report this
first: where the reconstruction has lost who a person is, no code prediction can bring it back.
"""

from __future__ import annotations

import argparse
import logging
from itertools import islice
from pathlib import Path
from typing import cast

import _root  # noqa: F401
import torch

import basicsr.archs  # noqa: F401  fills the registry of networks
from basicsr.archs.vqgan_arch import VQAutoEncoder
from basicsr.utils.cli import progress, run_main
from basicsr.utils.dist_util import default_device
from basicsr.utils.errors import UserError, WeightsError
from basicsr.utils.img_util import img2tensor, imread, imwrite, list_images, tensor2img
from basicsr.utils.registry import ARCH_REGISTRY
from basicsr.utils.text_util import make_folder
from basicsr.utils.weights import load_file, load_into, load_state

logger = logging.getLogger("reconstruct")


def main(argv: list[str] | None = None) -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True, help="net_g_*.pth of a stage I of this program")
    parser.add_argument("--input", type=Path, required=True, help="folder of aligned faces of the network's size")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch_size", type=int, default=8)
    args = parser.parse_args(argv)
    if args.batch_size < 1:
        raise UserError(f"--batch_size is {args.batch_size}, expected at least 1.")
    net = load_autoencoder(args.weights)
    pictures = list_images(args.input)
    make_folder(args.out)
    missing = [path for path in pictures if not target_of(path, args.input, args.out).exists()]
    logger.info("%d pictures, %d of them made before", len(pictures), len(pictures) - len(missing))
    left = iter(progress(missing, desc="reconstruct"))
    while paths := list(islice(left, args.batch_size)):
        reconstruct(net, paths, args.input, args.out)
    return 0


def load_autoencoder(weights: Path) -> VQAutoEncoder:
    """The network of a stage I file, which carries its own constructor arguments; in eval mode, on the GPU if any.

    Raises:
        WeightsError: the file holds another network, or none.
    """
    spec = load_file(weights).get("network_g")
    if not isinstance(spec, dict) or spec.get("type") != "VQAutoEncoder":
        found = spec.get("type") if isinstance(spec, dict) else "no network_g"
        raise WeightsError(f"{weights}: found {found}, expected the VQAutoEncoder that stage I of this program wrote.")
    net = cast(VQAutoEncoder, ARCH_REGISTRY.build(spec))
    load_into(net, load_state(weights), where=str(weights))
    return net.to(default_device()).eval()


@torch.inference_mode()
def reconstruct(net: VQAutoEncoder, paths: list[Path], source: Path, out: Path) -> None:
    """Write the reconstructions of some pictures.

    Raises:
        UserError: a picture has another size than the first one of the batch.
    """
    faces = [imread(path) for path in paths]
    for path, face in zip(paths, faces, strict=True):
        if face.shape != faces[0].shape:
            raise UserError(f"{path}: {face.shape[1]}x{face.shape[0]} px, others here are {faces[0].shape[1]} wide.")
    device = net.quantize.codebook.device
    restored = net(torch.stack([img2tensor(face) for face in faces]).to(device)).restored
    for path, picture in zip(paths, restored, strict=True):
        imwrite(target_of(path, source, out), tensor2img(picture.cpu()))


def target_of(path: Path, source: Path, out: Path) -> Path:
    """Where the reconstruction of a picture goes; sub-folders are kept."""
    return (out / path.relative_to(source)).with_suffix(".png")


if __name__ == "__main__":
    run_main(main)
