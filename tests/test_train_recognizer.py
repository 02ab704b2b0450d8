"""The recogniser trainer: its loss and its accuracy against loops, and one small run."""

from pathlib import Path

import numpy as np
import pytest
import torch
from train_recognizer import FaceSet, MarginSoftmax, augment, degrade, main, verification_accuracy, verify

from basicsr.data.generated_faces import person_at, photo_at, render
from basicsr.recognizers import Recognizer, RecognizerSpec, load_recognizer
from basicsr.recognizers.mobilefacenet import MobileFaceNet
from basicsr.utils.errors import OptionError
from basicsr.utils.img_util import imwrite


def write_people(folder: Path, num_train: int, num_val: int, num_photos: int, size: int = 48) -> Path:
    """A data set of generated people; returns its index."""
    lines = ["path,identity,split"]
    for number in range(num_train + num_val):
        for photo in range(num_photos):
            name = f"{number:03d}_{photo}.png"
            imwrite(folder / name, render(person_at(5, number), photo_at(5, number, photo), size))
            lines.append(f"{name},{number:03d},{'train' if number < num_train else 'val'}")
    index = folder / "index.csv"
    index.write_text("\n".join(lines) + "\n")
    return index


def test_margin_softmax_equals_the_formula_of_the_paper():
    torch.manual_seed(0)
    head = MarginSoftmax(4, 3, scale=8.0, margin=0.2)
    embedding, labels = torch.randn(5, 4), torch.tensor([0, 2, 1, 1, 0])
    total = 0.0
    for x, label in zip(embedding, labels, strict=True):
        cosines = [float(x @ c / (x.norm() * c.norm())) for c in head.centers.detach()]
        logits = [8.0 * (cosine - (0.2 if i == label else 0.0)) for i, cosine in enumerate(cosines)]
        total -= np.log(np.exp(logits[int(label)]) / np.exp(logits).sum())
    assert head(embedding, labels).item() == pytest.approx(total / 5, rel=1e-5)


def test_accuracy_equals_a_search_over_all_thresholds():
    rng = np.random.default_rng(0)
    is_same = rng.random(60) < 0.5
    cosines = rng.normal(size=60) * 0.3 + 0.5 * is_same
    accuracies = []
    for k in range(5):
        test = np.arange(60) % 5 == k
        hits = {t: ((cosines[~test] >= t) == is_same[~test]).sum() for t in cosines[~test]}
        best = max(hits.values())
        threshold = max(t for t, count in hits.items() if count == best)
        accuracies.append(((cosines[test] >= threshold) == is_same[test]).mean())
    assert verification_accuracy(cosines, is_same, 5) == pytest.approx(np.mean(accuracies))


def test_perfectly_apart_pairs_are_all_right_and_random_ones_are_half_right():
    rng = np.random.default_rng(0)
    is_same = rng.random(4000) < 0.5
    assert verification_accuracy(np.where(is_same, 0.9, 0.1), is_same) == 1.0
    assert verification_accuracy(rng.random(4000), is_same) == pytest.approx(0.5, abs=0.05)


def test_augmentation_is_a_function_of_the_generator_and_keeps_the_shape():
    images = torch.rand(4, 3, 32, 32) * 2 - 1
    first, second = (augment(images, torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(first, second)
    assert first.shape == images.shape
    assert not torch.equal(first, augment(images, torch.Generator().manual_seed(4)))


def test_degrading_removes_detail():
    checkers = torch.ones(8, 1, 1, 1) * (torch.arange(32) % 2 * 2.0 - 1)
    degraded = torch.stack([degrade(checkers.expand(8, 3, 32, 32), torch.Generator().manual_seed(i)) for i in range(8)])
    assert degraded.abs().mean() < 0.6


def test_the_threshold_is_passed_by_the_named_share_of_different_people():
    torch.manual_seed(0)
    net = MobileFaceNet((0, 0, 0), 0.125, (32, 32), 8)
    spec = RecognizerSpec("x", (32, 32), "rgb", (127.5,) * 3, (127.5,) * 3, (0.0, 0.0), 8, net.map_shape, None, "")
    recognizer = Recognizer(net, spec)
    faces = FaceSet(torch.rand(60, 3, 32, 32) * 2 - 1, torch.arange(60) // 2)
    result = verify(recognizer, faces, 0)
    embedding = recognizer.embed_template(faces.images).embedding
    cosines = [
        float(embedding[i] @ embedding[j]) for i in range(60) for j in range(i) if faces.labels[i] != faces.labels[j]
    ]
    assert 0 <= (np.array(cosines) >= result.far_threshold).mean() <= 3e-3
    same = [float(embedding[i] @ embedding[i + 1]) for i in range(0, 60, 2)]
    assert result.same_person_cosine == pytest.approx(np.mean(same), abs=1e-5)
    assert result.typical_norm == pytest.approx(float(recognizer.embed_template(faces.images).norm.mean()))


def test_a_run_writes_a_recogniser_with_its_facts_and_says_when_it_is_not_good_enough(tmp_path: Path):
    index, out = write_people(tmp_path, 4, 3, 4), tmp_path / "out" / "own.safetensors"
    arguments = ["--index", str(index), "--out", str(out), "--size", "32", "--epochs", "1", "--batch_size", "8"]
    assert main([*arguments, "--seed", "7", "--min_accuracy", "1.01"]) == 1
    recognizer = load_recognizer(out)
    assert recognizer.facts["seed"] == 7
    assert recognizer.facts["num_people"] == 4
    assert recognizer.facts["trained_on"] == "generated faces"
    assert 0 <= float(recognizer.facts["accuracy"]) <= 1
    assert recognizer.spec.typical_norm is not None
    assert recognizer.spec.same_person_cosine is not None
    assert main([*arguments, "--min_accuracy", "0"]) == 0


def test_wrong_arguments_are_one_line(tmp_path: Path):
    base = ["--index", str(tmp_path / "none.csv"), "--out", str(tmp_path / "x.safetensors")]
    for extra, word in (([], "none.csv"), (["--size", "8"], "--size 8"), (["--out", "x.pth"], "safetensors")):
        with pytest.raises(OptionError, match=word) as caught:
            main([*base, *extra])
        assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize(("arch", "seed"), [("iresnet", 1), ("mobilefacenet", 2)])
def test_generated_people_never_seen_are_told_apart(tmp_path: Path, arch: str, seed: int):
    index, out = write_people(tmp_path, 100, 40, 8), tmp_path / "own.safetensors"
    arguments = ["--arch", arch, "--seed", str(seed), "--batch_size", "32", "--epochs", "7"]
    assert main(["--index", str(index), "--out", str(out), *arguments]) == 0
    assert float(load_recognizer(out).facts["accuracy_degraded"]) >= 0.85
