"""The option file of test.py: which sets, restored by which runs, judged by what. options/test/*.yml are such files."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from basicsr.config.yaml_loader import OptionTree, load_tree
from basicsr.evaluation.analysis import refuse_unknown_runs
from basicsr.evaluation.judging_options import JudgingOptions, legal_metrics
from basicsr.evaluation.sources import Sources
from basicsr.metrics.fid import PixelRange
from basicsr.recognizers import find_recognizer
from basicsr.utils.csv_util import read_rows
from basicsr.utils.errors import UserError

SET_IN_FOLDER = "{set}"  # in the folder of another method's results: the name of the set


class RunPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One way to restore: weights with their knobs, or a folder that another method has filled."""

    weights: Annotated[str | None, Meta(description="checkpoint that restores")] = None
    folder: Annotated[str | None, Meta(description="finished results instead; {set} is the name of the set")] = None
    mode: Annotated[Literal["ref", "self", "none"], Meta(description="whose identity guides")] = "ref"
    w: Annotated[tuple[float, ...], Meta(description="fidelity weights; several make a sweep")] = (0.5,)
    w_id: Annotated[float, Meta(description="strength of the identity styling")] = 1.0
    id_scale: Annotated[float, Meta(description="scale of the identity in the codes")] = 1.0
    guide: Annotated[
        Annotated[int, Meta(ge=0)] | None,
        Meta(description="steps of identity guidance for each face, 0 is off; ~: what inference does by itself"),
    ] = None
    recognizer: Annotated[str | None, Meta(description="recogniser, if not where the weights say")] = None
    wrong_references: Annotated[
        bool, Meta(description="restore with pairs_wrong; call it `wrong` or `NAME wrong`: it has the column ref:wrong")
    ] = False


class SetPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One set of pictures."""

    pairs: Annotated[str | None, Meta(description="CSV: lq, gt, ref, gallery, identity, ...")] = None
    pairs_wrong: Annotated[str | None, Meta(description="the same with photos of somebody else in ref")] = None
    lq: Annotated[str | None, Meta(description="folder, for a set that has nothing else")] = None
    gt: Annotated[str | None, Meta(description="folder, beside lq")] = None
    identities: Annotated[str | None, Meta(description="CSV with path, identity and columns for slices")] = None
    metrics: Annotated[tuple[str, ...] | None, Meta(description="those that are defined here; ~: all of them")] = None
    slices: Annotated[tuple[str, ...] | None, Meta(description="columns; ~: all that sort into groups")] = None


class EvaluationPlan(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that an evaluation depends on."""

    name: Annotated[str, Meta(pattern=r"^[^/\\]+$", description="folder under results_root")]
    sets: Annotated[dict[str, SetPlan], Meta(min_length=1)]
    runs: Annotated[dict[str, RunPlan], Meta(min_length=1)]
    results_root: str = "results"
    description: str = ""
    recognizers: Annotated[tuple[str, ...], Meta(description="judges; none of them may have trained")] = ()
    trained_with: tuple[str, ...] = ()
    allow_same_recognizer: bool = False
    lpips_nets: tuple[str, ...] = ("alex", "vgg")
    lpips_backbones: tuple[str, ...] = ()
    crop_border: int = 0
    detector: str | None = None
    niqe_parameters: str | None = None
    fid_network: str | None = None
    fid_statistics: tuple[str, ...] = ()
    fid_side: int = 299
    fid_range: PixelRange = "-1..1"
    calibration_pairs: str | None = None
    baseline: Annotated[str | None, Meta(description="run that the others are compared with; ~: the first")] = None
    compare: Annotated[tuple[str, ...] | None, Meta(description="keys of the figures that are tested")] = None
    roles: Annotated[dict[str, str] | None, Meta(description="runs for the checks; ~: by their names")] = None
    batch_size: Annotated[int, Meta(ge=1)] = 4
    seed: Annotated[int, Meta(ge=0)] = 0


def read_plan(path: str | os.PathLike[str], force_yml: Sequence[str] = ()) -> EvaluationPlan:
    """Read and check an option file; what a set cannot have is refused before anything is restored.

    Raises:
        OptionError: one line with the key, the fault and file:line.
    """
    tree = load_tree(path, force_yml)
    try:
        plan = msgspec.convert(tree.root.plain(), EvaluationPlan)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$")
        keys = tuple(part for part in place.strip("`").replace("[...]", "").split(".") if part)
        raise tree.error(keys, f"{reason}.") from error
    for name, run in plan.runs.items():
        if (run.weights is None) == (run.folder is None):
            raise tree.error(("runs", name), "give either weights, or the folder of finished results.")
        if run.guide and run.mode != "ref":
            raise tree.error(("runs", name), f"guide: {run.guide} steps need mode ref, not {run.mode}.")
        if run.wrong_references and any(entry.pairs_wrong is None for entry in plan.sets.values()):
            raise tree.error(("runs", name), "wrong_references: every set needs pairs_wrong.")
    for name, entry in plan.sets.items():
        if (entry.pairs is None) == (entry.lq is None):
            raise tree.error(("sets", name), "give either pairs, or the folder lq.")
        check_metrics(entry, name, tree)
    check_names(plan, tree)
    return plan


