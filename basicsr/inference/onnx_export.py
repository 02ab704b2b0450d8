"""Export to ONNX, and the proof that the file computes what torch computes.

Shapes: B batch; R references; S side of the network's picture.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from basicsr.archs.id_codeformer_arch import IDCodeFormer
from basicsr.archs.identity_encoder_arch import IdentityFeatures
from basicsr.data.generated_faces import person_at, photo_at, render
from basicsr.inference.onnx_graphs import KNOBS, RestorerGraph, WholeGraph
from basicsr.inference.parts import START_WEIGHTS
from basicsr.inference.restorer import FaceRestorer
from basicsr.models.identity_source import fixed_modes, identity_features
from basicsr.recognizers import Recognizer
from basicsr.recognizers.onnx_net import OnnxNet
from basicsr.recognizers.runtime_net import open_session
from basicsr.utils.errors import UserError
from basicsr.utils.img_util import img2tensor
from basicsr.utils.weights import load_file

logger = logging.getLogger(__name__)

Part = Literal["whole", "restorer"]

TOLERANCE = 1e-3  # of pictures in [-1, 1]
CHECKED_BATCHES = (1, 3)
CHECKED_VALUES: dict[str, float] = {"w": 0.3, "w_id": 0.7, "id_scale": 1.4}  # of knobs that go into the graph


class Export(NamedTuple):
    """What is exported.

    knobs: w, w_id and id_scale; None: an input of the graph, a scalar.
    own_identity: whole part only: a face without references is guided by itself, else by nobody.
    """

    part: Part = "whole"
    knobs: Mapping[str, float | None] = {"w": 0.5, "w_id": 1.0, "id_scale": 1.0}
    own_identity: bool = True
    adain: bool | None = None  # None: as the network was made to be used
    opset: int = 18


class Sample(NamedTuple):
    """Pictures to trace and to check with."""

    lq: Tensor  # (B, 3, S, S)
    refs: Tensor  # (B, R, 3, S, S)
    mask: Tensor  # (B, R) bool


def export_onnx(weights: Path, out: Path, export: Export, recognizer: Path | None, self_encoder: Path | None) -> float:
    """Write `out` and check it in ONNX Runtime.

    Returns:
        The largest difference to torch.
    Raises:
        UserError: onnxscript is missing; the network cannot be exported so; or the file differs, and is not kept.
    """
    restorer = FaceRestorer(weights, recognizer, "cpu", self_encoder=self_encoder)
    restorer.net.to(memory_format=torch.contiguous_format)
    graph = _graph(restorer, export)
    model = _trace(graph, _inputs(restorer, export, _sample(restorer, 2, 3)), export.opset)
    about = _metadata(weights, restorer, export)
    temporary = out.with_name(f".{out.stem}.{os.getpid()}.tmp.onnx")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _write(model, about, temporary)
        difference = _largest_difference(temporary, restorer, export)
        if not difference <= TOLERANCE:
            raise UserError(
                f"{out}: not kept, ONNX Runtime differs from torch by {difference:.2g} (at most {TOLERANCE:g} is "
                "allowed). Try another --opset, or report it with the versions of torch and onnxruntime."
            )
        _write(model, {**about, "checked": f"differs from torch by {difference:.1e}"}, temporary)
        os.replace(temporary, out)
    except OSError as error:
        raise UserError(f"{out}: cannot be written ({error.strerror or error}).") from error
    finally:
        with contextlib.suppress(OSError):  # it has its name now, or the folder takes no file at all
            temporary.unlink()
    return difference


def _graph(restorer: FaceRestorer, export: Export) -> torch.nn.Module:
    """The module to trace."""
    knobs = dict(export.knobs) if restorer.takes_identity else {"w": export.knobs["w"]}
    graph = RestorerGraph(restorer.net, knobs, _adain(restorer, export))
    if not restorer.takes_identity:
        return graph.eval()
    recognizer = cast(Recognizer, restorer.recognizer)
    if isinstance(recognizer.net, OnnxNet):
        recognizer.net.make_traceable()
    if export.part == "whole":
        return WholeGraph(graph, recognizer, restorer.self_encoder, export.own_identity).eval()
    if cast(IDCodeFormer, restorer.net).inject == "kv_share":
        raise UserError("--part restorer: this network reads the reference photos itself. Export --part whole.")
    return graph.eval()


def _adain(restorer: FaceRestorer, export: Export) -> bool:
    return not restorer.takes_identity if export.adain is None else export.adain


def _sample(restorer: FaceRestorer, batch: int, num_refs: int) -> Sample:
    """Generated faces, blurred, and others of the same person as references; the last face has none."""
    size = restorer.size

    def face(person: int, photo: int) -> Tensor:
        return img2tensor(render(person_at(0, person), photo_at(0, person, photo), size))

    lq = torch.stack([face(person, 0) for person in range(batch)])
    lq = torch.nn.functional.avg_pool2d(lq, 3, 1, 1, count_include_pad=False)
    refs = torch.stack([torch.stack([face(person, 1 + i) for i in range(num_refs)]) for person in range(batch)])
    mask = torch.ones(batch, num_refs, dtype=torch.bool)
    if batch > 1:
        mask[0, num_refs - 1] = num_refs == 1
        mask[-1] = False
    return Sample(lq, refs, mask)


def _features(restorer: FaceRestorer, export: Export, sample: Sample) -> IdentityFeatures:
    """The identity as restoring computes it, which is what the graph is held against."""
    modes = fixed_modes("ref", len(sample.lq), sample.lq.device)
    if not export.own_identity or export.part == "restorer":
        modes[~sample.mask.any(1)] = 0
    recognizer = cast(Recognizer, restorer.recognizer)
    return identity_features(recognizer, sample.lq, sample.refs, sample.mask, modes, restorer.self_encoder)


@torch.no_grad()
def _inputs(restorer: FaceRestorer, export: Export, sample: Sample) -> dict[str, Tensor]:
    """What goes into the graph."""
    used = KNOBS if restorer.takes_identity else KNOBS[:1]
    free = {name: torch.tensor(CHECKED_VALUES[name]) for name in used if export.knobs[name] is None}
    if not restorer.takes_identity:
        return {"lq": sample.lq, **free}
    if export.part == "whole":
        return {"lq": sample.lq, "refs": sample.refs, "ref_mask": sample.mask, **free}
    known = _features(restorer, export, sample)
    identity = {"id_embed": known.embed, "id_map": known.feature_map, "ref_mask": known.mask}
    return {"lq": sample.lq, **identity, "id_quality": known.quality, **free}


@torch.no_grad()
def _expected(restorer: FaceRestorer, export: Export, sample: Sample) -> Tensor:
    """What torch restores, by the way that inference takes."""
    knobs = {name: CHECKED_VALUES[name] if value is None else value for name, value in export.knobs.items()}
    adain = _adain(restorer, export)
    if not restorer.takes_identity:
        return cast(Tensor, restorer.net(sample.lq, w=knobs["w"], adain=adain).restored)
    return cast(Tensor, restorer.net(sample.lq, _features(restorer, export, sample), **knobs, adain=adain).restored)


def _trace(graph: torch.nn.Module, inputs: dict[str, Tensor], opset: int) -> Any:
    """The ONNX model of a graph with a free batch size (and number of references)."""
    try:
        import onnxscript  # noqa: F401  what torch.onnx.export writes with
    except ImportError as error:
        raise UserError("ONNX export needs onnxscript: pip install 'onnxscript>=0.2'.") from error
    for name in ("onnxscript", "onnx_ir"):
        logging.getLogger(name).setLevel(logging.ERROR)  # they tell of every constant that they fold
    with torch.no_grad():
        graph(**inputs)  # fills the caches of constants with real tensors, which the tracer's are not
    batch, refs = torch.export.Dim("batch", min=1), torch.export.Dim("refs", min=1)
    shapes = {name: {0: batch, 1: refs} if name not in ("lq", *KNOBS) else {0: batch} for name in inputs}
    shapes |= {name: {} for name in inputs if name in KNOBS}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about its own insides
        # traced by itself: the exporter would fall back to a fixed batch size where the free one fails
        traced = torch.export.export(graph, (), kwargs=inputs, dynamic_shapes=shapes)
        program = torch.onnx.export(
            traced, (), kwargs=inputs, dynamo=True, opset_version=opset, external_data=False, verbose=False,
            input_names=list(inputs), output_names=["restored"],
        )  # fmt: skip
    if program is None:
        raise UserError("torch.onnx.export gave no program. Install the tested versions: constraints.txt.")
    model = program.model_proto
    for value in (*model.graph.input, *model.graph.output):
        # the tracer's own names for free sizes say nothing
        for size, name in zip(value.type.tensor_type.shape.dim, ("batch", "refs"), strict=False):
            if size.dim_param:
                size.dim_param = name
    return model


def _metadata(weights: Path, restorer: FaceRestorer, export: Export) -> dict[str, str]:
    """What the file says of itself."""
    spec = dict(load_file(weights).get("network_g", {"type": "CodeFormer"}))
    used = export.knobs if restorer.takes_identity else {"w": export.knobs["w"]}
    for name in START_WEIGHTS:
        spec.pop(name, None)  # where training once began
    about = {
        "arch": str(spec.pop("type")),
        "arguments": json.dumps(spec, sort_keys=True),
        "part": export.part,
        "size": str(restorer.size),
        "pictures": "RGB [-1, 1], FFHQ framing",
        "opset": str(export.opset),
        "adain": json.dumps(_adain(restorer, export)),
        "knobs": json.dumps({name: "input" if value is None else value for name, value in used.items()}),
        "weights_sha256": restorer.weights_file.sha256,
    }
    if restorer.recognizer_file is not None:
        about["recognizer_sha256"] = restorer.recognizer_file.sha256
        about["without_reference"] = "self" if export.own_identity and export.part == "whole" else "none"
    return about


def _write(model: Any, about: Mapping[str, str], path: Path) -> None:
    import onnx  # heavy: only who exports pays for it

    onnx.helper.set_model_props(model, dict(about))
    onnx.save(model, str(path))


def _largest_difference(path: Path, restorer: FaceRestorer, export: Export) -> float:
    """Of what ONNX Runtime gives to what inference gives, over several batch sizes and numbers of references."""
    session = open_session(path)
    taken = {value.name for value in session.get_inputs()}  # an input that nothing depends on may be left out
    worst = 0.0
    for batch in CHECKED_BATCHES:
        for num_refs in (1, 2) if restorer.takes_identity else (1,):
            sample = _sample(restorer, batch, num_refs)
            given = _inputs(restorer, export, sample)
            feeds = {name: value.numpy() for name, value in given.items() if name in taken}
            (found,) = session.run(None, feeds)
            worst = float(np.maximum(worst, np.abs(found - _expected(restorer, export, sample).numpy()).max()))
    return worst
