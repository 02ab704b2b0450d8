"""The log file of a run holds what was said before its folder was there."""

from __future__ import annotations

import json
import logging
import re
import subprocess
from pathlib import Path

import pytest
import torch

from basicsr.utils.dist_util import init_distributed
from basicsr.utils.errors import UserError
from basicsr.utils.logger import MetricLog, git_commit, hold_log, log_to_file


def test_lines_from_before_the_file_and_after_it_stand_in_it_in_order(tmp_path: Path) -> None:
    package = logging.getLogger("basicsr")
    handlers = list(package.handlers)
    logging.getLogger("basicsr.models").warning("built without LPIPS")
    held = hold_log()
    logging.getLogger("basicsr.models").warning("weights loaded")
    log_to_file(tmp_path / "run" / "train.log", held)
    logging.getLogger("basicsr.engine").warning("iteration 1")
    (added,) = [handler for handler in package.handlers if handler not in handlers]
    package.removeHandler(added)
    added.close()
    lines = (tmp_path / "run" / "train.log").read_text().splitlines()
    assert [line.partition(": ")[2] for line in lines] == ["weights loaded", "iteration 1"]


def test_ranks_other_than_the_first_log_warnings_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    package = logging.getLogger("basicsr")
    monkeypatch.setattr(package, "level", package.level)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("torch.distributed.init_process_group", lambda backend, timeout: None)
    for number, expected in ((0, package.level), (1, logging.WARNING)):
        monkeypatch.setattr("basicsr.utils.dist_util.rank", lambda number=number: number)
        init_distributed(torch.device("cpu"))
        assert package.level == expected


def test_the_commit_is_none_outside_a_checkout_and_a_hash_inside_one(tmp_path: Path) -> None:
    assert git_commit(tmp_path) == "none"
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    author = ["-c", "user.name=toy", "-c", "user.email=toy@example.com"]
    subprocess.run(["git", "-C", tmp_path, *author, "commit", "-q", "--allow-empty", "-m", "first"], check=True)
    assert re.fullmatch("[0-9a-f]{40}", git_commit(tmp_path))


def test_a_disk_that_takes_no_line_of_the_log_stops_the_run_with_one_line(tmp_path: Path) -> None:
    package = logging.getLogger("basicsr")
    handlers = list(package.handlers)
    (tmp_path / "train.log").symlink_to("/dev/full")
    log_to_file(tmp_path / "train.log", hold_log())
    with pytest.raises(UserError, match=r"train\.log: cannot be written \(No space left on device\)") as caught:
        logging.getLogger("basicsr.engine").warning("iteration 1")
    assert "\n" not in str(caught.value)
    assert package.handlers == handlers, "a handler that cannot write is taken off"


def test_a_disk_that_takes_no_figure_stops_the_run_with_one_line(tmp_path: Path) -> None:
    log = MetricLog(tmp_path, use_tensorboard=False)
    log.path.symlink_to("/dev/full")
    with pytest.raises(UserError, match=r"cannot be written \(No space left on device\)"):
        log.scalars(1, {"l_g_pix": 1.0})


def test_a_resumed_log_has_no_line_twice_and_none_that_was_half_written(tmp_path: Path) -> None:
    log = MetricLog(tmp_path, use_tensorboard=False)
    log.open()
    for number in range(1, 6):
        log.scalars(number, {"l_g_pix": 1.0})
    with log.path.open("a") as file:
        file.write('{"iter": 6, "l_g')
    log.open(resume_iter=4)
    log.scalars(5, {"l_g_pix": 2.0})
    lines = [json.loads(line) for line in log.path.read_text().splitlines()]
    assert [line["iter"] for line in lines] == [1, 2, 3, 4, 5]
    assert lines[-1]["l_g_pix"] == 2.0
