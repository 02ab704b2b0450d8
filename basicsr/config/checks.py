"""Checks across sections: what a stage needs, who judges whom, which files must be there before training starts."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import torch

from basicsr.config.options import Options
from basicsr.config.schema import Registries, stage_arguments
from basicsr.config.yaml_loader import KeyPath
from basicsr.recognizers import find_recognizer
from basicsr.utils.code_cache import CodeCache
from basicsr.utils.errors import OptionError, UserError
from basicsr.utils.registry import bind_arguments
from basicsr.utils.signature import parameters_of
from basicsr.utils.weights import sha256_of

MakeError = Callable[[KeyPath, str], OptionError]

OPTIONS_FOLDER = Path(__file__).resolve().parents[2] / "options"
STAGE_NAMES = {
    "VQGANModel": "Stage I",
    "IDCodeFormerModel": "Stage II",
    "CodeFormerIdxModel": "Stage II",
    "IDCodeFormerJointModel": "Stage III",
    "CodeFormerJointModel": "Stage III",
}


def check_name(options: Options, error: MakeError) -> None:
    """The run has a folder of its own: `.` and `..` are those of other runs."""
    if not options.name.strip(". "):
        raise error(("name",), f"found {options.name!r}, expected a folder's name with letters or digits.")


def check_needs(options: Options, stage: type, registries: Registries, error: MakeError) -> None:
    """A run that trains has the networks, weights and optimisers that its stage and losses need."""
    if options.train is None:
        return
    for key in sorted(getattr(stage, "REQUIRED_NETWORKS", frozenset())):
        if getattr(options, key) is None:
            raise error((), f"{options.model_type} needs '{key}', which is not given.")
    for key in sorted(getattr(stage, "REQUIRED_WEIGHTS", frozenset())):
        short = key.removeprefix("network_")
        network = getattr(options, key) or {}
        if not network.get("model_path") and getattr(options.path, f"pretrain_network_{short}") is None:
            raise error(
                (key,),
                f"{options.model_type} would start from untrained weights. "
                f"Set path.pretrain_{key} to the file that the earlier stage wrote.",
            )
    if options.network_d is not None and options.train.optim_d is None:
        raise error(("train",), "'optim_d' is missing: network_d is trained, so it needs an optimiser.")
    for key, spec in options.train.losses.items():
        wants = "network_identity" in parameters_of(registries.loss.get(spec["type"]))
        if wants and options.network_identity is None:
            raise error(("train", key), f"{spec['type']} needs 'network_identity: {{path: ...}}', which is not given.")


def check_ranges(options: Options, stage: type, registries: Registries, error: MakeError) -> None:
    """What constructors refuse is said here already, with its place: the networks are built without memory or files."""
    for key in ("network_g", "network_d", "network_vqgan"):
        spec = getattr(options, key)
        if spec is None:
            continue
        no_files = {name: None for name in ("model_path", "vqgan_path") if name in spec}
        try:
            with torch.device("meta"):
                registries.arch.build(spec | no_files)
        except OptionError as refusal:
            raise _placed(refusal, (key,), spec, error) from refusal
    check = getattr(stage, "check_arguments", None)
    if options.train is None or check is None:
        return
    given = options.train.stage
    injected = parameters_of(stage).keys() - stage_arguments(stage).keys()
    try:
        check({**bind_arguments(stage, given, injected), "total_iter": options.train.total_iter})
    except OptionError as refusal:
        raise _placed(refusal, ("train",), given, error) from refusal


def _placed(refusal: OptionError, section: KeyPath, given: Collection[str], error: MakeError) -> OptionError:
    """A constructor's `name: what is wrong`, or `<section>.name.0: ...`, with the full key and file:line."""
    place, _, message = str(refusal).partition(": ")
    path = place.removeprefix(f"{section[0]}.").split(".")
    if path[0] not in given:
        return error(section, str(refusal))
    return error((*section, *(int(part) if part.isdigit() else part for part in path)), message)


