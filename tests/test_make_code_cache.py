"""Cached codes are those that the frozen VQGAN gives; a cache of another VQGAN, or one that lacks files, is refused."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path
from typing import Any

import make_code_cache
import make_lmdb
import pytest
import torch
from toy_run import build, parse, run, stage_options, write_options

from basicsr.engine.loaders import build_dataset, train_loader
from basicsr.utils.code_cache import CachedCodes, CacheHeader, CodeCache, digest_of, write_cache
from basicsr.utils.errors import OptionError, UserError

NUM_PICTURES = 12


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with toy faces and a stage-I VQGAN."""
    folder = tmp_path_factory.mktemp("toy")
    run(stage_options(1, folder, total_iter=2), folder)
    return folder


@pytest.fixture
def toy(trained: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    for name in ("faces", "experiments", "recognizer.safetensors"):
        copy = shutil.copytree if (trained / name).is_dir() else shutil.copy
        copy(trained / name, tmp_path / name)
    return tmp_path


def options_with(toy: Path, cache: str | None = "codes.safetensors", stage: int = 2) -> dict[str, Any]:
    plain = stage_options(stage, toy)
    plain["datasets"]["train"]["code_cache"] = None if cache is None else str(toy / cache)
    return plain


def make(toy: Path, *arguments: str, plain: dict[str, Any] | None = None) -> int:
    file = write_options(plain or options_with(toy), toy)
    return make_code_cache.main(["-opt", str(file), "--workers", "0", "--batch_size", "3", *arguments])


@pytest.mark.parametrize("stage_number", [2, 3])
def test_cached_codes_and_features_are_those_of_the_vqgan_bit_for_bit_in_both_flips(
    toy: Path, stage_number: int
) -> None:
    assert make(toy) == 0
    options = parse(options_with(toy, stage=stage_number), toy)
    stage, dataset = build(options), build_dataset(options.datasets["train"])
    plain = build_dataset(parse(options_with(toy, None, stage_number), toy).datasets["train"])
    flips = set()
    for epoch in range(6):
        for place in range(len(dataset)):
            sample, bare = dataset[epoch, place], plain[epoch, place]
            torch.testing.assert_close(sample["gt"], bare["gt"], rtol=0, atol=0)
            cached = stage.gt_codes({"gt": sample["gt"][None], "code_idx": sample["code_idx"][None]})  # type: ignore[attr-defined]
            fresh = stage.gt_codes({"gt": bare["gt"][None]})  # type: ignore[attr-defined]
            assert torch.equal(cached[0], fresh[0])
            assert torch.equal(cached[1], fresh[1])
            row = dataset.cached.cache.names.index(Path(sample["gt_path"]).name)
            both = torch.from_numpy(dataset.cached.cache.all_codes()[row].astype("int64"))
            if not torch.equal(*both):
                flips.add(torch.equal(both[1], sample["code_idx"]))
    assert flips == {True, False}


def test_a_training_with_the_cache_encodes_nothing(toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(toy)
    options = parse(options_with(toy), toy)
    train_set = options.datasets["train"]
    stage, batch = build(options), next(iter(train_loader(build_dataset(train_set), train_set, 0, 0)))
    expected = stage.generator_losses({**batch}, 1)[0]["l_g_code"]
    del batch["code_idx"]
    assert torch.equal(stage.generator_losses(batch, 1)[0]["l_g_code"], expected)
    monkeypatch.setattr(stage.vqgan.encoder, "forward", None)  # type: ignore[union-attr]
    batch = next(iter(train_loader(build_dataset(train_set), train_set, 0, 0)))
    assert torch.equal(stage.generator_losses(batch, 1)[0]["l_g_code"], expected)


def test_pictures_in_an_lmdb_give_the_codes_of_their_files(toy: Path) -> None:
    pytest.importorskip("lmdb")
    make(toy)
    plain = options_with(toy, "other.safetensors")
    plain["datasets"]["train"]["lmdb"] = str(toy / "faces.lmdb")
    make_lmdb.main(["--source", str(toy / "faces/index.csv"), "--out", str(toy / "faces.lmdb")])
    for picture in (toy / "faces").glob("*.png"):
        picture.unlink()
    assert make(toy, plain=plain) == 0
    assert (toy / "other.safetensors").read_bytes() == (toy / "codes.safetensors").read_bytes()


def test_a_run_that_was_cut_off_goes_on_and_ends_with_the_same_file(
    toy: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(make_code_cache, "FILES_OF_A_PART", 5)
    make(toy, "--out", str(toy / "whole.safetensors"))
    encode, calls = make_code_cache.encode, []

    def cut_off(source: Any, places: Any, *rest: Any) -> Any:
        calls.append(list(places))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(source, places, *rest)

    monkeypatch.setattr(make_code_cache, "encode", cut_off)
    with pytest.raises(KeyboardInterrupt):
        make(toy)
    assert not (toy / "codes.safetensors").exists()
    part = next((toy / "codes.safetensors.parts").iterdir())
    (part.parent / "broken.safetensors").write_bytes(part.read_bytes()[:90])
    assert make(toy) == 0
    assert calls == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [5, 6, 7, 8, 9], [10, 11]]
    assert "encoded again" in caplog.text
    assert (toy / "codes.safetensors").read_bytes() == (toy / "whole.safetensors").read_bytes()
    assert not (toy / "codes.safetensors.parts").exists()


def test_pictures_that_join_the_index_are_added_and_nothing_else_is_encoded(
    toy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(toy)
    before = CodeCache(toy / "codes.safetensors")
    codes_before = before.all_codes()
    shutil.copy(toy / "faces/0_0.png", toy / "faces/new.png")
    index = toy / "faces/index.csv"
    lines = index.read_text().splitlines()
    index.write_text("\n".join([lines[0], "new.png,p0,train", *lines[1:]]) + "\n")
    with pytest.raises(OptionError, match=r"lacks 1 of 10 files of this data set \(new.png\)"):
        build_dataset(parse(options_with(toy), toy).datasets["train"])
    encode, places = make_code_cache.encode, []

    def noted(source: Any, chosen: Any, *rest: Any) -> Any:
        places.extend(chosen)
        return encode(source, chosen, *rest)

    monkeypatch.setattr(make_code_cache, "encode", noted)
    assert make(toy) == 0
    after = CodeCache(toy / "codes.safetensors")
    assert places == [0]
    assert after.names == ["new.png", *before.names]
    assert after.header.files_sha256 == digest_of(after.names) != before.header.files_sha256
    assert (after.all_codes()[1:] == codes_before).all()
    assert (after.all_codes()[0] == codes_before[0]).all()  # the same picture


def test_a_picture_that_cannot_be_read_is_named_and_the_rest_is_kept(
    toy: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = (toy / "faces/1_1.png").read_bytes()
    (toy / "faces/1_1.png").write_bytes(whole[:100])
    assert make(toy) == 1
    assert "1_1.png" in caplog.text
    assert len(CodeCache(toy / "codes.safetensors").names) == NUM_PICTURES - 1
    assert make(toy, "--check") == 1
    (toy / "faces/1_1.png").write_bytes(whole)
    assert make(toy) == 0
    assert make(toy, "--check") == 0


def test_codes_of_other_weights_are_refused_at_the_start(toy: Path) -> None:
    make(toy)
    run(stage_options(1, toy, total_iter=1) | {"name": "other", "manual_seed": 3}, toy)
    plain = options_with(toy)
    plain["path"]["pretrain_network_vqgan"] = str(toy / "experiments/other/models/net_g_latest.pth")
    with pytest.raises(OptionError, match=r"datasets.train.code_cache: .*made with other weights .*Make it again"):
        parse(plain, toy)
    with pytest.raises(UserError, match="codes of other weights"):
        make(toy, plain=plain)
    plain = options_with(toy)
    plain["path"]["param_key_vqgan"] = "params"
    with pytest.raises(OptionError, match="made with other weights"):
        parse(plain, toy)


def test_a_file_that_is_missing_cut_off_or_of_another_kind_is_one_line(toy: Path) -> None:
    with pytest.raises(OptionError, match=r"datasets.train.code_cache: .*no such code cache. Make it"):
        parse(options_with(toy), toy)
    make(toy)
    file = toy / "codes.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(OptionError, match="no whole code cache"):
        parse(options_with(toy), toy)
    with pytest.raises(OptionError, match=r"recognizer.safetensors: no code cache, it holds"):
        parse(options_with(toy, "recognizer.safetensors"), toy)
    with pytest.raises(OptionError, match=r"recognizer.safetensors: no code cache"):
        make(toy, "--out", str(toy / "recognizer.safetensors"))


def test_a_stage_without_a_vqgan_takes_no_cache(toy: Path) -> None:
    make(toy)
    plain = stage_options(1, toy)
    plain["datasets"]["train"]["code_cache"] = str(toy / "codes.safetensors")
    with pytest.raises(OptionError, match="no network_vqgan"):
        parse(plain, toy)


def test_codes_of_another_picture_size_are_refused(toy: Path) -> None:
    make(toy)
    with pytest.raises(OptionError, match="codes of 32 px pictures, gt_size is 64"):
        CachedCodes(str(toy / "codes.safetensors"), ["0_0.png"], 64)


def test_what_cannot_be_encoded_is_said_in_one_line(toy: Path) -> None:
    with pytest.raises(UserError, match="--out is missing"):
        make(toy, plain=options_with(toy, None))
    with pytest.raises(OptionError, match=r"no network_vqgan|has none"):
        make(toy, "--out", str(toy / "x"), plain=stage_options(1, toy))
    with pytest.raises(UserError, match="at least 1"):
        make(toy, "--batch_size", "0")
    for picture in (toy / "faces").glob("*.png"):
        picture.write_bytes(b"")
    with pytest.raises(UserError, match="none of 12 pictures"):
        make(toy)


def test_the_reading_side_goes_to_worker_processes(tmp_path: Path) -> None:
    codes = torch.arange(2 * 2 * 4).reshape(2, 2, 4).numpy().astype("uint16")
    write_cache(tmp_path / "c.safetensors", CacheHeader("aa", "params", 8, ""), ["a.png", "ž.png"], codes)
    cached = CachedCodes(str(tmp_path / "c.safetensors"), ["ž.png"], 8)
    assert cached.codes(0, mirrored=False).tolist() == [8, 9, 10, 11]
    other = pickle.loads(pickle.dumps(cached))
    assert other.codes(0, mirrored=True).tolist() == [12, 13, 14, 15]
