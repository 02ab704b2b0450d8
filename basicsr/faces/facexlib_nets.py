"""The networks of facexlib, built without its downloads: RetinaFace (detection), ParseNet and BiSeNet (parsing).

The only file that imports facexlib. Which network a file is for follows from its keys.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from basicsr.utils.errors import WeightsError
from basicsr.utils.weights import load_into

NUM_CLASSES = 19  # of CelebAMask-HQ, what both parsing networks tell apart
PARSING_SIZE = 512  # px, side of the face that both see


def is_retinaface(state: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of RetinaFace with landmarks."""
    return any(key.startswith("LandmarkHead.") for key in state) and any(key.startswith("body.") for key in state)


def build_retinaface(state: Mapping[str, Tensor], path: Path) -> nn.Module:
    """RetinaFace with the backbone of the file: photo (B, 3, H, W) -> boxes (B, N, 4), scores (B, N, 2), points.

    Raises:
        WeightsError: the weights fit neither backbone.
    """
    import_quietly()
    from facexlib.detection.retinaface import RetinaFace

    name = "mobile0.25" if any(key.startswith("body.stage1.") for key in state) else "resnet50"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # torchvision on how facexlib asks for a ResNet without weights
        net: nn.Module = RetinaFace(network_name=name, phase="test", device="cpu")
    load_into(net, state, where=str(path))
    return net.eval().requires_grad_(False)


def build_parsing(state: Mapping[str, Tensor], path: Path) -> nn.Module:
    """ParseNet or BiSeNet: face (B, 3, 512, 512), RGB -> tuple, its first the logits (B, 19, 512, 512).

    Raises:
        WeightsError: the weights are of neither.
    """
    import_quietly()
    from facexlib.parsing.bisenet import BiSeNet
    from facexlib.parsing.parsenet import ParseNet

    if any(key.startswith("out_mask_conv.") for key in state):
        net: nn.Module = ParseNet(in_size=PARSING_SIZE, out_size=PARSING_SIZE, parsing_ch=NUM_CLASSES)
    elif any(key.startswith("cp.resnet.") for key in state):
        net = BiSeNet(num_class=NUM_CLASSES)
    else:
        raise WeightsError(
            f"{path}: no face parsing network. Expected facexlib's parsing_parsenet.pth or parsing_bisenet.pth."
        )
    load_into(net, state, where=str(path))
    return net.eval().requires_grad_(False)


def import_quietly() -> None:
    """Import facexlib: on the way it loads parts that nothing here uses, and they warn."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import facexlib.detection.retinaface
        import facexlib.parsing.parsenet  # noqa: F401
