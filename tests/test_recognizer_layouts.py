"""Every published layout from a file on disk: found by itself, the right range and colour order, safe in training."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime
import pytest
import reference_recognizers as reference
import torch
from onnx import TensorProto, helper
from recognizer_graphs import Manner, write_insightface_graph
from torch import Tensor

from basicsr.recognizers import Recognizer, crop_to_template, load_recognizer
from basicsr.recognizers.gray_resnet import GrayResNet
from basicsr.recognizers.ir_se import IRNet
from basicsr.recognizers.iresnet import IResNet
from basicsr.utils.errors import WeightsError


@dataclass(frozen=True)
class Case:
    """A tiny file of one layout; `expected`: aligned RGB [-1, 1] (B, 3, H, W) -> embedding, by a second computation."""

    layout: str
    input_size: tuple[int, int]
    write: Callable[[Path], Callable[[Tensor], Tensor]]


def write_arcface(folder: Path) -> Callable[[Tensor], Tensor]:
    state = reference.randomize(IResNet((1, 1, 1, 1), 4, (32, 32), 8)).state_dict()
    torch.save(state, folder / "face.pth")
    return lambda rgb: reference.iresnet(state, rgb)


def write_adaface(folder: Path) -> Callable[[Tensor], Tensor]:
    """As Lightning saves it, with the head of training beside the network."""
    state = reference.randomize(IRNet("adaface", (4, 4, 8), 4, (24, 24), 8)).state_dict()
    nested = {f"model.{name}": value for name, value in state.items()} | {"head.kernel": torch.zeros(8, 3)}
    torch.save({"epoch": 25, "state_dict": nested}, folder / "face.pth")
    return lambda rgb: reference.ir_net(state, rgb.flip(1), has_squeeze=False)


def write_ir_se(folder: Path) -> Callable[[Tensor], Tensor]:
    """Without the counters that old torch did not write."""
    state = reference.randomize(IRNet("ir_se", (4, 4, 8), 4, (24, 24), 8, 2)).state_dict()
    kept = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
    torch.save(kept, folder / "face.pth")
    return lambda rgb: reference.ir_net(state, rgb.flip(1), has_squeeze=True)


def write_gray(folder: Path) -> Callable[[Tensor], Tensor]:
    """As DataParallel names it."""
    state = reference.randomize(GrayResNet((1, 1, 1, 1), 4, (32, 32), 8)).state_dict()
    torch.save({f"module.{name}": value for name, value in state.items()}, folder / "face.pth")
    return lambda rgb: reference.gray_resnet(state, 0.299 * rgb[:, :1] + 0.587 * rgb[:, 1:2] + 0.114 * rgb[:, 2:])


def graph_writer(manner: Manner, slopes_1d: bool = False) -> Callable[[Path], Callable[[Tensor], Tensor]]:
    def write(folder: Path) -> Callable[[Tensor], Tensor]:
        write_insightface_graph(folder / "face.onnx", manner, slopes_1d=slopes_1d)
        # ONNX Runtime refuses slopes of one dimension: it gets the same numbers in the shape of the standard
        path = write_insightface_graph(folder / "standard.onnx", manner)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])

        def expected(rgb: Tensor) -> Tensor:
            pixels = (rgb + 1) * 127.5 if manner == "mxnet" else rgb
            return torch.from_numpy(session.run(["embedding"], {"image": pixels.float().numpy()})[0])

        return expected

    return write


CASES = {
    "arcface_torch": Case("arcface_torch_iresnet", (32, 32), write_arcface),
    "adaface": Case("adaface_ir", (24, 24), write_adaface),
    "ir_se": Case("ir_se", (24, 24), write_ir_se),
    "gray": Case("gray_resnet", (32, 32), write_gray),
    "insightface": Case("insightface_onnx", (112, 112), graph_writer("torch")),
    "insightface view": Case("insightface_onnx", (112, 112), graph_writer("torch_view")),
    "mxnet": Case("insightface_onnx", (112, 112), graph_writer("mxnet")),
    "mxnet 1-D slopes": Case("insightface_onnx", (112, 112), graph_writer("mxnet", slopes_1d=True)),
}
every_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def load(folder: Path) -> Recognizer:
    return load_recognizer(next(path for path in folder.iterdir() if path.stem == "face"))


@every_case
def test_file_alone_gives_the_layout_and_the_embedding_of_a_second_computation(tmp_path: Path, case: Case):
    expected = case.write(tmp_path)
    recognizer = load(tmp_path)
    faces = torch.rand(3, 3, *case.input_size) * 2 - 1
    raw = expected(faces).double()
    out = recognizer.embed_template(faces)
    assert (recognizer.spec.layout, recognizer.spec.input_size) == (case.layout, case.input_size)
    assert recognizer.spec.embed_dim == raw.shape[1]
    assert out.feature_map.shape[1:] == recognizer.spec.map_shape
    torch.testing.assert_close(out.embedding.double(), raw / raw.norm(dim=1, keepdim=True), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.norm.double(), raw.norm(dim=1), atol=0, rtol=1e-4)


@every_case
def test_embedding_of_a_face_does_not_depend_on_its_neighbours(tmp_path: Path, case: Case):
    case.write(tmp_path)
    recognizer = load(tmp_path).train()
    faces = torch.rand(3, 3, 64, 64) * 2 - 1
    alone = torch.cat([recognizer(face[None]).embedding for face in faces])
    torch.testing.assert_close(recognizer(faces).embedding, alone, atol=1e-5, rtol=0)


@every_case
def test_result_is_float32_under_autocast_and_for_other_float_types(tmp_path: Path, case: Case):
    case.write(tmp_path)
    recognizer = load(tmp_path)
    faces = (torch.rand(2, 3, 64, 64) * 2 - 1).bfloat16()
    expected = recognizer(faces.float())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under_autocast = recognizer(faces.float())
    for out in (under_autocast, recognizer(faces), recognizer(faces.double())):
        assert (out.embedding.dtype, out.feature_map.dtype) == (torch.float32, torch.float32)
        assert torch.equal(out.embedding, expected.embedding)


@every_case
def test_gradient_to_the_face_is_the_finite_difference(tmp_path: Path, case: Case):
    case.write(tmp_path)
    recognizer = load(tmp_path)
    face = (torch.rand(1, 3, 48, 48) * 2 - 1).requires_grad_(True)
    direction = torch.randn(recognizer.spec.embed_dim)
    (gradient,) = torch.autograd.grad((recognizer(face).embedding @ direction).sum(), face)
    recognizer.net.double()  # the difference in float64, so that a small step is exact
    step = 1e-4 * gradient.double() / gradient.norm()
    moved = [similarity_in_float64(recognizer, face.detach().double() + sign * step, direction) for sign in (1, -1)]
    assert (moved[0] - moved[1]) / 2e-4 == pytest.approx(float(gradient.norm()), rel=2e-3)


def similarity_in_float64(recognizer: Recognizer, face: Tensor, direction: Tensor) -> float:
    spec = recognizer.spec
    crop = crop_to_template(face, spec.input_size, spec.template_offset, spec.template)
    pixels = {"rgb": crop, "bgr": crop.flip(1)}.get(spec.color_order)
    if pixels is None:
        pixels = (crop * torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64).view(1, 3, 1, 1)).sum(1, keepdim=True)
    raw, _ = recognizer.net(((pixels + 1) * 127.5 - recognizer.mean) / recognizer.std)
    return float((raw / raw.norm() @ direction.double()).detach())


def test_gray_recogniser_sees_the_whole_face_and_the_others_the_arcface_crop(tmp_path: Path):
    specs = {}
    for name in ("gray", "adaface", "insightface"):
        folder = tmp_path / name
        folder.mkdir()
        CASES[name].write(folder)
        specs[name] = load(folder).spec.template
    assert specs == {"gray": "ffhq_512", "adaface": "arcface_112", "insightface": "arcface_112"}


def test_a_graph_that_divides_by_the_length_is_known_to_normalise(tmp_path: Path):
    path = write_insightface_graph(tmp_path / "face.onnx")
    assert not load_recognizer(path).spec.normalizes
    model = onnx.load(str(path))
    model.graph.node.extend(
        [
            helper.make_node("ReduceL2", ["embedding"], ["length"], axes=[1], keepdims=1),
            helper.make_node("Div", ["embedding", "length"], ["unit"]),
        ]
    )
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("unit", TensorProto.FLOAT, ["None", 512]))
    onnx.save(model, str(path))
    recognizer = load_recognizer(path)
    assert recognizer.spec.normalizes
    torch.testing.assert_close(recognizer(torch.rand(2, 3, 64, 64)).norm, torch.ones(2))


@pytest.mark.parametrize(
    ("side", "embed_dim", "why"), [(96, 512, "(0, 3, 96, 96)"), (112, 7, "(0, 7)")], ids=["input", "mood"]
)
def test_graph_of_another_size_is_named_with_its_sizes(tmp_path: Path, side: int, embed_dim: int, why: str):
    path = write_insightface_graph(tmp_path / "other.onnx", embed_dim=embed_dim, side=side)
    with pytest.raises(WeightsError, match=r"other\.onnx.*insightface_onnx") as caught:
        load_recognizer(path)
    assert why in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_detector_is_told_by_its_outputs_or_its_keys(tmp_path: Path):
    outputs = [helper.make_tensor_value_info(f"o{i}", TensorProto.FLOAT, [1, 4]) for i in range(9)]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 640, 640])
    nodes = [helper.make_node("ReduceMean", ["image"], [f"o{i}"], axes=[1, 2], keepdims=0) for i in range(9)]
    graph = helper.make_model(
        helper.make_graph(nodes, "detector", [image], outputs),
        opset_imports=[helper.make_opsetid("", 11)],
        ir_version=6,
    )
    onnx.save(graph, str(tmp_path / "det_10g.onnx"))
    torch.save({"module.body.stage1.0.0.weight": torch.zeros(2), "module.x": torch.zeros(1)}, tmp_path / "retina.pth")
    for name, why in (("det_10g.onnx", "detector"), ("retina.pth", r"2 tensors \(body\.stage1")):
        with pytest.raises(WeightsError, match=why):
            load_recognizer(tmp_path / name)


def cut(data: bytes) -> bytes:
    return data[: len(data) // 2]


@pytest.mark.parametrize("case", [CASES["arcface_torch"], CASES["insightface"]], ids=["pth", "onnx"])
@pytest.mark.parametrize(
    "damage", [cut, lambda _: b"", lambda _: b"\xff\xd8\xff\xe0 a photo " * 40], ids=["cut", "empty", "jpeg"]
)
def test_a_damaged_file_is_one_line_with_its_name(tmp_path: Path, case: Case, damage: Callable[[bytes], bytes]):
    case.write(tmp_path)
    path = next(path for path in tmp_path.iterdir() if path.stem == "face")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(WeightsError, match=path.name) as caught:
        load_recognizer(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["arcface_torch", "adaface", "ir_se", "gray"])
def test_a_state_dict_whose_tensors_do_not_belong_together_is_one_line(tmp_path: Path, name: str):
    CASES[name].write(tmp_path)
    path = tmp_path / "face.pth"
    contents = torch.load(path, weights_only=True)
    state = contents.get("state_dict", contents)
    matrix = next(key for key, value in state.items() if value.ndim == 2 and "head" not in key)
    for broken in (torch.zeros(3), torch.zeros(8, 50)):
        state[matrix] = broken
        torch.save(contents, path)
        with pytest.raises(WeightsError, match=r"face\.pth") as caught:
            load_recognizer(path)
        assert "\n" not in str(caught.value)


def test_weights_with_nan_are_refused_by_the_name_of_the_tensor(tmp_path: Path):
    CASES["arcface_torch"].write(tmp_path)
    state = torch.load(tmp_path / "face.pth", weights_only=True)
    state["layer2.0.conv1.weight"][0, 0, 0, 0] = torch.nan
    torch.save(state, tmp_path / "face.pth")
    with pytest.raises(WeightsError, match=r"NaN in 'layer2\.0\.conv1\.weight'"):
        load_recognizer(tmp_path / "face.pth")


class Hyperparameters(dict):  # type: ignore[type-arg]
    """Stands for the objects that Lightning keeps in a checkpoint."""


def test_a_lightning_checkpoint_with_foreign_objects_is_refused_in_one_line_with_the_way_out(tmp_path: Path):
    CASES["adaface"].write(tmp_path)
    contents = torch.load(tmp_path / "face.pth", weights_only=True)
    torch.save({**contents, "hyper_parameters": Hyperparameters(lr=0.1)}, tmp_path / "adaface.ckpt")
    with pytest.raises(WeightsError, match=r"adaface\.ckpt.*could run code.*Export the plain state dict") as caught:
        load_recognizer(tmp_path / "adaface.ckpt")
    assert "\n" not in str(caught.value)
