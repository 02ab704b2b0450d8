"""Checkpoints in BasicSR's layout, written so that the last good one survives any kill, and exact resume.

    <folder>/models/net_g_<iter>.pth          {params, params_ema, network_g, network_identity}
    <folder>/models/net_d_<iter>.pth          {params}
    <folder>/training_states/<iter>.state     STATE_KEYS below; written last, it marks a whole checkpoint

`network_g` and `network_identity` are the options that build the networks, so that a weights file alone is enough to
use it; readers of BasicSR's layout ignore them.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from basicsr.engine.ema import ModelEma
from basicsr.engine.optim_state import load_optimizer, optimizer_misfit
from basicsr.models.base_model import BaseModel
from basicsr.utils.dist_util import all_gather_objects, bare_net, is_main, rank, world_size
from basicsr.utils.errors import UserError, WeightsError
from basicsr.utils.load_report import compare
from basicsr.utils.seed import rng_state, set_rng_state
from basicsr.utils.weights import load_file, load_into, load_state, save_atomic

logger = logging.getLogger(__name__)

T = TypeVar("T")

# what a `.state` file holds; `rng` and `log` have one entry per rank
STATE_KEYS = {
    "iter": int,
    "samples": int,
    "optimizers": dict,
    "scaler": dict,
    "rng": list,
    "best": dict,
    "log": list,
    "validation_due": bool,
}
FOREIGN = (ValueError, TypeError, KeyError, AttributeError, RuntimeError)  # what reading a foreign state raises


@dataclass
class TrainState:
    """All that changes while training, beside the random generators."""

    stage: BaseModel
    ema: ModelEma | None
    optimizers: dict[str, torch.optim.Optimizer]  # "g" and, with a discriminator, "d"
    scaler: torch.amp.GradScaler | None = None  # of float16 losses; None for other precisions
    current_iter: int = 0
    samples: int = 0  # of the training set, seen by all ranks together
    best: dict[str, float] = field(default_factory=dict)  # best value of each validation figure
    log: dict[str, Any] = field(default_factory=dict)  # this rank's sums since the last line of the log
    validation_due: bool = False  # a signal broke off the validation of this iteration; a resumed run does it first


class _Contents(NamedTuple):
    """A checkpoint in memory, read whole and found to fit."""

    state: dict[str, Any]
    net_g: dict[str, Tensor]
    ema: dict[str, Tensor] | None
    net_d: dict[str, Tensor] | None


class Checkpoints:
    """Saves and loads the checkpoints of one experiment.

    Args:
        folder: of the experiment.
        network_specs: options that rebuild the networks; stored beside the weights.
        keep_last: numbered checkpoints that stay, the newest ones; None: all.
        keep_every: of the older ones, those whose iteration is a multiple of it stay too; None: none of them.
    """

    def __init__(
        self,
        folder: Path,
        network_specs: Mapping[str, Any],
        keep_last: int | None = None,
        keep_every: int | None = None,
    ) -> None:
        self.models = folder / "models"
        self.states = folder / "training_states"
        self.network_specs = dict(network_specs)
        self.keep_last, self.keep_every = keep_last, keep_every
        self._saved_iter: int | None = None

    def save(self, state: TrainState) -> None:
        """Write the checkpoint of this iteration, unless it is written already. All ranks call it; the main one writes.

        Raises:
            WeightsError: on every rank, when it cannot be written; nothing of it is left then.
        """
        if self._saved_iter == state.current_iter:
            return
        shares = all_gather_objects((rng_state(), state.log))
        failure = None
        if is_main():
            try:
                self._write(state, shares)
            except (WeightsError, OSError) as error:
                for path in self._files(state.current_iter):  # half a checkpoint counts for nothing and takes room
                    with contextlib.suppress(OSError):  # a folder that takes no file may not let one be removed
                        path.unlink()
                failure = str(error)
        failure = _from_main(failure)
        if failure is not None:
            raise WeightsError(failure)
        self._saved_iter = state.current_iter

    def _write(self, state: TrainState, shares: list[tuple[dict[str, Any], dict[str, Any]]]) -> None:
        self.save_networks(state, str(state.current_iter))
        contents = {
            "iter": state.current_iter,
            "samples": state.samples,
            "optimizers": {name: optimizer.state_dict() for name, optimizer in state.optimizers.items()},
            "scaler": {} if state.scaler is None else state.scaler.state_dict(),
            "rng": [rng for rng, _ in shares],
            "log": [log for _, log in shares],
            "best": state.best,
            "validation_due": state.validation_due,
        }
        save_atomic(contents, self.states / f"{state.current_iter}.state")
        self._remove_old()

    def save_networks(self, state: TrainState, label: str) -> None:
        """Write `net_g_<label>.pth` and, with a discriminator, `net_d_<label>.pth`."""
        net_g: dict[str, Any] = {"params": _on_cpu(bare_net(state.stage.net_g))}
        if state.ema is not None:
            net_g["params_ema"] = _on_cpu(state.ema.net)
        save_atomic(net_g | self.network_specs, self.models / f"net_g_{label}.pth")
        if state.stage.net_d is not None:
            save_atomic({"params": _on_cpu(bare_net(state.stage.net_d))}, self.models / f"net_d_{label}.pth")

    def remove_unfinished(self) -> None:
        """Delete what a killed run was writing: files under a temporary name."""
        for folder in (self.models, self.states):
            for path in folder.glob(".*.tmp"):
                path.unlink()

    def _numbered(self) -> list[Path]:
        """The state files, newest first."""
        numbered = [path for path in self.states.glob("*.state") if path.stem.isdigit()]
        return sorted(numbered, key=lambda path: int(path.stem), reverse=True)

    def _remove_old(self) -> None:
        """Delete the numbered checkpoints that the retention policy does not keep."""
        for path in self._numbered()[self.keep_last :] if self.keep_last is not None else []:
            if self.keep_every is None or int(path.stem) % self.keep_every:
                self._remove(int(path.stem))

    def _remove(self, number: int) -> None:
        """Delete a numbered checkpoint."""
        for path in self._files(number):
            path.unlink(missing_ok=True)

    def _files(self, number: int) -> list[Path]:
        """Of a numbered checkpoint, the state first: when that is gone, what is left does not count."""
        return [self.states / f"{number}.state", *(self.models / f"net_{name}_{number}.pth" for name in ("g", "d"))]

    def load_last(self, state: TrainState) -> Path | None:
        """Load the newest checkpoint that is whole and fits; broken ones are named in the log. None without any.

        The main rank chooses for all: on a shared file system each may see another newest file.

        Raises:
            UserError: there are checkpoints, and none of them can be loaded. A run must not begin anew by itself then.
        """
        found, contents, failure = self._newest_good(state) if is_main() else (None, None, None)
        found, failure = _from_main((found, failure))
        if failure is not None:
            raise UserError(failure)
        if found is not None:
            self._apply(found, contents or _read(found, state), state)
        return found

    def _newest_good(self, state: TrainState) -> tuple[Path | None, _Contents | None, str | None]:
        """Path and contents of the newest good checkpoint, or the error when all of several are broken."""
        first: WeightsError | None = None
        for path in self._numbered():
            try:
                return path, _read(path, state), None
            except WeightsError as error:
                logger.warning("skipped a checkpoint that cannot be resumed: %s", error)
                first = first or error
        if first is None:
            return None, None, None
        reason = f"{self.states}: no checkpoint there can be resumed; of the newest: {first}"
        return None, None, f"{reason} Without --auto_resume the run begins anew and this folder is set aside."

    def load(self, path: Path, state: TrainState) -> None:
        """Put everything back as it was after that of `path`, a `.state` file of this or a like experiment."""
        self._apply(path, _read(path, state), state)

    def _apply(self, path: Path, contents: _Contents, state: TrainState) -> None:
        # the trained weights go on with 'params': the moments of the optimiser belong to them, not to the average
        load_into(bare_net(state.stage.net_g), contents.net_g)
        if state.ema is not None and contents.ema is not None:
            load_into(state.ema.net, contents.ema)
        if state.stage.net_d is not None and contents.net_d is not None:
            load_into(bare_net(state.stage.net_d), contents.net_d)
        saved = contents.state
        for name, optimizer in state.optimizers.items():
            load_optimizer(optimizer, saved["optimizers"][name])
        if state.scaler is not None and saved["scaler"]:
            state.scaler.load_state_dict(saved["scaler"])
        state.current_iter, state.samples = saved["iter"], saved["samples"]
        state.best, state.validation_due = dict(saved["best"]), saved["validation_due"]
        ranks = len(saved["rng"])
        if ranks != world_size():
            logger.warning(
                "%s was written by %d ranks, now there are %d: the run goes on after %d samples, but not bit for bit",
                path,
                ranks,
                world_size(),
                state.samples,
            )
            return
        try:
            set_rng_state(saved["rng"][rank()])
            state.log = dict(saved["log"][rank()])
        except FOREIGN as error:
            raise WeightsError(_foreign(path, f"its random state does not fit: {error}")) from error


def _read(path: Path, state: TrainState) -> _Contents:
    """Read a checkpoint whole and hold it against the networks and optimisers; nothing is changed yet.

    Raises:
        WeightsError: a file of it is missing, broken, foreign, or does not fit.
    """
    saved = load_training_state(path)
    if saved["optimizers"].keys() != state.optimizers.keys():
        raise WeightsError(
            f"{path}: holds optimisers {sorted(saved['optimizers'])}, the options ask for {sorted(state.optimizers)}. "
            "Resume with the options that the run was started with."
        )
    for name, optimizer in state.optimizers.items():
        try:
            misfit = optimizer_misfit(optimizer, saved["optimizers"][name])
        except FOREIGN as error:
            misfit = f"{type(error).__name__}: {error}"
        if misfit is not None:
            raise WeightsError(
                f"{path}: optimiser '{name}' does not fit ({misfit}). Resume with the options of that run."
            )
    models, label = path.parent.parent / "models", path.stem
    net_g = _read_fitting(models / f"net_g_{label}.pth", "params", state.stage.net_g)
    ema = None if state.ema is None else _read_fitting(models / f"net_g_{label}.pth", "params_ema", state.ema.net)
    net_d = None
    if state.stage.net_d is not None:
        net_d = _read_fitting(models / f"net_d_{label}.pth", "params", state.stage.net_d)
    return _Contents(saved, net_g, ema, net_d)


def _read_fitting(path: Path, param_key: str, net: nn.Module) -> dict[str, Tensor]:
    """State dict of a weights file that has every name and shape of `net`, and no other."""
    weights, net = load_state(path, param_key), bare_net(net)
    report = compare(net, weights)
    if not report.fits:
        raise WeightsError(f"{path}: do not fit {type(net).__name__}: {report}.")
    return weights


def load_training_state(path: Path) -> dict[str, Any]:
    """The contents of a `.state` file that `Checkpoints.save` wrote; WeightsError for one of another program."""
    contents = load_file(path)
    for key, kind in STATE_KEYS.items():
        if not isinstance(contents.get(key), kind):
            found = f"is a {type(contents[key]).__name__}" if key in contents else "is missing"
            raise WeightsError(_foreign(path, f"'{key}' {found}, expected a {kind.__name__}"))
    return contents


def _foreign(path: Path, reason: str) -> str:
    """One line for a state that this program did not write."""
    return f"{path}: is no training state of this program ({reason}). Start from its weights: path.pretrain_network_g."


def _from_main(item: T) -> T:
    """`item` of the main rank, on every rank."""
    return all_gather_objects(item)[0]  # type: ignore[no-any-return]


def _on_cpu(net: nn.Module) -> dict[str, torch.Tensor]:
    """State dict on the CPU, copied, in the layout of plain contiguous tensors."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in net.state_dict().items()}
