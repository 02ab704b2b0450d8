"""A restorer as one ONNX file, checked against torch before it gets its name.

    python scripts/export_onnx.py --weights net_g_latest.pth --out restorer.onnx
    python scripts/export_onnx.py --weights net_g_latest.pth --out restorer.onnx --part restorer --inputs w id_scale
    python scripts/export_onnx.py --weights weights/CodeFormer/codeformer.pth --out codeformer.onnx -w 0.7

--part whole takes a degraded face and reference faces, the recogniser is inside; --part restorer takes what the
recogniser says of the references. CodeFormer takes the degraded face alone either way (docs/export.md). Batch size and
number of references are free. At the end ONNX Runtime restores generated faces with the file, in batches of 1 and 3,
with and without references; where a value differs from torch by more than 1e-3, the file is not kept.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

import _root  # noqa: F401

from basicsr.inference.onnx_export import TOLERANCE, Export, export_onnx
from basicsr.inference.values import check_knobs
from basicsr.utils.cli import run_main
from basicsr.utils.errors import UserError

logger = logging.getLogger("export_onnx")

OPSETS = (18, 22)  # what the exporter writes by itself, and the newest that the checks have seen


def main(argv: list[str] | None = None) -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--weights", type=Path, required=True, help=".pth or .safetensors of CodeFormer or IDCodeFormer")
    add("--out", type=Path, required=True, help=".onnx file to write")
    add("--part", choices=["whole", "restorer"], default="whole")
    add("-w", "--fidelity_weight", type=float, default=0.5, help="0 quality .. 1 fidelity to the input")
    add("--w_id", type=float, default=1.0, help="strength of the identity styling, 0 is off")
    add("--id_scale", type=float, default=1.0, help="guidance by the identity: 0 blind, 1 plain (half the work)")
    add("--inputs", nargs="+", choices=["w", "w_id", "id_scale"], default=[], help="knobs that go into the graph")
    add("--without_reference", choices=["self", "none"], default="self", help="who guides a face without references")
    add("--adain", action=argparse.BooleanOptionalAction, help="default: on for CodeFormer weights only")
    add("--opset", type=int, default=OPSETS[0])
    add("--recognizer", type=Path, help="recogniser file, if not where the weights say")
    add("--self_encoder", type=Path, help="E_LQ file for the mode self, if not where the weights say")
    args = parser.parse_args(argv)
    if args.out.suffix != ".onnx":
        raise UserError(f"--out {args.out}: expected a name that ends in .onnx.")
    if not OPSETS[0] <= args.opset <= OPSETS[1]:
        raise UserError(f"--opset {args.opset}: expected {OPSETS[0]} to {OPSETS[1]}.")
    check_knobs(args.fidelity_weight, args.w_id, args.id_scale)
    fixed = {"w": args.fidelity_weight, "w_id": args.w_id, "id_scale": args.id_scale}
    knobs = {name: None if name in args.inputs else value for name, value in fixed.items()}
    export = Export(args.part, knobs, args.without_reference == "self", args.adain, args.opset)
    difference = export_onnx(args.weights, args.out, export, args.recognizer, args.self_encoder)
    logger.info(
        "%s: opset %d, %.1f MB, differs from torch by %.1e (at most %g)",
        args.out, args.opset, args.out.stat().st_size / 1e6, difference, TOLERANCE,
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    run_main(main)
