"""Checkpoints in BasicSR's layout, written so that the last good one survives any kill, and exact resume.

    <folder>/models/net_g_<iter>.pth          {params, params_ema, network_g, network_identity}
    <folder>/models/net_d_<iter>.pth          {params}
    <folder>/training_states/<iter>.state     {iter, optimizers, rng, best}; written last, it marks a whole checkpoint

`network_g` and `network_identity` are the options that build the networks, so that a weights file alone is enough to
use it; readers of BasicSR's layout ignore them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from basicsr.engine.ema import ModelEma
from basicsr.models.base_model import BaseModel
from basicsr.utils.dist_util import all_gather_objects, bare_net, barrier, is_main, rank, world_size
from basicsr.utils.errors import WeightsError
from basicsr.utils.seed import rng_state, set_rng_state
from basicsr.utils.weights import load_file, load_into, load_state, save_atomic

logger = logging.getLogger(__name__)

STATE_KEYS = {"iter": int, "optimizers": dict, "rng": list, "best": dict}
FOREIGN = (ValueError, TypeError, KeyError, AttributeError, RuntimeError)  # what reading a foreign state raises


@dataclass
class TrainState:
    """All that changes while training, beside the random generators."""

    stage: BaseModel
    ema: ModelEma | None
    optimizers: dict[str, torch.optim.Optimizer]  # "g" and, with a discriminator, "d"
    scaler: torch.amp.GradScaler | None = None  # of the losses; its scale moves with float16 alone
    current_iter: int = 0
    best: dict[str, float] = field(default_factory=dict)  # best value of each validation figure


class Checkpoints:
    """Saves and loads the checkpoints of one experiment.

    Args:
        folder: of the experiment.
        network_specs: options that rebuild the networks; stored beside the weights.
        keep_last: numbered checkpoints that stay, the newest ones; None: all.
    """

    def __init__(self, folder: Path, network_specs: Mapping[str, Any], keep_last: int | None = None) -> None:
        self.models = folder / "models"
        self.states = folder / "training_states"
        self.network_specs = dict(network_specs)
        self.keep_last = keep_last

    def save(self, state: TrainState) -> None:
        """Write the checkpoint of this iteration. All ranks call it; the main one writes."""
        rng = all_gather_objects(rng_state())
        if is_main():
            self.save_networks(state, str(state.current_iter))
            contents = {
                "iter": state.current_iter,
                "optimizers": {name: optimizer.state_dict() for name, optimizer in state.optimizers.items()},
                "rng": rng,
                "best": state.best,
                "scaler": {} if state.scaler is None else state.scaler.state_dict(),
            }
            save_atomic(contents, self.states / f"{state.current_iter}.state")
            self._remove_old()
        barrier()

    def save_networks(self, state: TrainState, label: str) -> None:
        """Write `net_g_<label>.pth` and, with a discriminator, `net_d_<label>.pth`."""
        net_g: dict[str, Any] = {"params": _on_cpu(bare_net(state.stage.net_g))}
        if state.ema is not None:
            net_g["params_ema"] = _on_cpu(state.ema.net)
        save_atomic(net_g | self.network_specs, self.models / f"net_g_{label}.pth")
        if state.stage.net_d is not None:
            save_atomic({"params": _on_cpu(bare_net(state.stage.net_d))}, self.models / f"net_d_{label}.pth")

    def last(self) -> Path | None:
        """The newest checkpoint of which every file can be read; None without one. Broken ones are named in the log."""
        for path in self._numbered():
            try:
                contents = load_training_state(path)
                for name in ("g", "d") if "d" in contents["optimizers"] else ("g",):
                    load_file(self.models / f"net_{name}_{path.stem}.pth")
                return path
            except WeightsError as error:
                logger.warning("skipped a broken checkpoint: %s", error)
        return None

    def _numbered(self) -> list[Path]:
        """The state files, newest first."""
        numbered = [path for path in self.states.glob("*.state") if path.stem.isdigit()]
        return sorted(numbered, key=lambda path: int(path.stem), reverse=True)

    def _remove_old(self) -> None:
        """Delete numbered checkpoints beyond `keep_last`; the state goes first, so that no half checkpoint counts."""
        for path in self._numbered()[self.keep_last :] if self.keep_last is not None else []:
            path.unlink()
            for name in ("g", "d"):
                (self.models / f"net_{name}_{path.stem}.pth").unlink(missing_ok=True)

    def load(self, path: Path, state: TrainState) -> None:
        """Put everything back as it was after that of `path`, a `.state` file of this or a like experiment."""
        contents = load_training_state(path)
        models, label = path.parent.parent / "models", path.stem
        file_g, file_d = models / f"net_g_{label}.pth", models / f"net_d_{label}.pth"
        # the trained weights go on with 'params': the moments of the optimiser belong to them, not to the average
        load_into(bare_net(state.stage.net_g), load_state(file_g, "params"), where=str(file_g))
        if state.ema is not None:
            load_into(state.ema.net, load_state(file_g, "params_ema"), where=str(file_g))
        if state.stage.net_d is not None:
            load_into(bare_net(state.stage.net_d), load_state(file_d, "params"), where=str(file_d))
        self._load_optimizers(path, contents, state)
        if state.scaler is not None and contents.get("scaler"):
            state.scaler.load_state_dict(contents["scaler"])
        state.current_iter = int(contents["iter"])
        state.best = dict(contents["best"])
        if len(contents["rng"]) == world_size():
            try:
                set_rng_state(contents["rng"][rank()])
            except FOREIGN as error:
                raise WeightsError(_foreign(path, f"its random state does not fit: {error}")) from error
        else:
            logger.warning(
                "%s was written by %d ranks, now there are %d: the run goes on, but not bit for bit",
                path,
                len(contents["rng"]),
                world_size(),
            )

    def _load_optimizers(self, path: Path, contents: Mapping[str, Any], state: TrainState) -> None:
        saved = contents["optimizers"]
        if saved.keys() != state.optimizers.keys():
            raise WeightsError(
                f"{path}: holds optimisers {sorted(saved)}, the options ask for {sorted(state.optimizers)}. "
                "Resume with the options that the run was started with."
            )
        for name, optimizer in state.optimizers.items():
            try:
                optimizer.load_state_dict(saved[name])
            except FOREIGN as error:
                raise WeightsError(
                    f"{path}: optimiser '{name}' does not fit ({error}). Resume with the options of that run."
                ) from error


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


def _on_cpu(net: nn.Module) -> dict[str, torch.Tensor]:
    """State dict on the CPU, copied, in the layout of plain contiguous tensors."""
    return {name: value.detach().to("cpu", copy=True).contiguous() for name, value in net.state_dict().items()}
