"""Options of optimisers and of learning rates over time. The description of a field is its documentation."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

Count = Annotated[int, Meta(ge=1)]
Share = Annotated[float, Meta(ge=0, le=1)]
FUSED = Meta(description="the whole step in one kernel; ~: unless foreach is given")
FOREACH = Meta(description="one kernel for each operation, over all parameters; ~: torch decides")


def _one_way(fused: bool | None, foreach: bool | None) -> None:
    """ValueError when both are asked for."""
    if fused and foreach:
        raise ValueError("fused and foreach are two ways to do the same: give one of them.")


class AdamOptions(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="Adam"):
    """Adam."""

    lr: Annotated[float, Meta(ge=0, description="learning rate after the warm-up")]
    betas: Annotated[tuple[Share, Share], Meta(description="decay of the two moments")] = (0.9, 0.999)
    weight_decay: Annotated[float, Meta(ge=0, description="L2 penalty, added to the gradient")] = 0.0
    fused: Annotated[bool | None, FUSED] = None
    foreach: Annotated[bool | None, FOREACH] = None

    def __post_init__(self) -> None:
        _one_way(self.fused, self.foreach)


class AdamWOptions(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="AdamW"):
    """Adam with decoupled weight decay."""

    lr: Annotated[float, Meta(ge=0, description="learning rate after the warm-up")]
    betas: Annotated[tuple[Share, Share], Meta(description="decay of the two moments")] = (0.9, 0.999)
    weight_decay: Annotated[float, Meta(ge=0, description="decoupled decay, times lr")] = 0.01
    fused: Annotated[bool | None, FUSED] = None
    foreach: Annotated[bool | None, FOREACH] = None

    def __post_init__(self) -> None:
        _one_way(self.fused, self.foreach)


class SGDOptions(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="SGD"):
    """Plain gradient descent."""

    lr: Annotated[float, Meta(ge=0, description="learning rate after the warm-up")]
    momentum: Annotated[float, Meta(ge=0, description="momentum")] = 0.0
    weight_decay: Annotated[float, Meta(ge=0, description="L2 penalty, added to the gradient")] = 0.0
    fused: Annotated[bool | None, FUSED] = None
    foreach: Annotated[bool | None, FOREACH] = None

    def __post_init__(self) -> None:
        _one_way(self.fused, self.foreach)


class MultiStepOptions(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="MultiStepLR"):
    """The learning rate times gamma at each milestone. Also under the name MultiStepRestartLR."""

    milestones: Annotated[tuple[int, ...], Meta(description="iterations; a number given twice counts twice")]
    gamma: Annotated[float, Meta(gt=0, description="factor")] = 0.1


class CosineOptions(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="CosineAnnealingRestartLR"):
    """A half cosine from the learning rate to eta_min in each period; after the last period it stays at eta_min."""

    periods: Annotated[tuple[Count, ...], Meta(description="iterations of each period")]
    restart_weights: Annotated[tuple[float, ...], Meta(description="factor of the learning rate in each period")] = (
        1.0,
    )
    eta_min: Annotated[float, Meta(ge=0, description="learning rate at the end of a period")] = 0.0

    def __post_init__(self) -> None:
        if len(self.periods) != len(self.restart_weights):
            raise ValueError(
                f"{len(self.periods)} periods and {len(self.restart_weights)} restart_weights: each period needs one."
            )


OptimOptions = AdamOptions | AdamWOptions | SGDOptions
SchedulerOptions = MultiStepOptions | CosineOptions