def check_recognizers(options: Options, registries: Registries, error: MakeError) -> None:
    """The recogniser of a metric is not the one that trains, else the headline number measures the loss."""
    if options.network_identity is None or options.val is None or options.allow_same_recognizer:
        return
    trains = _recognizer_file(options.network_identity.path)
    for label, spec in options.val.metrics.items():
        if "recognizer" not in parameters_of(registries.metric.get(spec["type"])) or not spec["recognizer"]:
            continue
        if _same_file(trains, _recognizer_file(spec["recognizer"])):
            raise error(
                ("val", "metrics", label, "recognizer"),
                f"{spec['recognizer']} also trains (network_identity.path), so it cannot judge. "
                "Give another recogniser, or set allow_same_recognizer: true; the report then says so.",
            )


def missing_files(options: Options) -> Iterator[tuple[KeyPath, str]]:
    """(key, message) of each weights file that the options name and that does not exist; then `wrong_code_caches`."""
    named: list[tuple[KeyPath, str | None]] = [
        (("path", key), getattr(options.path, key))
        for key in ("pretrain_network_g", "pretrain_network_d", "pretrain_network_vqgan", "resume_state")
    ]
    for key in ("network_g", "network_d", "network_vqgan"):
        network = getattr(options, key) or {}
        named += [((key, name), network.get(name)) for name in ("model_path", "vqgan_path")]
    if options.network_identity is not None:
        named.append((("network_identity", "self_path"), options.network_identity.self_path))
        if find_recognizer(options.network_identity.path) is None:
            named.append((("network_identity", "path"), options.network_identity.path))
    for path, file in named:
        if file is not None and not Path(file).is_file():
            yield path, f"{file} does not exist.{way_to_make(file)}"
    yield from wrong_code_caches(options)


def wrong_code_caches(options: Options) -> Iterator[tuple[KeyPath, str]]:
    """(key, message) of each code cache that is not of this run's frozen VQGAN: codes of another one teach noise."""
    weights, param_key = options.path.pretrain_network_vqgan, options.path.param_key_vqgan
    if weights is None and options.network_vqgan is not None:
        weights, param_key = options.network_vqgan.get("model_path"), "params_ema"
    for key, dataset in options.datasets.items():
        file = dataset.spec.get("code_cache")
        if file is None:
            continue
        place: KeyPath = ("datasets", key, "code_cache")
        if weights is None:
            yield place, f"{file}: this run has no network_vqgan with weights, so no codes. Take the key out."
            continue
        try:
            header = CodeCache(file).header
            if (sha256_of(weights), param_key) != (header.vqgan_sha256, header.param_key):
                yield (
                    place,
                    f"{file} was made with other weights (sha256 {header.vqgan_sha256[:12]}..., {header.param_key}) "
                    f"than {weights} ({param_key}). Make it again: python scripts/make_code_cache.py -opt FILE.yml",
                )
        except UserError as fault:
            yield place, str(fault)


def way_to_make(file: str) -> str:
    """` Stage I writes it: python basicsr/train.py -opt ...`, when a shipped option file has the run's name.

    Released files are fetched. The rule for others: `<experiments_root>/<name>/models/net_g_<iter>.pth` comes from the
    option file with that `name`.
    """
    parts = Path(file).parts
    if parts[:2] == ("weights", "CodeFormer"):
        return f" It can be fetched: python scripts/download_pretrained_models.py {parts[-1]}"
    folder = next((parts[i - 1] for i, part in enumerate(parts) if part in ("models", "training_states") and i), None)
    if folder is None:
        return ""
    for option_file in sorted(OPTIONS_FOLDER.rglob("*.yml")):
        text = option_file.read_text(encoding="utf-8")
        if _top_level(text, "name") == folder:
            stage = STAGE_NAMES.get(_top_level(text, "model_type") or "", f"The run '{folder}'")
            shown = option_file.relative_to(OPTIONS_FOLDER.parent).as_posix()
            return f" {stage} writes it: python basicsr/train.py -opt {shown}"
    return f" The training run '{folder}' writes it."


def _top_level(text: str, key: str) -> str | None:
    found = re.search(rf"^{key}:\s*([^\s#]+)", text, flags=re.MULTILINE)
    return found.group(1).strip("'\"") if found else None


def _recognizer_file(name: str) -> Path:
    """The file that a name stands for; the name itself where there is none yet."""
    return find_recognizer(name) or Path(name)


def _same_file(one: Path, other: Path) -> bool:
    if one.resolve() == other.resolve():
        return True
    return one.is_file() and other.is_file() and sha256_of(one) == sha256_of(other)
