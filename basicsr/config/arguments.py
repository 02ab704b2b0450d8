"""The command line of train.py. The flags are BasicSR's, with --dry-run and --explain."""

from __future__ import annotations

import argparse
import logging

import msgspec

from basicsr.config.checks import missing_files
from basicsr.config.explain import explain, resolved
from basicsr.config.options import Options
from basicsr.config.parse import parse_options
from basicsr.config.schema import REGISTRIES, Registries
from basicsr.config.yaml_loader import dotted
from basicsr.utils.errors import OptionError

logger = logging.getLogger(__name__)

DEBUG_FREQ = 8  # iterations between validations and between checkpoints of a --debug run


def add_option_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that choose and change an option file."""
    parser.add_argument("-opt", "--opt", metavar="FILE", help="option file (YAML)")
    parser.add_argument(
        "--force_yml",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY:KEY=VALUE",
        help="change options, for example train:optim_g:lr=1e-4; the value is YAML",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the resolved options and leave")
    parser.add_argument(
        "--fast-forward",
        action="store_true",
        help="train one iteration of every kind there is, the first and the last of each, keep nothing, and leave",
    )
    parser.add_argument("--explain", action="store_true", help="print all options with their meaning and leave")
    parser.add_argument("--auto_resume", action="store_true", help="go on from the newest state of this run, if any")
    parser.add_argument(
        "--debug",
        action="store_true",
        help=f"name debug_<name>; log each iteration, validate and save every {DEBUG_FREQ}",
    )
    parser.add_argument(
        "--launcher",
        choices=["none", "pytorch", "slurm"],
        default="none",
        help="slurm: srun starts the processes; torchrun is recognised by itself (pytorch demands it)",
    )
    parser.add_argument("--local_rank", "--local-rank", type=int, help="for old launchers; torchrun sets LOCAL_RANK")


def options_from_args(args: argparse.Namespace, registries: Registries = REGISTRIES) -> Options:
    """The checked options of a run. With --dry-run, weights may still be missing: each is a warning."""
    if args.opt is None:
        raise OptionError("-opt FILE is missing: which option file? For example -opt options/stage2_id.yml")
    options = parse_options(args.opt, args.force_yml, registries, check_files=not args.dry_run)
    if args.dry_run:
        for path, message in missing_files(options):
            logger.warning("%s: %s", dotted(path), message)
    return debug_options(options) if args.debug else options


def answer_from_args(args: argparse.Namespace, registries: Registries = REGISTRIES) -> str | None:
    """What --explain or --dry-run print; None when the run is to start."""
    if args.explain:
        return explain(registries, args.opt, args.force_yml)
    if args.dry_run:
        return resolved(options_from_args(args, registries))
    return None


def debug_options(options: Options) -> Options:
    """The same run under another name, with a log line, a validation and a checkpoint soon."""
    replace = msgspec.structs.replace
    changed = replace(options.logger, print_freq=1, save_checkpoint_freq=DEBUG_FREQ)
    val = None if options.val is None else replace(options.val, val_freq=DEBUG_FREQ)
    return replace(options, name=f"debug_{options.name}", logger=changed, val=val)
