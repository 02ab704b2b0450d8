"""basicsr/test.py for real: a shipped option file, generated faces, toy networks; nothing is faked."""

from __future__ import annotations

import csv
import json
import re
import sys
from pathlib import Path
from typing import Any

import make_generated_faces
import make_test_set
import numpy as np
import pytest
import torch
from toy_run import CODEFORMER, IDENTITY, SIZE, make_recognizer

from basicsr.utils.img_util import imread
from basicsr.utils.registry import ARCH_REGISTRY
from basicsr.utils.weights import save_atomic, sha256_of

SEARCHED = list(sys.path)
from basicsr import test as program  # noqa: E402

sys.path[:] = SEARCHED  # a program puts the repository in the place of its own folder

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow


def make_net(path: Path, recognizer: Path, seed: int) -> Path:
    """An untrained network whose every weight is random: also those of the identity, which start at zero."""
    torch.manual_seed(seed)
    spec: dict[str, Any] = {"type": "IDCodeFormer", **CODEFORMER, **IDENTITY}
    net = ARCH_REGISTRY.build(spec)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    identity = {"path": str(recognizer), "map_node": None, "sha256": sha256_of(recognizer)}
    save_atomic({"params": net.state_dict(), "network_g": spec, "network_identity": identity}, path)
    return path


@pytest.fixture(scope="module")
def challenge(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A folder with a small challenge set, and the arguments that lead options/test/challenge.yml to it."""
    folder = tmp_path_factory.mktemp("challenge")
    make = ["--out", str(folder / "faces"), "--people", "8", "--photos", "3", "--size", str(SIZE), "--workers", "1"]
    assert make_generated_faces.main([*make, "--splits", "test=1"]) == 0
    index = ["--index", str(folder / "faces" / "index.csv"), "--size", str(SIZE)]
    assert make_test_set.main([*index, "--out", str(folder / "set")]) == 0
    judge, train = (make_recognizer(folder / f"{name}.safetensors", i) for i, name in enumerate(("judge", "train")))
    for i, row in enumerate(("A", "D")):
        make_net(folder / f"{row}.pth", train, i)
    changes = [
        f"results_root={folder / 'results'}", f"sets:challenge:pairs={folder / 'set' / 'pairs.csv'}",
        f"runs:A:weights={folder / 'A.pth'}", f"runs:D:weights={folder / 'D.pth'}",
        f"recognizers=[{judge}]", f"trained_with=[{train}]", "lpips_nets=[]",
    ]  # fmt: skip
    return folder, ["-opt", str(ROOT / "options" / "test" / "challenge.yml"), "--force_yml", *changes]


def test_the_challenge_set_is_restored_judged_and_shown_by_slice(challenge: tuple[Path, list[str]]) -> None:
    folder, arguments = challenge
    assert program.main(arguments) == 0
    out = folder / "results" / "test_challenge" / "challenge"
    names = sorted(path.name for path in (folder / "set" / "gt").iterdir())
    for run in "AD":
        pictures = out / run / "restored_faces"
        assert sorted(path.name for path in pictures.iterdir()) == names
        commands = json.loads((out / run / "command.json").read_text())
        assert commands["weights_sha256"] == sha256_of(folder / f"{run}.pth")
        assert ("none" if run == "A" else "ref") in commands["command"]
    with (out / "per_image.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * len(names)
    for row in rows:  # of the very files that lie there
        gt, restored = (
            imread(place / f"{Path(row['name']).name}.png").astype(np.float64)
            for place in (folder / "set" / "gt", out / row["run"] / "restored_faces")
        )
        assert float(row["psnr"]) == pytest.approx(10 * np.log10(255**2 / np.mean((gt - restored) ** 2)), abs=1e-9)
        assert row["failure"] == ""
        assert row["slice:eyeglasses"] in ("0", "1")
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["baseline"] == "A"
    assert {"psnr", "ids_judge", "ids_ref_judge", "gap_train_judge"} <= {figure["key"] for figure in metrics["figures"]}
    assert [item["label"] for item in metrics["unavailable"]][:1] == ["Landmark distance"]
    # yaw is there, too, but all of these faces look within one range of it
    assert {"eyeglasses", "earrings", "hat"} <= {one["column"] for one in metrics["slices"]}

    html = (out / "report.html").read_text()
    shown = html[html.index('id="slice_pictures"') :]
    headings = re.findall(r"<h3>(.*?)</h3>", shown)
    assert {"eyeglasses: 0", "eyeglasses: 1"} <= set(headings)
    columns = re.findall(r"<th>(.*?)</th>", shown)[:5]
    assert columns == ["LQ", "Reference", "A", "D", "GT"], "row A against row D"
    for column in ("eyeglasses", "hat"):
        grid = imread(out / f"grid_{column}.png")
        assert min(grid.shape[:2]) > 128, "a grid of pictures, also as a file"


def test_what_is_restored_is_kept_and_another_checkpoint_restores_again(challenge: tuple[Path, list[str]]) -> None:
    folder, arguments = challenge
    out = folder / "results" / "test_challenge" / "challenge"
    if not (out / "report.html").is_file():
        assert program.main(arguments) == 0
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/restored_faces/*.png")}
    make_net(folder / "D.pth", folder / "train.safetensors", seed=5)
    assert program.main(arguments) == 0
    changed = {path.parts[-3] for path, time in before.items() if path.stat().st_mtime_ns != time}
    assert changed == {"D"}
