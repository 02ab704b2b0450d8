"""A weights file as `.safetensors`, whose header says which network it is for, or as `.pth` again.

    python scripts/convert_weights.py experiments/stage3/models/net_g_latest.pth net_g.safetensors
    python scripts/convert_weights.py weights/CodeFormer/codeformer.pth codeformer.safetensors
    python scripts/convert_weights.py net_g.safetensors net_g.pth

One state dict is kept, the averaged weights as a rule. The header holds, as JSON, the network's type with all of its
arguments, and the recogniser that it was trained with: with the `.safetensors` alone, and that recogniser, faces are
restored. inference_codeformer.py, app.py, scripts/evaluate.py and `path.pretrain_network_*` take it in place of a
`.pth`. Before anything is written the network is built from what the header will say, and the weights must fit.
"""

from __future__ import annotations

import argparse
import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import _root  # noqa: F401

import basicsr.archs  # noqa: F401  fills the registry of networks
from basicsr.inference.parts import START_WEIGHTS
from basicsr.utils.cli import run_main
from basicsr.utils.errors import OptionError, UserError, WeightsError
from basicsr.utils.registry import ARCH_REGISTRY
from basicsr.utils.signature import parameters_of
from basicsr.utils.weights import load_file, load_into, load_state, save_atomic, save_safetensors, sha256_of

logger = logging.getLogger("convert_weights")

SUFFIXES = (".pth", ".safetensors")
CARRIED = ("network_g", "network_identity", "self_encoder")  # entries of a file beside its weights


def main(argv: list[str] | None = None) -> int:
    """Exit code 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, metavar="IN", help=".pth or .safetensors")
    parser.add_argument("target", type=Path, metavar="OUT", help="the other of the two")
    parser.add_argument("--param_key", default="params_ema", help="which weights of a .pth (default: params_ema)")
    parser.add_argument("--arch", default="CodeFormer", help="of a file that does not say it (default: CodeFormer)")
    parser.add_argument("--overwrite", action="store_true", help="replace OUT")
    args = parser.parse_args(argv)
    if args.target.suffix not in SUFFIXES or args.source.suffix == args.target.suffix:
        raise UserError(f"{args.source} -> {args.target}: expected .pth -> .safetensors, or .safetensors -> .pth.")
    if args.target.exists() and not args.overwrite:
        raise UserError(f"{args.target}: is there already. Choose another name, or give --overwrite.")
    contents = load_file(args.source)
    about = {key: contents[key] for key in CARRIED if contents.get(key) is not None}
    state = load_state(args.source, args.param_key)
    if "self_encoder" not in about:
        about["network_g"] = checked_spec(args.source, about.get("network_g", {"type": args.arch}), state)
    kept = contents.get("param_key") or (args.param_key if args.param_key in contents else "params")
    if args.target.suffix == ".pth":
        save_atomic({kept: state, **about}, args.target)
    else:
        save_safetensors(state, {**about, "param_key": kept}, args.target)
    what = about.get("network_g", {"type": "SelfEncoder"})["type"]
    logger.info("%s: %s, %d tensors (%s), sha256 %s", args.target, what, len(state), kept, sha256_of(args.target))
    return 0


def checked_spec(source: Path, spec: Any, state: Mapping[str, Any]) -> dict[str, Any]:
    """`spec` with every argument of the network, so that a later default changes nothing.

    Raises:
        WeightsError: no network can be built of it, or the weights are for another one.
    """
    if not isinstance(spec, Mapping) or not isinstance(spec.get("type"), str):
        raise WeightsError(f"{source}: its network_g does not say which network the weights are for.")
    try:
        parameters = parameters_of(ARCH_REGISTRY.get(spec["type"])).values()
        defaults = {p.name: p.default for p in parameters if p.default is not inspect.Parameter.empty}
        spec = {**defaults, **spec, **{name: None for name in START_WEIGHTS if name in defaults}}
        net = ARCH_REGISTRY.build(spec)
    except (OptionError, ValueError) as error:
        raise WeightsError(f"{source}: its network cannot be built: {error}") from error
    load_into(net, state, where=str(source))
    return spec


if __name__ == "__main__":
    run_main(main)
