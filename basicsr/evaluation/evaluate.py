"""Judge folders of restored pictures: match, measure on every rank's share, bring together, find the thresholds."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from basicsr.evaluation.calibration import calibrate, calibrate_people, read_calibration_pairs
from basicsr.evaluation.instruments import Instruments, build_instruments, recognizers_of_runs
from basicsr.evaluation.judges import Embedding, Judge
from basicsr.evaluation.judging_options import JudgingOptions
from basicsr.evaluation.measure import READING, Measurer, PersonPhoto, Share, Values
from basicsr.evaluation.pairing import match
from basicsr.evaluation.results import (
    Calibration,
    EvaluationPair,
    EvaluationResult,
    Failure,
    Figure,
    GroupCalibration,
    Unavailable,
)
from basicsr.evaluation.slices import default_groups
from basicsr.evaluation.sources import Sources
from basicsr.metrics.fid import GaussianStatistics
from basicsr.utils.dist_util import all_gather_objects, default_device, rank, world_size
from basicsr.utils.errors import UserError

logger = logging.getLogger(__name__)


def evaluate_folders(
    sources: Sources,
    options: JudgingOptions | None = None,
    *,
    title: str = "Evaluation",
    note: str = "",
    device: torch.device | None = None,
    seed: int = 0,
    num_resamples: int = 2000,
) -> EvaluationResult:
    """Judge every run of `sources` on the same ground truths; under torchrun every rank measures its share.

    Args:
        title, note: stand on top of the report.
        seed, num_resamples: of the bootstrap.
    Returns:
        The result, the same on every rank; pictures that could not be judged are in `failures`, the rest is judged.
    Raises:
        UserError: nothing can be judged (folders, CSV or weights), or a metric is undefined on this set.
    """
    options, device = options or JudgingOptions(), device or default_device()
    matching = match(sources)
    pairs, runs = matching.pairs, list(sources.restored)
    with_masks = any(pair.mask is not None for pair in pairs)
    guided_by = recognizers_of_runs(sources.restored.values())
    instruments = build_instruments(options, guided_by, what_there_is(pairs), with_masks, device)
    measurer = Measurer(instruments, runs, device)
    share = measurer.run(pairs[rank() :: world_size()])
    calibrations = calibrate_by_pairs(options.calibration_pairs, measurer) if options.calibration_pairs else None
    total = merge(all_gather_objects(share))
    failures = in_order(matching.failures + total.failures, pairs)
    figures = instruments.figures()
    if not total.fid_of_run and not any(total.values[run][figure.key] for run in runs for figure in figures):
        first = failures[0] if failures else "no figure is defined on them"
        raise UserError(f"none of the {len(pairs)} pairs could be judged; the first reason: {first}")
    known = calibrations or [calibrate_by_people(judge, total.people[judge.name]) for judge in instruments.judges]
    figures = add_misses(figures, total.values, known, instruments)
    set_figures, set_values = fid_of(instruments, total, runs)
    for line in [*(f"not judged: {failure}" for failure in failures), *matching.warnings]:
        logger.warning("%s", line)
    result = EvaluationResult(
        title=title,
        note=note,
        runs=runs,
        pairs=pairs,
        figures=figures,
        values=total.values,
        unavailable=instruments.unavailable,
        failures=failures,
        warnings=matching.warnings,
        labels=instruments.labels + oracle_labels(total),
        seed=seed,
        num_resamples=num_resamples,
        set_figures=set_figures,
        set_values=set_values,
        calibrations=[found for found in known if isinstance(found, Calibration)],
        speed=speeds(total),
    )
    result.group_calibrations.extend(calibrate_groups(result, instruments.judges, total))
    return result


def what_there_is(pairs: Sequence[EvaluationPair]) -> frozenset[str]:
    """Which of gt, ref, lq and gallery some pair has."""
    present = {
        "gt": any(pair.gt for pair in pairs),
        "ref": any(pair.refs for pair in pairs),
        "lq": any(pair.lq for pair in pairs),
        "gallery": any(pair.gallery for pair in pairs),
    }
    return frozenset(name for name, there in present.items() if there)


def merge(shares: Sequence[Share]) -> Share:
    """The shares of all ranks as one; seconds are those of the slowest rank, since ranks work side by side."""
    total = Share({run: {key: {} for key in by_key} for run, by_key in shares[0].values.items()})
    for share in shares:
        for run, by_key in share.values.items():
            for key, found in by_key.items():
                total.values[run][key].update(found)
        total.failures += share.failures
        for judge, photos in share.people.items():
            total.people.setdefault(judge, []).extend(photos)
        for run, moments in share.fid_of_run.items():
            total.fid_of_run.setdefault(run, GaussianStatistics()).merge(moments)
        total.fid_of_gt.merge(share.fid_of_gt)
        total.gt_as_ref.update(share.gt_as_ref)
        for label, seconds in share.seconds.items():
            total.seconds[label] = max(total.seconds.get(label, 0.0), seconds)
            total.pictures[label] = total.pictures.get(label, 0) + share.pictures[label]
    return total


def oracle_labels(total: Share) -> list[str]:
    """Runs that were given the ground truth itself as reference, found by the content of the files."""
    runs = [f"{run} ({number} pictures)" for run, number in total.gt_as_ref.items() if number]
    return [f"given the ground truth as reference, a bound and no result: {', '.join(runs)}"] if runs else []


def in_order(failures: Sequence[Failure], pairs: Sequence[EvaluationPair]) -> list[Failure]:
    """Failures in the order of the pairs, whatever rank found them."""
    place = {pair.name: i for i, pair in enumerate(pairs)}
    return sorted(failures, key=lambda failure: place.get(failure.name, len(place)))


def speeds(total: Share) -> dict[str, float]:
    """Pictures per second by kind of work; and what the threads that read could not hide."""
    found = {
        label: total.pictures[label] / seconds
        for label, seconds in total.seconds.items()
        if seconds > 0 and label != READING
    }
    everything = sum(total.seconds.values())
    judged = total.pictures.get(READING, 0)
    if everything > 0 and judged:
        found["all together"] = judged / everything
        found["share of the time that waited for the threads that read and detect"] = (
            total.seconds.get(READING, 0.0) / everything
        )
    return found


def calibrate_by_people(judge: Judge, photos: Iterable[PersonPhoto]) -> Calibration | str:
    """The judge's threshold from photos of the set, each content once."""
    by_content = {photo.digest: photo for photo in photos}
    people: dict[str, list[np.ndarray]] = {}
    for digest in sorted(by_content):  # by content: the same order on any number of ranks
        people.setdefault(by_content[digest].identity, []).append(by_content[digest].vector)
    return calibrate_people(judge.name, people)


