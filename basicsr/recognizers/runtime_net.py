"""ONNX graphs in ONNX Runtime, for work that needs no gradient: judging. On a CPU several times as fast as torch.

Shapes: B batch; H, W input; E embedding.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from basicsr.recognizers.adapter import Recognizer, load_recognizer
from basicsr.recognizers.weights_file import find_recognizer
from basicsr.utils.errors import WeightsError

logger = logging.getLogger(__name__)


def open_session(path: str | Path, num_threads: int = 0) -> Any:
    """An inference session on the CPU.

    Args:
        num_threads: 0 takes as many as torch does.
    Raises:
        WeightsError: the file is missing or no graph that runs here.
    """
    import onnxruntime  # heavy: only who runs a graph pays for it
    from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors

    if not Path(path).is_file():
        raise WeightsError(f"{path}: no such weights file.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = num_threads or torch.get_num_threads()
    options.log_severity_level = 3  # errors only: a free batch size warns at every new size
    # threads that spin while they wait would take the cores from torch, whose metrics run in between
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except (
        runtime_errors.InvalidProtobuf, runtime_errors.Fail, runtime_errors.InvalidGraph,
        runtime_errors.InvalidArgument, runtime_errors.NotImplemented,
    ) as error:  # fmt: skip
        raise WeightsError(f"{path}: cannot be run by ONNX Runtime, it is cut off or of another kind.") from error


class RuntimeNet(nn.Module):
    """What OnnxNet computes, without a gradient and without the feature map."""

    def __init__(self, path: str | Path) -> None:
        super().__init__()
        self.path = path
        self.session = open_session(path)
        self.input_name = self.session.get_inputs()[0].name
        size = self.session.get_inputs()[0].shape[0]
        self.fixed_batch = size if isinstance(size, int) and size > 0 else None

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Normalised input (B, 3, H, W) -> embedding (B, E), and an empty map (B, 0, 0, 0)."""
        images = np.ascontiguousarray(x.detach().float().cpu().numpy())
        step = self.fixed_batch or len(images)
        parts = []
        for start in range(0, len(images), step):
            part = images[start : start + step]
            missing = step - len(part)
            padded = np.concatenate([part, np.zeros((missing, *part.shape[1:]), np.float32)]) if missing else part
            parts.append(self._run(padded)[: len(part)])
        embedding = torch.from_numpy(np.concatenate(parts)).to(x.device)
        return embedding.flatten(1), x.new_zeros(len(x), 0, 0, 0)

    def _run(self, images: np.ndarray) -> np.ndarray:
        """One batch.

        Raises:
            WeightsError: the graph cannot be run.
        """
        from onnxruntime.capi import onnxruntime_pybind11_state as runtime_errors

        try:
            return np.asarray(self.session.run(None, {self.input_name: images})[0])
        except (runtime_errors.Fail, runtime_errors.InvalidArgument, runtime_errors.RuntimeException) as error:
            reason = str(error).splitlines()[0]
            raise WeightsError(f"{self.path}: ONNX Runtime cannot run this graph ({reason}).") from error


def load_for_judging(path: str | Path, device: torch.device) -> Recognizer:
    """The recogniser that a file holds, as fast as this device can run it; it gives no gradient and no map.

    Raises:
        WeightsError: as `load_recognizer`.
    """
    file = find_recognizer(path)
    recognizer = load_recognizer(path)
    if file is not None and file.suffix == ".onnx" and device.type == "cpu":
        try:
            net = RuntimeNet(file)
            net(torch.zeros(1, 3, *recognizer.spec.input_size))
        except WeightsError as error:  # graphs that bend the standard run in torch alone
            logger.info("%s: is run by torch (%s)", file, error)
        else:
            recognizer.net = net
    return recognizer.to(device)