def check_names(plan: EvaluationPlan, tree: OptionTree) -> None:
    """Refuse names that are no folders, and a baseline or roles that name no run."""
    for kind, names in (("sets", plan.sets), ("runs", plan.runs)):
        for name in names:
            if "/" in name or "\\" in name or name in (".", ".."):
                raise tree.error((kind, name), "becomes the name of a folder: give one without / and \\.")
    labels = [label for label, _, _ in runs_with_weights(plan)]
    labels += [name for name, run in plan.runs.items() if run.folder is not None]
    try:
        refuse_unknown_runs(labels, plan.baseline, plan.roles)
    except UserError as error:
        raise tree.error(("roles" if str(error).startswith("role") else "baseline",), f"{error}.") from error


def check_metrics(entry: SetPlan, name: str, tree: OptionTree) -> None:
    """Refuse metrics that are undefined on a set, as far as its files are there to say so."""
    available = what_a_set_has(entry)
    if available is None or entry.metrics is None:
        return
    try:
        legal_metrics(entry.metrics, available)
    except UserError as error:
        raise tree.error(("sets", name, "metrics"), str(error)) from error


def what_a_set_has(entry: SetPlan) -> frozenset[str] | None:
    """gt, ref, lq, gallery by the folders and the header of the CSV; None when the CSV is not there yet."""
    if entry.pairs is None:
        return frozenset({"lq", "gt"} if entry.gt else {"lq"})
    if not Path(entry.pairs).is_file():
        return None
    columns = {column.partition(":")[0] for column in read_rows(Path(entry.pairs))[0][1]}
    return frozenset(columns & {"gt", "ref", "lq", "gallery"})


def judging_options(plan: EvaluationPlan, entry: SetPlan) -> JudgingOptions:
    """What judges a set."""

    def path(name: str | None) -> Path | None:
        return None if name is None else Path(name)

    return JudgingOptions(
        recognizers=[Path(file) for file in plan.recognizers],
        lpips_nets=plan.lpips_nets,
        lpips_backbones=[Path(file) for file in plan.lpips_backbones],
        crop_border=plan.crop_border,
        trained_with=[Path(file) for file in plan.trained_with],
        allow_same_recognizer=plan.allow_same_recognizer,
        metrics=entry.metrics,
        detector=path(plan.detector),
        niqe_parameters=path(plan.niqe_parameters),
        fid_network=path(plan.fid_network),
        fid_statistics=[Path(file) for file in plan.fid_statistics],
        fid_side=plan.fid_side,
        fid_range=plan.fid_range,
        calibration_pairs=path(plan.calibration_pairs),
    )


def sources_of(entry: SetPlan, folders: dict[str, Path]) -> Sources:
    """The pictures of a set, restored into `folders` by name of the run."""
    return Sources(
        restored=folders,
        gt=Path(entry.gt) if entry.gt else None,
        ref={},
        lq=Path(entry.lq) if entry.lq else None,
        pairs=Path(entry.pairs) if entry.pairs else None,
        identities=Path(entry.identities) if entry.identities else None,
    )


def runs_with_weights(plan: EvaluationPlan) -> list[tuple[str, RunPlan, float]]:
    """(name, run, w) of everything that is to be restored; `D w=0.5` where a run has several w."""
    return [
        (f"{name} w={w:g}" if len(run.w) > 1 else name, run, w)
        for name, run in plan.runs.items()
        if run.weights is not None
        for w in run.w
    ]


def missing_file(plan: EvaluationPlan) -> str | None:
    """The first table, folder or checkpoint that is not there, as a line; None when all are."""
    for name, entry in plan.sets.items():
        for key in ("pairs", "pairs_wrong", "lq", "gt", "identities"):
            file = getattr(entry, key)
            if file is not None and not Path(file).exists():
                return f"sets.{name}.{key}: {file} does not exist. docs/evaluation.md says how the set is made"
    for name, run in plan.runs.items():
        if run.weights is not None and not Path(run.weights).is_file():
            way_out = f"Train it, or name another: --force_yml runs:{name}:weights=FILE"
            return f"runs.{name}.weights: {run.weights} does not exist. {way_out}"
        if run.recognizer is not None and find_recognizer(run.recognizer) is None:
            return f"runs.{name}.recognizer: {run.recognizer} does not exist. Get it (docs/recognizers.md)"
    return missing_judge(plan)


def missing_judge(plan: EvaluationPlan) -> str | None:
    """The first file of a judge that is not there, as a line: known before hours of restoring, not after them."""
    for key in ("recognizers", "trained_with"):
        for file in getattr(plan, key):
            if find_recognizer(file) is None:
                return f"{key}: {file} does not exist. Get it (docs/recognizers.md), or name another in the option file"
    single = ("detector", "niqe_parameters", "fid_network", "calibration_pairs")
    named = [(key, file) for key in ("lpips_backbones", "fid_statistics") for file in getattr(plan, key)]
    for key, file in [*named, *((key, getattr(plan, key)) for key in single)]:
        if file is not None and not Path(file).is_file():
            nothing = "~" if key in single else "[]"
            return f"{key}: {file} does not exist. Get it, or leave its figure out: --force_yml {key}={nothing}"
    return None