def calibrate_groups(result: EvaluationResult, judges: Sequence[Judge], total: Share) -> Iterator[GroupCalibration]:
    """The same from the photos of each slice's pictures alone."""
    for column, groups in default_groups(result).items():
        for value, names in groups.items():
            inside = set(names)
            for judge in judges:
                photos = (photo for photo in total.people[judge.name] if photo.name in inside)
                yield GroupCalibration(column, value, calibrate_by_people(judge, photos))


def calibrate_by_pairs(table: Path, measurer: Measurer) -> list[Calibration | str]:
    """Thresholds of all judges from the pairs of a CSV.

    Raises:
        UserError: a picture of it cannot be used, or the pairs are too few.
    """
    rows = read_calibration_pairs(table)
    measurer.embed_files({path for a, b, _ in rows for path in (a, b)})
    found: list[Calibration | str] = []
    for judge in measurer.instruments.judges:
        cosines = []
        for a, b, _ in rows:
            one, other = (usable(measurer.store.of_file(judge, path), table) for path in (a, b))
            cosines.append(float(one @ other))
        same = np.array([row[2] for row in rows])
        values = np.array(cosines, np.float32)
        calibration = calibrate(judge.name, f"{len(rows)} pairs of {table.name}", values[same], values[~same])
        if isinstance(calibration, str):
            raise UserError(calibration)
        found.append(calibration)
    return found


def usable(embedding: Embedding, table: Path) -> Tensor:
    """The embedding of a picture in a table of pairs; UserError where there is none."""
    if isinstance(embedding, str):
        raise UserError(f"{table}: {embedding}")
    return embedding


def add_misses(
    figures: list[Figure], values: Values, known: Sequence[Calibration | str], instruments: Instruments
) -> list[Figure]:
    """A figure that is 1 where the judge would not accept the restored face as the person, for each judge.

    It follows IDS (without ground truth: the gallery IDS). Where there is no threshold, the reason is kept.
    """
    with_misses = list(figures)
    for judge, calibration in zip(instruments.judges, known, strict=True):
        source = next((f for kind in ("ids", "ids_gallery") for f in figures if f.key == f"{kind}_{judge.key}"), None)
        if source is None:
            continue
        label = "Not recognised at FAR 1e-3"
        if isinstance(calibration, str):
            instruments.unavailable.append(Unavailable(f"{label} ({judge.name})", calibration))
            continue
        protocol = (
            f"1 where the cosine is at most {calibration.threshold:.4f}, the judge's own threshold at a false accept "
            f"rate of {calibration.far:g} ({calibration.source})"
        )
        miss = replace(
            judge.figure("miss", label, "lower", "", "share, [0, 1]"), protocol=f"{protocol}; {source.protocol}"
        )
        with_misses.insert(with_misses.index(source) + 1, miss)
        for by_key in values.values():
            by_key[miss.key] = {n: float(v <= calibration.threshold) for n, v in by_key[source.key].items()}
    return with_misses


def fid_of(
    instruments: Instruments, total: Share, runs: Sequence[str]
) -> tuple[list[Figure], dict[str, dict[str, float]]]:
    """FID figures and values of all runs."""
    if instruments.fid is None:
        return [], {}
    instruments.fid.of_run, instruments.fid.of_gt = total.fid_of_run, total.fid_of_gt
    try:
        return instruments.fid.figures(), {run: instruments.fid.values(run) for run in runs if run in total.fid_of_run}
    except UserError as error:  # too few pictures: no reason to lose the other figures
        instruments.unavailable.append(Unavailable("FID", str(error).removeprefix("FID: ")))
        return [], {}
