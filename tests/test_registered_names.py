"""Registered names stand in other people's option files: one may be added here, none may go."""

from __future__ import annotations

import importlib

from basicsr.utils.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
)

for package in ("archs", "data", "losses", "metrics", "models"):
    importlib.import_module(f"basicsr.{package}")


def test_networks() -> None:
    assert ARCH_REGISTRY.names() == ["CodeFormer", "IDCodeFormer", "VQAutoEncoder", "VQGANDiscriminator"]


def test_datasets() -> None:
    assert DATASET_REGISTRY.names() == [
        "FFHQBlindDataset",
        "FFHQBlindJointDataset",
        "IdentityBlindDataset",
        "PairedImageDataset",
    ]


def test_stages() -> None:
    assert MODEL_REGISTRY.names() == [
        "CodeFormerIdxModel",
        "CodeFormerJointModel",
        "IDCodeFormerJointModel",
        "IDCodeFormerModel",
        "VQGANModel",
    ]


def test_losses() -> None:
    assert LOSS_REGISTRY.names() == [
        "CharbonnierLoss",
        "CodeCrossEntropyLoss",
        "CodeFeatureLoss",
        "GANLoss",
        "IdentityLoss",
        "L1Loss",
        "LPIPSLoss",
        "MSELoss",
    ]


def test_metrics() -> None:
    assert METRIC_REGISTRY.names() == [
        "ColorDifferenceMetric",
        "FaceLPIPSMetric",
        "FacePSNRMetric",
        "IdentityMetric",
        "LPIPSMetric",
        "PSNRMetric",
        "SSIMMetric",
    ]
