"""Weights files: safe reading, one-line errors, matching by name, and writing that never leaves half a file."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from basicsr.utils.errors import WeightsError
from basicsr.utils.weights import load_file, load_into, load_state, save_atomic, sha256_of


class Payload:
    """What a malicious checkpoint does: call a function when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /nonexistent/owned",)


@pytest.mark.filterwarnings("error")
def test_a_checkpoint_that_carries_code_is_refused_and_its_code_does_not_run(tmp_path: Path) -> None:
    modern, legacy = tmp_path / "modern.pth", tmp_path / "legacy.pth"
    torch.save({"params": {"w": torch.zeros(1)}, "hook": Payload()}, modern)
    legacy.write_bytes(pickle.dumps({"hook": Payload()}, protocol=2))
    (tmp_path / "newer.pth").write_bytes(pickle.dumps({"hook": Payload()}, protocol=4))
    for path in (modern, legacy, tmp_path / "newer.pth"):
        with pytest.raises(WeightsError, match=r"refused.*could run code") as caught:
            load_file(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89PNG\r\n\x1a\n1234567890", b"\x80\x02", bytes(range(256)) * 8])
def test_what_is_no_weights_file_gets_one_line(tmp_path: Path, content: bytes) -> None:
    for name in ("a.pth", "a.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(WeightsError, match="cannot be read as weights") as caught:
            load_file(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_a_cut_off_file_and_a_missing_one_are_named(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    save_atomic({"params": nn.Linear(50, 50).state_dict()}, path)
    for share in (0.1, 0.5, 0.99):
        cut = tmp_path / "cut.pth"
        cut.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
        with pytest.raises(WeightsError, match=r"cut\.pth.*cut off"):
            load_file(cut)
    with pytest.raises(WeightsError, match="no such weights file"):
        load_file(tmp_path / "none.pth")


def test_the_wanted_entry_is_taken_then_params_then_the_plain_file(tmp_path: Path) -> None:
    one, two = {"w": torch.ones(1)}, {"w": torch.full((1,), 2.0)}
    path = tmp_path / "net.pth"
    for contents, key, value in (
        ({"params": one, "params_ema": two}, "params_ema", 2.0),
        ({"params": one, "params_ema": two}, "params", 1.0),
        ({"params": one}, "params_ema", 1.0),
        ({"module.w": two["w"]}, "params_ema", 2.0),
    ):
        torch.save(contents, path)
        assert load_state(path, key)["w"].item() == value
    safetensors.torch.save_file(two, tmp_path / "net.safetensors")
    assert load_state(tmp_path / "net.safetensors")["w"].item() == 2.0
    torch.save({"other": {"w": one["w"]}}, path)
    with pytest.raises(WeightsError, match=r"no 'params_ema'.*found: other"):
        load_state(path)


def test_loading_reports_what_does_not_match_and_strict_refuses_it() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    kept = net.get_parameter("1.weight").clone()
    state = {"0.weight": torch.zeros(2, 2), "1.weight": torch.zeros(3, 1), "extra": torch.zeros(1)}
    report = load_into(net, state, strict=False)
    assert (report.missing, report.extra, report.mismatched) == (["0.bias", "1.bias"], ["extra"], ["1.weight"])
    assert not net.get_parameter("0.weight").any()
    assert torch.equal(net.get_parameter("1.weight"), kept)
    with pytest.raises(WeightsError, match=r"x\.pth: do not fit Sequential: 2 missing \(0\.bias, 1\.bias\)"):
        load_into(net, state, strict=True, where="x.pth")


def test_a_failed_write_leaves_the_last_file_whole_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "net.pth"
    save_atomic({"params": {"w": torch.ones(1)}}, path)
    digest = sha256_of(path)

    class Unwritable:
        def __reduce__(self) -> tuple[Any, ...]:
            raise OSError(28, "No space left on device")

    with pytest.raises(WeightsError, match=r"No space left.*last one is untouched"):
        save_atomic({"params": Unwritable()}, path)
    assert sha256_of(path) == digest
    assert [entry.name for entry in tmp_path.iterdir()] == ["net.pth"]


def test_a_folder_that_takes_no_file_gives_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WeightsError, match="could not be written"):
        save_atomic({"params": {}}, tmp_path / "file" / "net.pth")  # a file is no folder: even the clean-up fails
