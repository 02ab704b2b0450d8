"""The recogniser interface: layouts from the file, frozen weights, ranges, gradients; LFW where it is at hand."""

import dataclasses
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from train_recognizer import verification_accuracy

from basicsr.faces import ARCFACE_112, ScrfdDetector, center_face, warp_face
from basicsr.models.identity_source import fixed_modes, identity_features
from basicsr.recognizers import Recognizer, RecognizerSpec, load_recognizer, save_recognizer
from basicsr.recognizers.crop import crop_to_template
from basicsr.recognizers.iresnet import IResNet
from basicsr.recognizers.mobilefacenet import MobileFaceNet
from basicsr.utils.errors import ImageFileError, WeightsError
from basicsr.utils.img_util import decode, img2tensor
from basicsr.utils.weights import sha256_of

SPEC = RecognizerSpec(
    layout="iresnet",
    input_size=(24, 24),
    color_order="rgb",
    mean=(127.5, 127.5, 127.5),
    std=(127.5, 127.5, 127.5),
    template_offset=(0.0, 0.0),
    embed_dim=8,
    map_shape=(32, 2, 2),
    typical_norm=3.5,
    sha256="",
    same_person_cosine=0.6,
)


def tiny_net(seed: int = 0) -> IResNet:
    torch.manual_seed(seed)
    return IResNet((1, 1, 1, 1), 4, (24, 24), 8)


