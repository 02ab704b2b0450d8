"""The parts of a restorer as its weights file names them: network, recogniser, E_LQ. What does not fit is one line."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import basicsr.archs  # noqa: F401  fills the registry of networks
from basicsr.archs.codeformer_arch import CodeFormer
from basicsr.archs.self_encoder_arch import SelfEncoder
from basicsr.models.self_encoder import load_self_encoder
from basicsr.recognizers import Recognizer, find_recognizer, load_recognizer
from basicsr.utils.errors import OptionError, WeightsError
from basicsr.utils.registry import ARCH_REGISTRY
from basicsr.utils.weights import load_file, load_into, load_state, sha256_of

START_WEIGHTS = ("vqgan_path", "model_path")  # what a network starts its training from


class UsedFile(NamedTuple):
    """A file that a restorer works with."""

    path: str
    sha256: str


def load_network(weights: str | Path, param_key: str = "params_ema") -> tuple[CodeFormer, dict[str, Any]]:
    """The network of a weights file, on the CPU, and what else the file says.

    Raises:
        WeightsError: it is missing or broken, or its weights are for another network than it says.
    """
    contents = load_file(weights)
    net = build_network(str(weights), contents)
    try:
        load_into(net, load_state(weights, param_key), where=str(weights))
    except WeightsError as error:
        if "network_g" in contents:
            raise
        raise WeightsError(
            f"{error} It does not say which network it is for (no network_g), so the released CodeFormer was tried. "
            "Take a file of train.py or of scripts/convert_weights.py."
        ) from error
    return net, contents


def build_network(weights: str, contents: Mapping[str, Any]) -> CodeFormer:
    """The network that a weights file is for, without the weights."""
    spec = contents.get("network_g", {"type": "CodeFormer"})  # a file without a spec: the released network
    if not isinstance(spec, Mapping) or not isinstance(spec.get("type"), str):
        found = f"found a {type(spec).__name__}" if not isinstance(spec, Mapping) else "found none"
        raise WeightsError(
            f"{weights}: its network_g does not say which network the weights are for: expected options with a type, "
            f"{found}. Take a file that train.py wrote, or released CodeFormer weights."
        )
    # the file itself holds all weights, and those of the earlier stage may have moved since
    spec = {key: value for key, value in spec.items() if key not in START_WEIGHTS}
    try:
        net = ARCH_REGISTRY.build(spec)
    except (OptionError, ValueError) as error:
        raise WeightsError(f"{weights}: its network_g cannot be built: {error}") from error
    if not isinstance(net, CodeFormer):
        raise WeightsError(f"{weights}: is for {spec['type']}, which restores nothing. Expected CodeFormer weights.")
    return net


def recognizer_of(weights: str, contents: Mapping[str, Any], given: str | Path | None) -> tuple[Recognizer, UsedFile]:
    """The recogniser that the network was trained with; another one would speak of other people."""
    spec = _identity_spec(weights, contents)
    path = given or spec.get("path")
    if path is None:
        raise WeightsError(
            f"{weights}: does not name its recogniser. Give the one it was trained with: --recognizer FILE."
        )
    file = find_recognizer(path)
    if file is None and not given:
        raise WeightsError(
            f"{path}: no such recogniser, and {weights} was trained with it. Say where it is: --recognizer FILE."
        )
    recognizer = load_recognizer(
        path,
        map_node=spec.get("map_node"),
        typical_norm=spec.get("typical_norm"),
        same_person_cosine=spec.get("same_person_cosine"),
    )
    expected = spec.get("sha256")
    if expected not in (None, recognizer.spec.sha256):
        raise WeightsError(
            f"{path}: is not the recogniser that {weights} was trained with "
            f"(sha256 {recognizer.spec.sha256[:12]}, expected {expected[:12]}). Name that one: --recognizer FILE."
        )
    return recognizer, UsedFile(str(file), recognizer.spec.sha256)


def self_encoder_of(
    weights: str, contents: Mapping[str, Any], given: str | Path | None, recognizer: Recognizer
) -> SelfEncoder | None:
    """The E_LQ that the network was trained with; None where it was trained without, and none is given."""
    spec = _identity_spec(weights, contents)
    path, expected = given or spec.get("self_path"), spec.get("self_sha256")
    if path is None:
        return None
    if not given and not Path(path).is_file():
        raise WeightsError(
            f"{path}: no such self encoder, and {weights} was trained with it. Say where it is: --self_encoder FILE."
        )
    if expected is not None and sha256_of(path) != expected:
        raise WeightsError(
            f"{path}: is not the self encoder that {weights} was trained with (expected sha256 {expected[:12]}). "
            "Name the right one: --self_encoder FILE."
        )
    return load_self_encoder(path, recognizer)


def _identity_spec(weights: str, contents: Mapping[str, Any]) -> Mapping[str, Any]:
    """What the weights say of their recogniser; empty where they say nothing."""
    spec = contents.get("network_identity")
    if spec is None:
        return {}
    if not isinstance(spec, Mapping):
        raise WeightsError(f"{weights}: its network_identity is a {type(spec).__name__}, expected path and sha256.")
    return spec
