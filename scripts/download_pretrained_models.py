"""Download released weights into weights/: python scripts/download_pretrained_models.py CodeFormer facelib

Sets: CodeFormer, CodeFormer_train, facelib, dlib, all; or single file names (--list shows them). The files are other
people's work under their own terms: see NOTICE.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import _root  # noqa: F401 - puts the repository root on sys.path, refuses a foreign basicsr

from basicsr.utils.cli import run_main
from basicsr.utils.download_util import DownloadError, RemoteFile, UnreachableError, by_hand, fetch
from basicsr.utils.errors import OptionError
from basicsr.utils.signature import suggest

logger = logging.getLogger(__name__)

CODEFORMER_RELEASE = "https://github.com/sczhou/CodeFormer/releases/download/v0.1.0"
GFPGAN_RELEASE = "https://github.com/TencentARC/GFPGAN/releases/download/v0.1.0"
WEIGHTS_DIR = Path(__file__).resolve().parent.parent / "weights"

# Folder below weights/ -> files of the release. The publishers give no checksums; those below were observed by several
# independent users of the same files. What has none is trusted on first use and recorded (weights/checksums.json).
FILES = {
    "CodeFormer": (
        "codeformer.pth",
        "codeformer_stage2.pth",
        "codeformer_colorization.pth",
        "codeformer_inpainting.pth",
        "vqgan_code1024.pth",
        "vqgan_discriminator.pth",
        "latent_gt_code1024.pth",
    ),
    "facelib": (
        "detection_Resnet50_Final.pth",
        "detection_mobilenet0.25_Final.pth",
        "yolov5l-face.pth",
        "yolov5n-face.pth",
        "parsing_parsenet.pth",
        "parsing_bisenet.pth",
    ),
    "dlib": (
        "mmod_human_face_detector-4cb19393.dat",
        "shape_predictor_5_face_landmarks-c4b1e980.dat",
        "shape_predictor_68_face_landmarks-fbdc2cb8.dat",
    ),
    "realesrgan": ("RealESRGAN_x2plus.pth",),
    "recognizers": ("arcface_resnet18.pth",),
}
SETS = {
    "CodeFormer": ("codeformer.pth",),
    "CodeFormer_train": (
        "vqgan_code1024.pth",
        "latent_gt_code1024.pth",
        "codeformer_stage2.pth",
        "codeformer.pth",
    ),
    "facelib": ("detection_Resnet50_Final.pth", "parsing_parsenet.pth"),
    "dlib": ("mmod_human_face_detector-4cb19393.dat", "shape_predictor_5_face_landmarks-c4b1e980.dat"),
}
SHA256 = {
    "codeformer.pth": "1009e537e0c2a07d4cabce6355f53cb66767cd4b4297ec7a4a64ca4b8a5684b7",
    "detection_Resnet50_Final.pth": "6d1de9c2944f2ccddca5f5e010ea5ae64a39845a86311af6fdf30841b0a5a16d",
    "parsing_parsenet.pth": "3d558d8d0e42c20224f13cf5a29c79eba2d59913419f945545d8cf7b72920de2",
}


def remote_files(base_url: str | None = None) -> dict[str, RemoteFile]:
    """Every known file by its name.

    Args:
        base_url: a mirror that holds all files in one folder; None for the publishers' addresses.
    """
    known = {}
    for folder, names in FILES.items():
        base = base_url or (GFPGAN_RELEASE if folder == "recognizers" else CODEFORMER_RELEASE)
        for name in names:
            known[name] = RemoteFile(f"{base.rstrip('/')}/{name}", f"{folder}/{name}", SHA256.get(name))
    return known


def chosen_names(wanted: Sequence[str]) -> list[str]:
    """File names for sets and file names, each once, in order."""
    known = {name for names in FILES.values() for name in names}
    names: dict[str, None] = {}
    for item in wanted:
        if item == "all":
            names.update(dict.fromkeys(name for members in SETS.values() for name in members))
        elif item in SETS:
            names.update(dict.fromkeys(SETS[item]))
        elif item in known:
            names[item] = None
        else:
            near = suggest(item, [*SETS, "all", *known])
            hint = f" Did you mean '{near}'?" if near else ""
            raise OptionError(f"{item}: neither a set ({', '.join(SETS)}, all) nor a known file.{hint} Try --list.")
    return list(names)


def print_list(weights_dir: Path) -> None:
    """Sets, then every file with its place and address; '+' marks what is there."""
    for title, names in SETS.items():
        print(f"{title}: {' '.join(names)}")
    print("all: the four sets above\n")
    for remote in remote_files().values():
        mark = "+" if (weights_dir / remote.name).is_file() else " "
        print(f"{mark} {remote.name}  {remote.url}")


def download(remotes: Sequence[RemoteFile], weights_dir: Path) -> int:
    """Fetch each file; one line on stderr for each that did not come, and exit code 2 then."""
    failures = 0
    offline = False
    for remote in remotes:
        try:
            if offline and not (weights_dir / remote.name).is_file():
                raise UnreachableError(f"{remote.name}: not tried; {by_hand(remote, weights_dir)}.")
            logger.info("%s: there, checksum verified", fetch(remote, weights_dir))
        except DownloadError as error:
            failures += 1
            offline = offline or isinstance(error, UnreachableError)
            sys.stderr.write(f"error: {error}\n")
    logger.info("%d of %d files are in %s", len(remotes) - failures, len(remotes), weights_dir)
    return 2 if failures else 0


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="SET|FILE", help=f"{', '.join(SETS)}, all, or file names")
    parser.add_argument("--list", action="store_true", help="show sets and files with their addresses, fetch nothing")
    parser.add_argument("--weights_dir", type=Path, default=WEIGHTS_DIR, help="where the files go (weights/)")
    parser.add_argument("--base_url", help="a mirror that holds the files in one folder")
    args = parser.parse_args(argv)
    if args.list:
        print_list(args.weights_dir)
        return 0
    if not args.names:
        raise OptionError("name a set (CodeFormer, CodeFormer_train, facelib, dlib, all) or a file; --list shows them.")
    if args.base_url is not None and not args.base_url.startswith(("https://", "http://")):
        raise OptionError(f"--base_url {args.base_url}: expected an address that starts with https:// or http://")
    known = remote_files(args.base_url)
    return download([known[name] for name in chosen_names(args.names)], args.weights_dir)


if __name__ == "__main__":
    run_main(main)
