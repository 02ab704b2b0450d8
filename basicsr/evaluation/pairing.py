"""Which restored picture belongs to which ground truth, reference and LQ. What does not match is named."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from basicsr.evaluation.pair_table import label_identities, match_csv
from basicsr.evaluation.results import EvaluationPair, Failure
from basicsr.evaluation.sources import ANY_RUN, Matching, PictureFolder, Problems, Sources
from basicsr.utils.errors import UserError


def match(sources: Sources) -> Matching:
    """Find the pairs.

    Raises:
        UserError: a folder is missing or empty, the CSV is broken, or nothing matches at all.
    """
    if not sources.restored:
        raise UserError("nothing to judge: give at least one folder of restored pictures (--restored DIR)")
    runs = {run: PictureFolder(Path(folder)) for run, folder in sources.restored.items()}
    unknown = [run for run in sources.ref if run != ANY_RUN and run not in runs]
    if unknown:
        raise UserError(f"--ref {unknown[0]}=...: no run of this name, there are: {', '.join(runs)}")
    matching = match_csv(sources, runs) if sources.pairs else match_folders(sources, runs)
    if not any(pair.restored for pair in matching.pairs):
        first = next(iter(runs.values()))
        raise UserError(
            f"{first.folder}: none of its pictures matches a ground truth (it holds e.g. {next(iter(first.files))}; "
            f"expected e.g. {matching.pairs[0].name if matching.pairs else 'nothing: no row could be read'}). "
            "Names must agree up to the suffix, or be listed in --pairs CSV"
        )
    if sources.identities:
        label_identities(matching, sources.identities)
    return matching


def match_folders(sources: Sources, runs: Mapping[str, PictureFolder]) -> Matching:
    """Match by name; every picture of the GT folder (without one: the LQ folder) and of every run counts."""
    base = sources.gt or sources.lq
    if base is None:
        raise UserError(
            "nothing to judge against: give --gt DIR, or --pairs CSV with a column gt; a set without ground truth "
            "needs --lq DIR"
        )
    what = "ground truth" if sources.gt else "LQ"
    base_folder = PictureFolder(base)
    lq_folder = PictureFolder(sources.lq) if sources.lq else None
    gallery_folder = PictureFolder(sources.gallery) if sources.gallery else None
    mask_folder = PictureFolder(sources.masks) if sources.masks else None
    ref_folders = {run: PictureFolder(folder) for run, folder in sources.ref.items()}
    matching = Matching([], [], [])
    used: dict[str, set[Path]] = {run: set() for run in runs}
    for key in base_folder.files:
        problems = Problems(key)
        found = problems.find(base_folder, key, None, what)
        if found is None:
            matching.failures += problems.found
            continue
        restored = {run: path for run in runs if (path := problems.find(runs[run], key, run, "restored"))}
        for run, path in restored.items():
            used[run].add(path)
        refs: dict[str, tuple[Path, ...]] = {}
        for run in runs:
            folder = ref_folders.get(run, ref_folders.get(ANY_RUN))
            if folder and (ref := problems.find(folder, key, run if run in ref_folders else None, "reference")):
                refs[run] = (ref,)
        shared = next((refs[run] for run in refs if run not in ref_folders), ())
        lq = problems.find(lq_folder, key, None, "LQ") if lq_folder else None
        gallery = problems.find(gallery_folder, key, None, "gallery") if gallery_folder else None
        mask = problems.find(mask_folder, key, None, "mask") if mask_folder else None
        photos = (gallery,) if gallery else ()
        gt = found if sources.gt else None
        matching.pairs.append(
            EvaluationPair(key, gt, restored, refs, lq, None, gallery=photos, mask=mask, shared_refs=shared)
        )
        matching.failures += problems.found
    for run, folder in runs.items():
        for key, paths in folder.files.items():
            # one that has a ground truth of its name and was not used is ambiguous, and named above
            if key not in base_folder.files and not used[run].intersection(paths):
                matching.failures.append(Failure(key, run, f"restored, but no {what} in {base}"))
    return matching
