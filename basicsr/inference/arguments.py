"""The command line of inference_codeformer.py, and the checks that need nothing but it."""

from __future__ import annotations

import argparse
from pathlib import Path

from basicsr.faces.load import ALIGNED, find_detector
from basicsr.inference.gallery import MATCH_MARGIN, MATCH_THRESHOLD
from basicsr.inference.values import DOUBTFUL, check_knobs
from basicsr.inference.video_file import is_video
from basicsr.models.identity_guidance import GuidanceOptions
from basicsr.utils.errors import UserError, WeightsError

WEIGHTS = Path(__file__).resolve().parents[2] / "weights"  # where scripts/download_pretrained_models.py puts them
NAMED_UPSAMPLERS = {"realesrgan": WEIGHTS / "realesrgan/RealESRGAN_x2plus.pth"}  # upstream's word
PARSING = WEIGHTS / "facelib/parsing_parsenet.pth"
FORMATS = ("auto", "png", "jpg", "jpeg", "webp", "tif", "tiff", "bmp")


def make_parser(description: str | None) -> argparse.ArgumentParser:
    """All flags. Those that upstream's tool has keep their names and meaning."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-i", "--input_path", type=Path, help="picture, folder of pictures, or video")
    parser.add_argument("-o", "--output_path", type=Path, help="default: results/<input name>_<w>")
    parser.add_argument("-w", "--fidelity_weight", type=float, default=0.5, help="0 quality .. 1 fidelity to the input")
    parser.add_argument("--weights", type=Path, default=WEIGHTS / "CodeFormer/codeformer.pth",
                        help="of the network (default: weights/CodeFormer/codeformer.pth)")  # fmt: skip
    parser.add_argument("--device", choices=["auto", "cpu", "cuda", "mps"], default="auto")
    parser.add_argument("--precision", choices=["auto", "float32", "bf16", "fp16"], default="float32",
                        help="float32 (default, as released); auto: bf16 where the device has it")  # fmt: skip
    parser.add_argument("--compile", action="store_true", help="torch.compile: minutes at the start; no gain on a CPU")
    parser.add_argument("--cpu_threads", type=int, help="of the network on a CPU (default: one for each core)")
    _add_identity(parser.add_argument_group("identity"))
    _add_photos(parser.add_argument_group("whole photos"))
    _add_video(parser.add_argument_group("videos"))
    _add_files(parser.add_argument_group("files"))
    return parser


def _add_identity(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--ref", type=Path, nargs="+", default=[], help="reference photos of the person, for all faces")
    group.add_argument("--ref_dir", type=Path, help="gallery: a folder per person, or a photo per person")
    group.add_argument("--pairs", type=Path, help="CSV lq,ref[,restored] instead of -i/--ref: references per input")
    group.add_argument("--w_id", type=float, default=1.0, help="strength of the identity styling, 0 is off")
    group.add_argument(
        "--id_scale", type=float, default=1.0, help="effect of the identity on the codes: 0 off, 1 plain"
    )
    group.add_argument("--guide", type=int, metavar="N", help="steps of identity guidance to the references, 0: off "
                       f"(default: {GuidanceOptions().steps} with CodeFormer weights, else 0)")  # fmt: skip
    group.add_argument("--mode", choices=["ref", "self", "none"], help="default: ref with references, else self")
    group.add_argument("--adain", action=argparse.BooleanOptionalAction, help="default: on for CodeFormer weights only")
    group.add_argument("--recognizer", type=Path, help="recognizer file, if not where the weights say; with CodeFormer "
                       "weights it makes references act")  # fmt: skip
    group.add_argument("--self_encoder", type=Path, help="E_LQ file for the mode self, if not where the weights say")
    group.add_argument(
        "--match_threshold", type=float, default=MATCH_THRESHOLD, help="least similarity to a person of --ref_dir"
    )
    group.add_argument("--match_margin", type=float, default=MATCH_MARGIN, help="least lead over the next person")
    group.add_argument(
        "--doubtful", type=float, default=DOUBTFUL, help="similarity below which references are reported"
    )
    group.add_argument("--gallery_cache", type=Path, help="file of its embeddings (default: in the output folder)")


def _add_photos(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--has_aligned", action="store_true", help="inputs are aligned face crops; references, too, "
                       "unless there is a --detector")  # fmt: skip
    group.add_argument("--detector", help="file of SCRFD or YuNet (.onnx) or RetinaFace (.pth), or an insightface pack")
    group.add_argument("--detection_model", default="retinaface_resnet50", help="by upstream's name")
    group.add_argument("--detection_threshold", type=float, help="least score of a face (default: of the detector)")
    group.add_argument("--nms_threshold", type=float, default=0.4, help="overlap above which two boxes are one face")
    group.add_argument("--detect_size", type=int, default=640, help="px of the longer side that the detector sees")
    group.add_argument("-s", "--upscale", type=float, default=2, help="of the photo (default: 2)")
    group.add_argument("--only_center_face", action="store_true", help="restore the face nearest to the centre")
    group.add_argument("--draw_box", action="store_true", help="draw a numbered box around each face")
    group.add_argument("--bg_upsampler", help="weights file of any network that spandrel reads, or realesrgan")
    group.add_argument("--face_upsample", action="store_true", help="enlarge the faces by the --bg_upsampler, too")
    group.add_argument("--bg_tile", type=int, default=400, help="px of a tile of the --bg_upsampler; 0: no tiles")
    group.add_argument(
        "--parsing",
        type=Path,
        help="ParseNet or BiSeNet (default: weights/facelib/parsing_parsenet.pth where it is there, else a soft oval)",
    )
    group.add_argument(
        "--keep_gray", action=argparse.BooleanOptionalAction, default=True, help="gray photos stay gray (default)"
    )


def _add_video(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--smooth", type=float, default=1.5, help="frames, sigma of the filter of landmarks; 0: none")
    group.add_argument("--video_crf", type=int, default=18, help="of x264: 0 lossless, 18 (default), 51 smallest")
    group.add_argument("--save_video_fps", type=float, help="frames a second (default: the times of the source)")


def _add_files(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--recursive", action="store_true", help="sub-folders of -i, too")
    group.add_argument("--resume", action="store_true", help="leave out what an earlier run has made alike")
    group.add_argument("--dry_run", "--dry-run", action="store_true", help="say what would be done, and do nothing")
    group.add_argument("--ext", choices=FORMATS, default="png", help="format of the results; auto: of the input")
    group.add_argument("--quality", type=int, default=95, help="of JPEG and WebP, 1..100")
    group.add_argument("--suffix", help="_SUFFIX is added to the names of the results")
    group.add_argument("--grid", type=float, nargs="*", metavar="W",
                       help="comparison pictures: degraded, reference, restored with each W (default: 0 .25 .5 .75 1)",
                       )  # fmt: skip
    group.add_argument("--batch_size", type=int, default=4, help="faces that the network sees at once")
    group.add_argument("--threads", type=int, default=2, help="that read ahead, and as many that write behind")


def detector_file(args: argparse.Namespace) -> Path | None:
    """Weights of the detector; None for aligned crops, which need none."""
    if args.detector in ALIGNED or (args.has_aligned and args.detector is None):
        return None
    return find_detector(args.detector or args.detection_model, WEIGHTS)


def parsing_file(args: argparse.Namespace) -> Path | None:
    """Weights of the parsing network: those of the flag, else the usual ones where they are there."""
    given: Path | None = args.parsing
    return given or (PARSING if PARSING.is_file() else None)


def upsampler_file(args: argparse.Namespace) -> Path | None:
    """Weights of the --bg_upsampler."""
    name: str | None = args.bg_upsampler
    return None if name is None else NAMED_UPSAMPLERS.get(name, Path(name))


def check_files(args: argparse.Namespace) -> None:
    """Refuse weights that are not there, and say which to put where.

    Raises:
        WeightsError: one is missing.
    """
    for flag, path, released in (
        ("--weights", args.weights, "codeformer.pth"),
        ("--bg_upsampler", upsampler_file(args), "RealESRGAN_x2plus.pth"),
        ("--parsing", parsing_file(args), "parsing_parsenet.pth"),
    ):
        if path is not None and not path.is_file():
            raise WeightsError(
                f"{path}: no such weights file. Name yours with {flag} FILE, or fetch the released one into weights/: "
                f"python scripts/download_pretrained_models.py {released}."
            )


def check_arguments(args: argparse.Namespace) -> None:
    """Refuse what cannot work before anything is loaded."""
    if (args.input_path is None) == (args.pairs is None):
        raise UserError("give either -i FILE|FOLDER|VIDEO or --pairs CSV.")
    if args.pairs is not None and args.ref:
        raise UserError("--ref beside --pairs: the references of --pairs stand in its column ref. Leave one out.")
    if args.ref_dir is not None and (args.ref or args.pairs is not None):
        raise UserError("--ref_dir beside --ref or --pairs: who a face is would be said twice. Leave one out.")
    if args.input_path is not None and not args.input_path.exists():
        raise UserError(f"-i {args.input_path}: no such file or folder.")
    if args.mode == "ref" and args.pairs is None and not args.ref and args.ref_dir is None:
        raise UserError("--mode ref: needs reference photos. Name them with --ref, or use --mode self.")
    if args.grid is not None and args.input_path is not None and is_video(args.input_path):
        raise UserError("--grid: compares photos. Leave it out for a video.")
    for w in args.grid or ():
        check_knobs(w, 1.0, 1.0)
    for name, low in (("guide", 0), ("batch_size", 1), ("threads", 1), ("bg_tile", 0), ("cpu_threads", 1)):
        if getattr(args, name) is not None and getattr(args, name) < low:
            raise UserError(f"--{name} is {getattr(args, name)}, expected at least {low}.")
    if args.suffix is not None and set(args.suffix) & set("/\\"):
        raise UserError(f"--suffix {args.suffix}: is a part of a file's name, expected no slash in it.")
    if not 0 < args.upscale <= 16:
        raise UserError(f"--upscale is {args.upscale:g}, expected more than 0 and at most 16.")
    if not 1 <= args.quality <= 100:
        raise UserError(f"--quality is {args.quality}, expected 1 .. 100.")
    if not 0 <= args.smooth <= 100:
        raise UserError(f"--smooth is {args.smooth:g}, expected 0 .. 100 frames.")
    if not 0 <= args.video_crf <= 51:
        raise UserError(f"--video_crf is {args.video_crf}, expected 0 .. 51.")
    if args.save_video_fps is not None and not 0 < args.save_video_fps <= 1000:
        raise UserError(f"--save_video_fps is {args.save_video_fps:g}, expected more than 0 and at most 1000.")
    for name in ("match_threshold", "match_margin", "doubtful"):
        if not -1 <= getattr(args, name) <= 2:
            raise UserError(f"--{name} is {getattr(args, name)}, expected a cosine.")
    if args.face_upsample and args.bg_upsampler is None:
        raise UserError("--face_upsample: needs a network for it. Name one with --bg_upsampler FILE.")
    check_knobs(args.fidelity_weight, args.w_id, args.id_scale)
