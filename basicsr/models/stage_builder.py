"""From checked options to a stage: build the networks, load their weights, build the losses."""

from __future__ import annotations

import logging
from typing import Any, cast

import torch
from torch import nn

from basicsr.archs.codeformer_arch import CodeFormer
from basicsr.config.options import Options, PathOptions, Spec
from basicsr.models.base_model import BaseModel, Networks
from basicsr.models.self_encoder import load_self_encoder
from basicsr.models.speed import set_device_switches, speed_up
from basicsr.recognizers import load_recognizer
from basicsr.utils.errors import WeightsError
from basicsr.utils.load_report import compare
from basicsr.utils.lpips_net import BackboneMissingError
from basicsr.utils.registry import ARCH_REGISTRY, LOSS_REGISTRY, MODEL_REGISTRY, bind_arguments
from basicsr.utils.signature import parameters_of
from basicsr.utils.weights import load_into, load_state

logger = logging.getLogger(__name__)


def build_stage(options: Options, device: torch.device) -> BaseModel:
    """The stage that `model_type` names, with its networks and losses on `device`."""
    train, _ = options.training()
    networks = build_networks(options)
    set_device_switches(train)
    speed_up(networks, train)
    built = {key.removesuffix("_opt"): _build_loss(key, spec, networks) for key, spec in train.losses.items()}
    losses = {name: loss for name, loss in built.items() if loss is not None}
    stage_class = MODEL_REGISTRY.get(options.model_type)
    given = {"networks": networks, "losses": losses, "device": device, "total_iter": train.total_iter}
    injected = {name: value for name, value in given.items() if name in parameters_of(stage_class)}
    return cast(BaseModel, stage_class(**injected, **bind_arguments(stage_class, train.stage, injected)))


def build_networks(options: Options) -> Networks:
    """All networks of the options, on the CPU, with the weights that `path:` names.

    A CodeFormer starts from the autoencoder that gives its codes; `pretrain_network_g` is loaded on top of that.
    """
    vqgan = None
    net_g = ARCH_REGISTRY.build(options.network_g)
    if options.network_vqgan is not None:
        vqgan = _load(ARCH_REGISTRY.build(options.network_vqgan), "vqgan", options.path)
        if isinstance(net_g, CodeFormer):
            load_into(net_g, vqgan.state_dict(), strict=False)
    net_d = None if options.network_d is None else _load(ARCH_REGISTRY.build(options.network_d), "d", options.path)
    identity, self_encoder, given = None, None, options.network_identity
    if given is not None:
        identity = load_recognizer(
            given.path,
            map_node=given.map_node,
            typical_norm=given.typical_norm,
            same_person_cosine=given.same_person_cosine,
        )
        self_encoder = None if given.self_path is None else load_self_encoder(given.self_path, identity)
    return Networks(_load(net_g, "g", options.path), net_d, vqgan, identity, self_encoder)


def _load(net: nn.Module, short: str, paths: PathOptions) -> nn.Module:
    """`net` with the weights of `path.pretrain_network_<short>`, if there are any."""
    file = getattr(paths, f"pretrain_network_{short}")
    if file is None:
        return net
    state = load_state(file, getattr(paths, f"param_key_{short}"))
    report = compare(net, state)
    if not report.fits:
        logger.warning("network_%s (%s) and %s differ:\n%s", short, type(net).__name__, file, report.table())
        if getattr(paths, f"strict_load_{short}"):
            raise WeightsError(
                f"path.pretrain_network_{short}: {file} does not fit {type(net).__name__}: {report}. To start from "
                f"what fits and leave the rest as it is built: path.strict_load_{short}: false"
            )
    load_into(net, state, strict=False)
    num_loaded = len(net.state_dict()) - len(report.missing) - len(report.mismatched)
    logger.info("network_%s: loaded %d of %d tensors of %s", short, num_loaded, len(net.state_dict()), file)
    return net


def _build_loss(key: str, spec: Spec, networks: Networks) -> nn.Module | None:
    """A loss; one that judges identities gets the frozen recogniser. None: LPIPS without a backbone on this machine."""
    injected: dict[str, Any] = {}
    if "network_identity" in parameters_of(LOSS_REGISTRY.get(spec["type"])):
        injected["network_identity"] = networks.identity
    try:
        return cast(nn.Module, LOSS_REGISTRY.build(spec, **injected))
    except BackboneMissingError as error:
        if spec["backbone"] is not None:  # a file that was named has to be there
            raise
        logger.warning("train.%s: this run trains without it. %s", key, error)
        return None
