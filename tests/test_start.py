"""How a run starts and fails: an earlier run stays where it is, and every fault is one line with exit code 2."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_run import build, parse, run, stage_options, write_options

from basicsr.engine.trainer import Trainer
from basicsr.train import main
from basicsr.utils.errors import ImageFileError, OptionError, UserError
from basicsr.utils.logger import MetricLog


@pytest.fixture(autouse=True)
def _own_log_handlers() -> Iterator[None]:
    """train.py hangs the run's log file onto the package; a test takes it off again."""
    package = logging.getLogger("basicsr")
    before = list(package.handlers)
    yield
    for handler in [handler for handler in package.handlers if handler not in before]:
        package.removeHandler(handler)
        handler.close()


def start(plain: dict[str, Any], folder: Path) -> int:
    """Run train.py's main in this process."""
    return main(["-opt", str(write_options(plain, folder))])


@pytest.mark.parametrize("broken", ["train", "val"])
def test_a_start_that_fails_leaves_the_earlier_run_where_it_is(tmp_path: Path, broken: str) -> None:
    plain = stage_options(1, tmp_path, total_iter=1)
    assert start(plain, tmp_path) == 0
    before = sorted((tmp_path / "experiments").rglob("*"))
    plain["val"] = {"val_freq": 1}
    plain["datasets"]["val"] = dict(plain["datasets"]["train"])
    plain["datasets"][broken]["source"] = "/nope"
    with pytest.raises(UserError, match="/nope"):
        start(plain, tmp_path)
    assert sorted((tmp_path / "experiments").rglob("*")) == before


def test_a_good_start_sets_the_earlier_run_aside(tmp_path: Path) -> None:
    plain = stage_options(1, tmp_path, total_iter=1)
    assert [start(plain, tmp_path) for _ in range(2)] == [0, 0]
    archived, fresh = sorted((tmp_path / "experiments").iterdir(), key=lambda path: len(path.name), reverse=True)
    assert archived.name.startswith("toy1_archived_")
    assert fresh.name == "toy1"


@pytest.mark.parametrize("name", [".", "..", "..."])
def test_a_name_of_dots_alone_is_refused(tmp_path: Path, name: str) -> None:
    plain = stage_options(1, tmp_path) | {"name": name}
    (tmp_path / "options").mkdir()
    path = tmp_path / "options" / "dots.yml"
    write_options({**plain, "name": "dots"}, path.parent)
    path.write_text(path.read_text().replace("name: dots", f"name: '{name}'"))
    with pytest.raises(OptionError, match=r"name: found '\.+', expected .*dots\.yml:\d+"):
        main(["-opt", str(path)])


def test_a_root_that_is_a_file_is_one_line_with_the_path(tmp_path: Path) -> None:
    plain = stage_options(1, tmp_path, total_iter=1)
    (tmp_path / "file").write_text("")
    plain["path"]["experiments_root"] = str(tmp_path / "file" / "below")
    with pytest.raises(UserError, match=r"file.*cannot be written \(Not a directory\).*experiments_root"):
        start(plain, tmp_path)


def test_a_log_that_cannot_be_written_is_one_line_with_the_path(tmp_path: Path) -> None:
    log = MetricLog(tmp_path / "run", use_tensorboard=True)
    (tmp_path / "run" / "tb_logger").parent.mkdir()
    (tmp_path / "run" / "tb_logger").write_text("a file where the events' folder belongs")
    with pytest.raises(UserError, match="tb_logger: cannot be written"):
        log.open()
    (tmp_path / "run" / "metrics.jsonl").mkdir()
    with pytest.raises(UserError, match=r"metrics\.jsonl: cannot be written"):
        log.scalars(1, {"l_g_pix": 0.0})


def test_a_picture_that_cannot_be_read_ends_the_run_after_a_checkpoint(tmp_path: Path) -> None:
    plain = stage_options(1, tmp_path, total_iter=9)
    plain["logger"]["save_checkpoint_freq"] = 100
    options = parse(plain, tmp_path)
    trainer = Trainer(options, build(options), tmp_path / "broken")
    read, number = trainer.train_data.__class__.__getitem__, iter(range(100))

    class Broken(trainer.train_data.__class__):  # type: ignore[misc, name-defined]
        def __getitem__(self, key: Any) -> Any:
            if next(number) == 6:  # the seventh sample: iteration 4 of batches of two
                raise ImageFileError("face.png: is cut off.")
            return read(self, key)

    trainer.train_data.__class__ = Broken
    with pytest.raises(ImageFileError, match=r"^face\.png: is cut off\.$"):
        trainer.run()
    assert [path.name for path in (tmp_path / "broken" / "training_states").iterdir()] == ["3.state"]
    straight = run({**plain, "train": {**plain["train"], "total_iter": 3}}, tmp_path)
    saved = torch.load(tmp_path / "broken" / "models" / "net_g_3.pth", weights_only=True)["params"]
    assert all(torch.equal(saved[key], value) for key, value in straight.stage.net_g.state_dict().items())


def test_the_summary_stands_in_the_log_and_in_run_json(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="basicsr"):
        assert start(stage_options(1, tmp_path, total_iter=1), tmp_path) == 0
    folder = tmp_path / "experiments" / "toy1"
    networks = json.loads((folder / "run.json").read_text())["networks"]
    assert networks.keys() == {"network_g", "network_d"}
    assert networks["network_g"].keys() == {"params", "trainable", "flops"}
    log = (folder / "train.log").read_text()
    assert "network_g: 0.05 M parameters, 0.05 M trainable, 0.02 GFLOPs for one image" in log
    assert "images/s" in log
