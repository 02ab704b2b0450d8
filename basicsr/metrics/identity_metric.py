"""IDS, identity similarity: the cosine between the recogniser's embeddings of the restored face and the ground truth.

The judge must be another recogniser than the one in the loss or the tokens, else the figure measures the training; the
file's sha256 is kept with the values so that a report can prove it.

Shapes: B batch; S side of the FFHQ-framed face; E embedding.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from basicsr.metrics.base_metric import Metric, MetricUnavailable
from basicsr.recognizers import Recognizer, find_recognizer, load_recognizer
from basicsr.utils.registry import METRIC_REGISTRY

CROPS = {  # what the recogniser sees of a face, by its template
    "arcface_112": "fixed crop to the ArcFace template (x 64..448, y 61..445 of 512)",
    "ffhq_512": "whole face without a crop",
}


@METRIC_REGISTRY.register()
class IdentityMetric(Metric):
    """Cosine in [-1, 1] of faces in FFHQ framing, through the recogniser's fixed crop; no detector, so none can fail.

    Args:
        recognizer: weights file of the judge, or the name of an insightface pack.
    Raises:
        MetricUnavailable: the file is missing.
    """

    better = "higher"
    value_range = "[-1, 1]"

    def __init__(self, recognizer: str) -> None:
        super().__init__()
        path = find_recognizer(recognizer)
        if path is None:
            raise MetricUnavailable(f"recogniser weights {Path(recognizer).name}, expected at {recognizer}")
        self.recognizer = load_recognizer(path)
        self.sha256 = self.recognizer.spec.sha256
        # what a recogniser learned on generated faces says nothing about real ones: the label must tell
        source = ", generated-face recogniser" if self.recognizer.facts.get("trained_on") == "generated faces" else ""
        self.label = f"IDS ({path.stem}{source})"
        self.protocol = identity_protocol(self.recognizer)

    def score(self, restored: Tensor, gt: Tensor) -> Tensor:
        """(B,) cosines of (B, 3, S, S) RGB [-1, 1] faces."""
        self.recognizer.to(restored.device)
        return (self.recognizer(restored).embedding * self.recognizer(gt).embedding).sum(1)  # (B, E) -> (B,)


def identity_protocol(recognizer: Recognizer) -> str:
    """The conditions of a cosine as one line."""
    spec = recognizer.spec
    return (
        f"cosine of {spec.layout} embeddings, recogniser sha256 {spec.sha256}, FFHQ framing, {CROPS[spec.template]}, "
        "antialiased bicubic"
    )
