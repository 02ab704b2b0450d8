"""The file of a trained E_LQ (`SelfEncoder`), and its loss.

{params: state dict, self_encoder: {arguments, recognizer_sha256, facts}}
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from basicsr.archs.self_encoder_arch import SelfEncoder, SelfIdentity
from basicsr.recognizers import Recognizer
from basicsr.utils.errors import WeightsError
from basicsr.utils.weights import load_file, load_into, save_atomic

Facts = Mapping[str, str | int | float]


def self_encoder_loss(out: SelfIdentity, target: Tensor) -> Tensor:
    """mean(1 - c) + mean((quality - c)^2), c the cosine to `target` (B, E), the embedding of the clean photo.

    The second term sees c as given, at least 0: the quality learns to say how well the embedding has hit, and the
    embedding learns nothing from how well that is said.
    """
    cosine = (out.embedding * target).sum(1)
    return (1 - cosine).mean() + (out.quality - cosine.detach().clamp_min(0)).square().mean()


def save_self_encoder(net: SelfEncoder, path: str | Path, recognizer: Recognizer, facts: Facts) -> None:
    """Write `net`; `facts` say what it was trained on and what it reaches."""
    state = {name: value.detach().cpu().contiguous() for name, value in net.state_dict().items()}
    arguments = {"embed_dim": net.embed_dim, "input_size": net.input_size, "min_quality": net.min_quality}
    about = {"arguments": arguments, "recognizer_sha256": recognizer.spec.sha256, "facts": dict(facts)}
    save_atomic({"params": state, "self_encoder": about}, path)


def load_self_encoder(path: str | Path, recognizer: Recognizer) -> SelfEncoder:
    """The frozen E_LQ of a file.

    Raises:
        WeightsError: it is no such file, or speaks of the embeddings of another recogniser.
    """
    contents = load_file(path)
    about = contents.get("self_encoder")
    if not isinstance(about, dict):
        raise WeightsError(f"{path}: is no self encoder. scripts/train_self_encoder.py makes one for a recogniser.")
    if about["recognizer_sha256"] != recognizer.spec.sha256:
        raise WeightsError(
            f"{path}: speaks of the embeddings of another recogniser (sha256 {about['recognizer_sha256'][:12]}, this "
            f"one has {recognizer.spec.sha256[:12]}). Train one for this: scripts/train_self_encoder.py."
        )
    net = SelfEncoder(**about["arguments"])
    load_into(net, contents["params"], where=str(path))
    return net.eval().requires_grad_(False)
