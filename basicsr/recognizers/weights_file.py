"""Finding and opening a recogniser's file: a path, the folder of an insightface pack, or a pack's bare name.

Nothing in a file is run: graphs are parsed, tensors are read by the safe loaders.
"""

from __future__ import annotations

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import safetensors
from torch import Tensor

from basicsr.recognizers.onnx_net import inputs_and_outputs, parse_graph, read_graph
from basicsr.utils.errors import WeightsError
from basicsr.utils.weights import load_state

if TYPE_CHECKING:
    import onnx

logger = logging.getLogger(__name__)

PACKS_FOLDER = "~/.insightface/models"  # where insightface unzips its packs
PACK_INPUT = (3, 112, 112)  # what tells a pack's recogniser from its detector, landmarks and age
LISTED_KEYS = 3  # keys that an error message quotes


@dataclass(frozen=True)
class WeightsFile:
    """One opened file: the graph of an ONNX file, or the tensors and the header of any other."""

    path: Path
    graph: onnx.ModelProto | None
    state: dict[str, Tensor]
    header: dict[str, str]
    facts: dict[str, str | int | float]  # in the header, what save_recognizer was given

    def __str__(self) -> str:
        """What is in it, for the error that finds no layout."""
        if self.graph is not None:
            inputs, outputs = inputs_and_outputs(self.graph)
            return f"an ONNX graph, input {inputs[0]}, output {outputs[0]}"
        return f"{len(self.state)} tensors ({', '.join(list(self.state)[:LISTED_KEYS])}, ...)"


def find_recognizer(name: str | Path) -> Path | None:
    """The weights file that a path or the name of an insightface pack stands for; None where there is nothing.

    Args:
        name: a file; a folder with a pack; or a pack's name (buffalo_l, antelopev2) in `~/.insightface/models`.
    Raises:
        WeightsError: a folder without a recogniser, or with several.
    """
    path = Path(name).expanduser()
    if path.is_file():
        return path
    places = [path] if path.is_absolute() or len(path.parts) != 1 else [path, Path(PACKS_FOLDER).expanduser() / path]
    folder = next((place for place in places if place.is_dir()), None)
    return None if folder is None else _recognizer_of_pack(folder)


def open_weights(name: str | Path) -> WeightsFile:
    """Find and read a file of any kind.

    Raises:
        WeightsError: missing, cut off, or of another kind.
    """
    path = find_recognizer(name)
    if path is None:
        pack = "" if Path(name).suffix or len(Path(name).parts) != 1 else f", and no such pack in {PACKS_FOLDER}"
        raise WeightsError(f"{name}: no such weights file{pack}. docs/recognizers.md says where to get one.")
    if path.suffix.lower() == ".onnx":
        return WeightsFile(path, read_graph(path), {}, {}, {})
    state = load_state(path, "state_dict_backbone")  # where arcface_torch's training checkpoints keep the backbone
    backbone = {key.removeprefix("model."): value for key, value in state.items() if key.startswith("model.")}
    state = backbone or state  # AdaFace's checkpoints hold the network as `model.`, beside the `head.` of training
    if path.suffix != ".safetensors":
        return WeightsFile(path, None, state, {}, {})
    with safetensors.safe_open(path, "pt") as opened:
        header = opened.metadata() or {}
    try:
        facts = json.loads(header.get("facts", "{}"))
    except json.JSONDecodeError as error:
        raise WeightsError(f"{path}: the header of this recogniser is broken ({error}). Train it again.") from error
    return WeightsFile(path, None, state, header, facts)


def _recognizer_of_pack(folder: Path) -> Path:
    """The one file of a pack that takes 112 px faces and gives one vector."""
    nested = folder / folder.name  # antelopev2.zip unpacks into antelopev2/antelopev2
    files = sorted(folder.glob("*.onnx")) or sorted(nested.glob("*.onnx"))
    found = []
    for file in files:
        inputs, outputs = inputs_and_outputs(parse_graph(file))
        if len(inputs) == len(outputs) == 1 and inputs[0][1:] == PACK_INPUT:
            found.append(file)
    if len(found) != 1:
        seen = ", ".join(file.name for file in found or files) or "no .onnx file"
        raise WeightsError(
            f"{folder}: {len(found)} recognisers in this folder ({seen}); expected one graph with a 112x112 px face in "
            "and one embedding out. Name the file itself."
        )
    logger.info("pack %s: its recogniser is %s", folder, found[0].name)
    return found[0]