class Probe(torch.nn.Module):
    """Gives back the first pixels of its input as embedding: shows what a recogniser feeds its network."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return x[:, :, 0, 0], x


def probe(**changes: object) -> Recognizer:
    return Recognizer(Probe(), dataclasses.replace(SPEC, **changes))  # type: ignore[arg-type]


def test_embedding_has_unit_length_and_norm_is_the_length_before():
    recognizer = Recognizer(tiny_net(), SPEC)
    out = recognizer(torch.rand(3, 3, 64, 64) * 2 - 1)
    raw, _ = recognizer.net(crop_to_template(torch.zeros(1, 3, 64, 64), (24, 24)))
    torch.testing.assert_close(out.embedding.norm(dim=1), torch.ones(3))
    torch.testing.assert_close(recognizer(torch.zeros(1, 3, 64, 64)).norm, raw.norm(dim=1))
    assert out.feature_map.shape == (3, 32, 2, 2)


def test_colour_order_and_range_reach_the_network_as_the_spec_says():
    red = torch.tensor([1.0, 0.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 24, 24)  # 255, 127.5, 0
    values = {"mean": (10.0, 20.0, 30.0), "std": (1.0, 2.0, 4.0)}
    rgb = probe(**values).embed_template(red).feature_map[0, :, 0, 0]
    bgr = probe(color_order="bgr", **values).embed_template(red).feature_map[0, :, 0, 0]
    gray = probe(color_order="gray", mean=(0.0,), std=(1.0,)).embed_template(red).feature_map[0, :, 0, 0]
    torch.testing.assert_close(rgb, torch.tensor([245.0, 107.5 / 2, -30.0 / 4]))
    torch.testing.assert_close(bgr, torch.tensor([-10.0, 107.5 / 2, 225.0 / 4]))
    torch.testing.assert_close(gray, torch.tensor([0.299 * 255 + 0.587 * 127.5]))


def test_forward_is_the_fixed_crop_and_then_the_template():
    recognizer = Recognizer(tiny_net(), SPEC)
    face = torch.rand(2, 3, 80, 80) * 2 - 1
    torch.testing.assert_close(
        recognizer(face).embedding, recognizer.embed_template(crop_to_template(face, (24, 24))).embedding
    )


def test_landmarks_take_the_place_of_the_fixed_crop():
    recognizer = Recognizer(tiny_net(), SPEC)
    picture = torch.rand(2, 3, 60, 80) * 2 - 1
    landmarks = torch.from_numpy(ARCFACE_112 / 2).expand(2, 5, 2) + torch.tensor([[[3.0, 1.0]], [[20.0, -2.0]]])
    torch.testing.assert_close(
        recognizer(picture, landmarks).embedding,
        recognizer.embed_template(crop_to_template(picture, (24, 24), landmarks=landmarks)).embedding,
    )


def test_a_face_without_an_embedding_is_refused_by_its_place_in_the_batch():
    recognizer = probe()
    faces = torch.rand(4, 3, 24, 24)
    faces[1], faces[3] = 0.0, 0.0
    faces[3, :, 20:] = 1.0  # the probe looks at the first pixel only
    with pytest.raises(ImageFileError, match=r"face 1 \(one colour\), 3 of 4") as caught:
        recognizer.embed_template(faces)
    assert "\n" not in str(caught.value)
    assert recognizer.embed_template(faces[::2]).embedding.shape == (2, 3)


def test_a_reference_that_is_masked_is_never_looked_at():
    lq, refs = torch.rand(2, 3, 24, 24), torch.rand(2, 2, 3, 24, 24)
    refs[1, 1] = 0.0
    mask = torch.tensor([[True, True], [True, False]])
    modes = fixed_modes("ref", 2, lq.device)
    recognizer = probe(embed_dim=3, map_shape=(3, 24, 24))
    assert identity_features(recognizer, lq, refs, mask, modes).embed.isfinite().all()
    with pytest.raises(ImageFileError, match="face 3 "):
        identity_features(recognizer, lq, refs, torch.ones_like(mask), modes)


def test_nan_goes_through_to_the_loss_where_the_run_stops_by_name():
    faces = torch.rand(2, 3, 24, 24)
    faces[0] = torch.nan
    embedding = probe().embed_template(faces).embedding
    assert embedding[0].isnan().all()
    assert embedding[1].isfinite().all()


def test_train_mode_and_gradients_never_reach_the_weights():
    recognizer = Recognizer(tiny_net(), SPEC)
    torch.nn.Sequential(recognizer).train()
    assert not any(module.training for module in recognizer.modules())
    assert not any(parameter.requires_grad for parameter in recognizer.parameters())


def test_embedding_of_a_face_does_not_depend_on_its_neighbours():
    recognizer = Recognizer(tiny_net(), SPEC).train()
    faces = torch.rand(4, 3, 64, 64) * 2 - 1
    torch.testing.assert_close(recognizer(faces).embedding[:1], recognizer(faces[:1]).embedding, atol=1e-5, rtol=0)


def test_gradient_to_the_face_is_the_finite_difference():
    recognizer = Recognizer(tiny_net(), SPEC)
    face = (torch.rand(1, 3, 40, 40) * 2 - 1).requires_grad_(True)
    direction = torch.randn(8)
    (gradient,) = torch.autograd.grad((recognizer(face).embedding @ direction).sum(), face)
    step = gradient / gradient.norm()
    moved = [(recognizer((face + sign * 1e-2 * step).detach()).embedding @ direction).sum() for sign in (1, -1)]
    assert float((moved[0] - moved[1]) / 2e-2) == pytest.approx(float(gradient.norm()), rel=2e-2)


def test_autocast_changes_nothing():
    recognizer = Recognizer(tiny_net(), SPEC)
    face = torch.rand(2, 3, 64, 64) * 2 - 1
    expected = recognizer(face)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = recognizer(face)
    assert found.embedding.dtype == torch.float32
    assert torch.equal(found.embedding, expected.embedding)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_the_gpu_gives_the_embedding_of_the_cpu():
    recognizer = Recognizer(tiny_net(), SPEC)
    face = torch.rand(4, 3, 64, 64) * 2 - 1
    expected = recognizer(face).embedding
    with torch.autocast("cuda", dtype=torch.bfloat16):
        found = recognizer.cuda()(face.cuda()).embedding
    torch.testing.assert_close(found.cpu(), expected, atol=2e-3, rtol=0)  # cuDNN may convolve in TF32


@pytest.mark.parametrize("arch", ["iresnet", "mobilefacenet"])
def test_a_saved_recogniser_comes_back_the_same_with_its_facts(tmp_path: Path, arch: str):
    net = tiny_net() if arch == "iresnet" else MobileFaceNet((0, 1, 0), 0.125, (24, 24), 8)
    spec = dataclasses.replace(SPEC, layout=arch, map_shape=net.map_shape)
    path = tmp_path / "deep" / "own.safetensors"
    save_recognizer(net, path, spec, {"accuracy": 0.93, "trained_on": "generated faces"})
    loaded = load_recognizer(path)
    face = torch.rand(2, 3, 64, 64) * 2 - 1
    assert torch.equal(loaded(face).embedding, Recognizer(net, spec)(face).embedding)
    assert loaded.spec == dataclasses.replace(spec, sha256=sha256_of(path))
    assert loaded.facts == {"accuracy": 0.93, "trained_on": "generated faces"}


def test_a_file_without_a_same_person_cosine_loads_and_takes_the_given_one(tmp_path: Path):
    path, old = tmp_path / "new.safetensors", tmp_path / "old.safetensors"
    save_recognizer(tiny_net(), path, SPEC)
    with safetensors.safe_open(path, "pt") as file:
        header = file.metadata()
        state = {name: file.get_tensor(name) for name in file.keys()}
    spec = json.loads(header["spec"])
    assert spec.pop("same_person_cosine") == 0.6
    safetensors.torch.save_file(state, old, {**header, "spec": json.dumps(spec)})
    assert load_recognizer(old).spec.same_person_cosine is None
    for file in (old, path):
        assert load_recognizer(file, same_person_cosine=0.0).spec.same_person_cosine == 0.0
        assert load_recognizer(file).spec.typical_norm == SPEC.typical_norm


@pytest.mark.parametrize("nested", [False, True])
def test_an_arcface_torch_file_is_known_by_its_keys_whatever_its_depth(tmp_path: Path, nested: bool):
    torch.manual_seed(0)
    net = IResNet((1, 2, 1, 1), 8, (32, 32), 16).eval()
    state = net.state_dict()
    path = tmp_path / "backbone.pth"
    torch.save({"epoch": 3, "state_dict_backbone": state} if nested else state, path)
    loaded = load_recognizer(path)
    images = torch.rand(2, 3, 32, 32) * 2 - 1
    torch.testing.assert_close(loaded.embed_template(images).embedding, F.normalize(net(images)[0], dim=1))
    assert loaded.spec.layout == "arcface_torch_iresnet"
    assert (loaded.spec.input_size, loaded.spec.embed_dim, loaded.spec.map_shape) == ((32, 32), 16, (64, 2, 2))


def test_a_file_of_no_known_layout_is_answered_with_the_layouts_there_are(tmp_path: Path):
    path = tmp_path / "other.pth"
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(WeightsError, match=r"other\.pth.*mobilefacenet_ms1m.*arcface_torch_iresnet") as caught:
        load_recognizer(path)
    assert "\n" not in str(caught.value)


def test_a_broken_header_and_a_misplaced_map_name_are_one_line(tmp_path: Path):
    path = tmp_path / "own.safetensors"
    save_recognizer(tiny_net(), path, SPEC)
    with pytest.raises(WeightsError, match="is for ONNX"):
        load_recognizer(path, map_node="x")
    path.write_bytes(path.read_bytes().replace(b"embed_dim", b"embed_xyz"))
    with pytest.raises(WeightsError, match="header"):
        load_recognizer(path)


def test_a_missing_file_is_named(tmp_path: Path):
    for name in ("none.onnx", "none.pth", "none.safetensors"):
        with pytest.raises(WeightsError, match=name):
            load_recognizer(tmp_path / name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "input_size", "map_shape"), [("ms1m", (112, 112), (512, 7, 7)), ("casia", (112, 96), (512, 7, 6))]
)
def test_real_onnx_recognisers_equal_onnx_runtime(
    test_data: Path, name: str, input_size: tuple[int, int], map_shape: tuple[int, int, int]
):
    import onnxruntime

    path = test_data / "recognizers" / f"mobilefacenet_{name}_128.onnx"
    recognizer = load_recognizer(path)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    images = torch.rand(3, 3, *input_size) * 2 - 1
    normalized = ((images + 1) * 127.5 - recognizer.mean) / recognizer.std
    raw = session.run(None, {session.get_inputs()[0].name: normalized.numpy()})[0]
    out = recognizer.embed_template(images)
    assert (recognizer.spec.input_size, recognizer.spec.map_shape) == (input_size, map_shape)
    torch.testing.assert_close(out.embedding, F.normalize(torch.from_numpy(raw), dim=1), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.norm, torch.from_numpy(raw).norm(dim=1), atol=1e-3, rtol=0)


def lfw_pairs(test_data: Path, every: int) -> tuple[list[tuple[str, str]], np.ndarray]:
    """Every n-th official pair whose two photos are in the archive, as member names; and which are of one person."""
    pairs, same = [], []
    for line in (test_data / "lfw_pairs.txt").read_text().splitlines()[1::every]:
        fields = line.split("\t")
        first, second = (fields[0], fields[1]), (fields[-2], fields[-1]) if len(fields) == 4 else (fields[0], fields[2])
        pairs.append(tuple(f"lfw/{name}/{name}_{int(number):04d}.jpg" for name, number in (first, second)))
        same.append(len(fields) == 3)
    with tarfile.open(test_data / "lfw.tar") as archive:
        there = set(archive.getnames())
    kept = [i for i, pair in enumerate(pairs) if there.issuperset(pair)]
    return [pairs[i] for i in kept], np.array(same)[kept]  # type: ignore[misc]


@pytest.mark.slow
def test_real_recognisers_tell_lfw_people_apart_through_our_own_alignment(test_data: Path):
    pairs, is_same = lfw_pairs(test_data, every=24)
    detector = ScrfdDetector(test_data / "detectors" / "scrfd_2.5g_bnkps.onnx", max_side=320)
    faces: dict[str, torch.Tensor] = {}  # FFHQ framing, for the fixed crop
    photos, landmarks = [], []  # the same faces for the crop by landmarks
    with tarfile.open(test_data / "lfw.tar") as archive:
        for name in dict.fromkeys(name for pair in pairs for name in pair):
            member = archive.extractfile(name)
            assert member is not None
            photo = decode(member.read(), name)
            face = center_face(detector.detect(photo), photo.shape[:2])
            assert face is not None, name
            faces[name] = img2tensor(warp_face(photo, face.landmarks, 256))
            photos.append(img2tensor(photo))
            landmarks.append(torch.from_numpy(face.landmarks))
    by_window = [(part, None) for part in torch.stack(list(faces.values())).split(32)]
    by_landmarks = list(zip(torch.stack(photos).split(32), torch.stack(landmarks).split(32), strict=True))
    for recognizer in ("ms1m", "casia"):
        net = load_recognizer(test_data / "recognizers" / f"mobilefacenet_{recognizer}_128.onnx")
        both = []
        for way, batches in (("window", by_window), ("landmarks", by_landmarks)):
            with torch.inference_mode():
                both.append(torch.cat([net(images, points).embedding for images, points in batches]))
            row = dict(zip(faces, both[-1], strict=True))
            cosines = np.array([float(row[a] @ row[b]) for a, b in pairs])
            accuracy = verification_accuracy(cosines, is_same)
            assert accuracy >= 0.97, f"{recognizer} by {way}: {accuracy:.4f} over {len(pairs)} pairs"
        agreement = (both[0] * both[1]).sum(1)
        assert agreement.mean() > 0.97, f"{recognizer}: {agreement.mean():.4f}"
