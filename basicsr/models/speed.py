"""How the networks of a stage compute: memory layout, compilation, recomputed features. No value changes by it but for
rounding, no state-dict key at all.
"""

from __future__ import annotations

import logging
from typing import cast

import torch

from basicsr.archs.codeformer_arch import CodeFormer
from basicsr.archs.sync_batch_norm import leave_ranks_uncompiled
from basicsr.archs.vqgan_arch import VQAutoEncoder
from basicsr.config.options import TrainOptions
from basicsr.models.base_model import Networks
from basicsr.utils.errors import OptionError

logger = logging.getLogger(__name__)


def set_device_switches(options: TrainOptions) -> None:
    """What torch keeps for the whole process. Parity of float32 needs float32: TF32 is off unless asked for."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = options.tf32
    torch.backends.cudnn.benchmark = True  # all batches have one shape: the fastest kernel is searched once


def speed_up(networks: Networks, options: TrainOptions) -> None:
    """Apply train.channels_last, train.checkpoint_activations and train.compile; the recogniser stays as it is.

    Raises:
        OptionError: a part that network_g does not have.
    """
    if options.channels_last:
        for net in (networks.g, networks.d, networks.vqgan):
            if net is not None:
                net.to(memory_format=torch.channels_last)
    _checkpoint(networks, options)
    _compile(networks, options)


def _compile(networks: Networks, options: TrainOptions) -> None:
    """Compile in place: the networks keep their class and keys, and `state_dict` knows no `_orig_mod`."""
    # of the frozen vqgan training asks the encoder alone
    encoder = None if networks.vqgan is None else cast(VQAutoEncoder, networks.vqgan).encoder
    nets = {"g": networks.g, "d": networks.d, "vqgan": encoder}
    if options.compile:
        leave_ranks_uncompiled()
    for name in options.compile:
        net = nets[name]
        if net is None:  # no error: a base file may name those of all stages
            logger.warning("train.compile: this stage has no network_%s, nothing is compiled for it", name)
        else:
            net.compile()


def _checkpoint(networks: Networks, options: TrainOptions) -> None:
    """Let the named parts of network_g compute their features again in the backward."""
    parts = options.checkpoint_activations
    if "transformer" in parts:
        if not isinstance(networks.g, CodeFormer):
            raise OptionError(
                f"train.checkpoint_activations: network_g ({type(networks.g).__name__}) has no transformer. "
                "Its parts are encoder and generator."
            )
        networks.g.checkpointing = True
    net = cast(VQAutoEncoder, networks.g)
    if "encoder" in parts:
        net.encoder.checkpointing = True
    if "generator" in parts:
        net.generator.checkpointing = True
