"""The schedule of stage III as data: which degraded photo, which fidelity weight, which losses at which iteration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from basicsr.utils.errors import OptionError

LossKey = Literal["code_opt", "feat_opt", "pixel_opt", "perceptual_opt", "gan_opt", "identity_opt"]

LQ_DOC = "degraded photo: small (degradation) or large (degradation_large)"
W_DOC = "fidelity weight: a number, or [low, high] drawn anew in each iteration"
CODE_ONLY_DOC = "predict codes, make no picture (L_ids has a decode of its own where it is due)"
LOSSES_DOC = "factors on losses, {gan_opt: 0.5}; 0: not computed (gan_opt: nor is the discriminator trained)"
UNTIL_DOC = "last iteration of the phase, or, with a point, its share of total_iter (0.27); ~: to the end"


class Step(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one iteration does: which degraded photo, which fidelity weight (or range of it), codes alone or not."""

    lq: Annotated[Literal["small", "large"], Meta(description=LQ_DOC)] = "small"
    w: Annotated[float | tuple[float, float], Meta(description=W_DOC)] = 1.0
    code_only: Annotated[bool, Meta(description=CODE_ONLY_DOC)] = False
    losses: Annotated[dict[LossKey, float], Meta(description=LOSSES_DOC)] = {}

    def factor(self, name: str) -> float:
        """Factor on the loss `name` ('gan', ...)."""
        return next((factor for key, factor in self.losses.items() if key == f"{name}_opt"), 1.0)

    def __str__(self) -> str:
        """`small, w 0.5 to 1.3` or `large, codes alone`, with the factors on losses, if any."""
        w = "codes alone" if self.code_only else f"w {self.w}"
        if isinstance(self.w, tuple) and not self.code_only:
            w = f"w {self.w[0]} to {self.w[1]}"
        return ", ".join([self.lq, w, *(f"{key} x {factor:g}" for key, factor in self.losses.items())])


class Phase(Step, frozen=True, forbid_unknown_fields=True):
    """A stretch of iterations. Every `every`-th of them does the phase's own step, the rest does `otherwise`."""

    until: Annotated[int | float | None, Meta(description=UNTIL_DOC)] = None
    every: Annotated[int, Meta(description="iterations from one step of the phase's own kind to the next")] = 1
    otherwise: Annotated[Step | None, Meta(description="what the iterations between them do")] = None

    def step_at(self, current_iter: int) -> Step:
        """The step of an iteration (1-based) inside this phase."""
        if self.otherwise is not None and current_iter % self.every != 0:
            return self.otherwise
        return Step(self.lq, self.w, self.code_only, self.losses)


def resolve_schedule(schedule: Sequence[Phase], total_iter: int) -> list[Phase]:
    """The phases with every share of `total_iter` turned into the iteration it stands for.

    Raises:
        OptionError: they do not follow each other, or one of them asks for what cannot be.
    """
    phases = []
    for number, phase in enumerate(schedule):
        until = phase.until
        if isinstance(until, float):
            if not 0 < until <= 1:
                raise OptionError(
                    f"train.schedule.{number}: found until {until}, expected a share of total_iter, above 0 and at "
                    "most 1, or a whole number of iterations."
                )
            until = max(1, round(until * total_iter))
        for step in (phase, phase.otherwise):
            _check_step(number, step or phase)
        if phase.every < 1 or (phase.every > 1) != (phase.otherwise is not None):
            raise OptionError(
                f"train.schedule.{number}: 'every' (found {phase.every}) and 'otherwise' go together: "
                "every: 15 needs otherwise: {...}, every: 1 takes none."
            )
        phases.append(msgspec.structs.replace(phase, until=until))
    ends = [phase.until for phase in phases]
    closed = [end for end in ends if end is not None]
    if not phases or None in ends[:-1] or closed != sorted(set(closed)) or any(end < 1 for end in closed):
        raise OptionError(
            f"train.schedule: the phases end at {ends}; give ascending 'until', only the last one may be '~'."
        )
    return phases


def steps_of(schedule: Sequence[Phase]) -> Iterator[tuple[int, Step]]:
    """(number of the phase, step) of every kind of step there is."""
    for number, phase in enumerate(schedule):
        yield number, phase.step_at(phase.every)
        if phase.otherwise is not None:
            yield number, phase.otherwise


def phase_at(schedule: Sequence[Phase], current_iter: int) -> int:
    """Number of the phase of an iteration (1-based) in a resolved schedule; past the last `until` the last goes on."""
    places = (n for n, phase in enumerate(schedule) if phase.until is None or current_iter <= phase.until)
    return next(places, len(schedule) - 1)


def _check_step(number: int, step: Step) -> None:
    low, high = step.w if isinstance(step.w, tuple) else (step.w, step.w)
    if not 0 <= low <= high:
        raise OptionError(
            f"train.schedule.{number}: found w {[low, high]}, expected a number from 0, or [low, high] of such."
        )
    for key, factor in step.losses.items():
        if factor < 0:
            raise OptionError(f"train.schedule.{number}: found losses {{{key}: {factor}}}, expected factors from 0.")
