"""Measuring one share of the pairs: batches through the gauges, every content through the judges once.

Shapes: B pictures of one size; H, W pixels; R references; E embedding.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from basicsr.evaluation.instruments import Instruments
from basicsr.evaluation.judges import Digest, Embedding, EmbeddingStore, Judge, gap_key, to_range
from basicsr.evaluation.loading import LoadedPair, batches, load_pair, read_ahead, read_face
from basicsr.evaluation.results import EvaluationPair, Failure
from basicsr.metrics.fid import Floats, GaussianStatistics
from basicsr.utils.cli import progress

READING = "waiting for the threads that read and detect"
Values = dict[str, dict[str, dict[str, float]]]  # run -> figure key -> name of the pair -> value


class Stopwatch:
    """Seconds and pictures by kind of work."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}
        self.pictures: dict[str, int] = {}

    @contextmanager
    def time(self, label: str, pictures: int) -> Iterator[None]:
        """Count the work inside."""
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.count(label, time.perf_counter() - start, pictures)

    def count(self, label: str, seconds: float, pictures: int) -> None:
        """Add what was measured elsewhere."""
        self.seconds[label] = self.seconds.get(label, 0.0) + seconds
        self.pictures[label] = self.pictures.get(label, 0) + pictures


class PersonPhoto(NamedTuple):
    """A photo of a person that no network made."""

    identity: str
    digest: Digest
    vector: Floats  # (E,)
    name: str  # of the pair


@dataclass
class Share:
    """What one rank has measured; plain numbers and arrays, so that ranks can exchange it."""

    values: Values
    failures: list[Failure] = field(default_factory=list)
    people: dict[str, list[PersonPhoto]] = field(default_factory=dict)  # by judge
    fid_of_run: dict[str, GaussianStatistics] = field(default_factory=dict)
    fid_of_gt: GaussianStatistics = field(default_factory=GaussianStatistics)
    gt_as_ref: Counter[str] = field(default_factory=Counter)  # run -> pictures whose reference is the ground truth
    seconds: dict[str, float] = field(default_factory=dict)
    pictures: dict[str, int] = field(default_factory=dict)


class Measurer:
    """Measures pairs into a Share."""

    def __init__(self, instruments: Instruments, runs: Sequence[str], device: torch.device) -> None:
        self.instruments = instruments
        self.device = device
        keys = [figure.key for figure in instruments.figures()]
        self.share = Share({run: {key: {} for key in keys} for run in runs})
        self.store = EmbeddingStore(instruments.judges)
        self.trained_store = EmbeddingStore(instruments.trained_with)
        self.gt_digests: dict[str, Digest] = {}  # by pair
        self.watch = Stopwatch(device)

    @torch.inference_mode()
    def run(self, pairs: list[EvaluationPair]) -> Share:
        """Measure all pairs."""
        self.embed_faces(pairs)
        loaded = progress(read_ahead(lambda pair: load_pair(pair, self.instruments), pairs), len(pairs), "judging")
        start = time.perf_counter()
        for batch in batches(self.usable(item for _, item in loaded), lambda item: item.size, self.device):
            self.watch.count(READING, time.perf_counter() - start, sum(len(item.restored) for item in batch))
            self.measure(batch)
            start = time.perf_counter()
        self.collect_people(pairs)
        self.share.seconds, self.share.pictures = self.watch.seconds, self.watch.pictures
        if self.instruments.fid:
            self.share.fid_of_run = self.instruments.fid.of_run
            self.share.fid_of_gt = self.instruments.fid.of_gt
        return self.share

    def usable(self, loaded: Iterable[LoadedPair]) -> Iterator[LoadedPair]:
        """The pairs that have something to judge; failures are kept."""
        for item in loaded:
            self.share.failures += item.failures
            if item.restored:
                yield item

    def embed_faces(self, pairs: Iterable[EvaluationPair]) -> None:
        """Embed every reference, gallery photo and LQ once, and name the pairs whose file failed."""
        users: dict[Path, list[tuple[str, str]]] = {}  # file -> (pair, what it is there)
        for pair in pairs if self.instruments.judges else ():
            refs = {path for refs in pair.refs.values() for path in refs} | set(pair.shared_refs)
            of_pair = [(path, "reference") for path in sorted(refs)]
            of_pair += [(path, "gallery") for path in pair.gallery]
            of_pair += [(pair.lq, "LQ")] if pair.lq else []
            for path, what in of_pair:
                users.setdefault(path, []).append((pair.name, what))
        self.embed_files(users)
        for path, places in users.items():
            for judge in self.instruments.judges:
                found = self.store.of_file(judge, path)
                if isinstance(found, str):
                    failures = [Failure(name, None, f"{what}: {found}") for name, what in places]
                    self.share.failures += [f for f in failures if f not in self.share.failures]

    def embed_files(self, paths: Iterable[Path]) -> None:
        """Embed files, each content once; what cannot be read is noted in the store."""
        files = sorted(paths)
        if not files:
            return

        def readable() -> Iterator[tuple[Tensor, Digest]]:
            for path, found in progress(read_ahead(read_face, files), len(files), "other faces"):
                self.store.files[path] = found if isinstance(found, str) else found[1]
                if not isinstance(found, str):
                    yield found

        for batch in batches(readable(), lambda item: item[0].shape, self.device):
            self.embed([digest for _, digest in batch], [image for image, _ in batch])

    def embed(self, digests: Sequence[Digest], images: Sequence[Tensor], store: EmbeddingStore | None = None) -> None:
        """Embed what is new, for the judges or another store's recognisers."""
        store = store or self.store
        start = time.perf_counter()
        new = store.add(digests, images, self.device)
        if new:
            label = " + ".join(judge.name for judge in store.judges)
            self.watch.count(label, time.perf_counter() - start, new)

    def measure(self, batch: list[LoadedPair]) -> None:
        """All figures of pairs of one size."""
        with_gt = batch[0].gt is not None
        gt = masks = None
        if with_gt:
            gt = to_range(torch.stack([item.gt for item in batch if item.gt is not None]).to(self.device))
            if self.instruments.with_masks:
                masks = torch.stack([item.mask for item in batch if item.mask is not None]).to(self.device)
            for store in (self.store, self.trained_store) if self.instruments.judges else ():
                pictures = [item.gt for item in batch if item.gt is not None]
                self.embed([item.gt_digest for item in batch], pictures, store)
                self.gt_digests.update((item.pair.name, item.gt_digest) for item in batch)
        references: dict[str, Any] = {}
        for gauge in self.instruments.gauges:
            if gt is not None:
                with self.watch.time(gauge.name, 0):
                    references[gauge.name] = gauge.reference(gt, masks)
        fid = self.instruments.fid
        if fid is not None and fid.against_gt and gt is not None:
            with self.watch.time("FID features", len(batch)):
                fid.of_gt.add(fid.net(gt))
        for run in self.share.values:
            members = [i for i, item in enumerate(batch) if run in item.restored]
            if members:
                self.measure_run(run, batch, members, gt, masks, references)

    def measure_run(
        self,
        run: str,
        batch: list[LoadedPair],
        members: list[int],
        gt: Tensor | None,
        masks: Tensor | None,
        references: dict[str, Any],
    ) -> None:
        """All figures of one run in a batch; `members`: the places in it that the run has."""
        items = [batch[i] for i in members]
        names = [item.pair.name for item in items]
        pictures = [item.restored[run] for item in items]
        restored = to_range(torch.stack(pictures).to(self.device))
        for gauge in self.instruments.gauges if gt is not None else ():
            with self.watch.time(gauge.name, len(items)):
                reference = references[gauge.name]
                if gt is not None and len(members) < len(batch):
                    reference = gauge.reference(gt[members], None if masks is None else masks[members])
                measured = [values.double().tolist() for values in gauge.measure(restored, reference)]
            for figure, values in zip(gauge.figures, measured, strict=True):
                for name, value in zip(names, values, strict=True):
                    self.put(run, figure.key, name, value)
        for item in items:
            for key, value in item.values.get(run, {}).items():
                self.put(run, key, item.pair.name, value)
        fid = self.instruments.fid
        if fid is not None:
            with self.watch.time("FID features", len(items)):
                fid.of_run.setdefault(run, GaussianStatistics()).add(fid.net(restored))
        if self.instruments.judges:
            self.embed([item.digests[run] for item in items], pictures)
            if gt is not None:
                self.embed([item.digests[run] for item in items], pictures, self.trained_store)
            for item in items:
                self.judge_identity(run, item)

    def judge_identity(self, run: str, item: LoadedPair) -> None:
        """The identity figures of one restored picture."""
        given = [self.store.files[path] for path in item.pair.refs.get(run, ())]
        self.share.gt_as_ref[run] += bool(item.gt_digest) and item.gt_digest in given
        for judge in self.instruments.judges:
            own = self.store.of(judge, item.digests[run])
            if isinstance(own, str):
                self.fail(item.pair.name, run, f"restored: {own}")
                continue
            cosines = self.cosines(judge, run, item, own)
            for of, figure in self.instruments.identity_figures:
                if of is judge and figure.kind in cosines:
                    self.put(run, figure.key, item.pair.name, cosines[figure.kind])
            if "ids" in cosines:
                self.compare_with_training(run, item, judge, cosines["ids"])

    def compare_with_training(self, run: str, item: LoadedPair, judge: Judge, ids: float) -> None:
        """IDS by the recognisers of the training, and how much more that is than the judge's."""
        for trained in self.instruments.trained_with:
            own, gt = (self.trained_store.of(trained, digest) for digest in (item.digests[run], item.gt_digest))
            if isinstance(own, str) or isinstance(gt, str):
                self.fail(item.pair.name, run, f"trained with: {own if isinstance(own, str) else gt}")
                continue
            seen = float(own @ gt)
            self.put(run, f"ids_trained_{trained.key}", item.pair.name, seen)
            self.put(run, gap_key(trained, judge), item.pair.name, seen - ids)

    def cosines(self, judge: Judge, run: str, item: LoadedPair, own: Tensor) -> dict[str, float]:
        """Values by kind of figure; a kind whose picture is missing is left out."""
        pair = item.pair
        gt: Embedding = self.store.of(judge, item.gt_digest) if item.gt is not None else "no ground truth"
        if item.gt is not None and isinstance(gt, str):
            self.fail(pair.name, None, f"ground truth: {gt}")
        lq = self.store.of_files(judge, [pair.lq] if pair.lq else ())  # (1, E)
        refs = self.store.of_files(judge, pair.refs.get(run, ()))  # (R, E)
        gallery = self.store.of_files(judge, pair.gallery)
        target = gt[None] if isinstance(gt, Tensor) else None
        sides = {
            "ids": (own[None], target), "ids_ref": (own[None], refs), "cos_ref_gt": (refs, target),
            "ids_lq": (own[None], lq), "cos_lq_gt": (lq, target), "ids_gallery": (own[None], gallery),
            "cos_lq_gallery": (lq, gallery), "cos_ref_gallery": (refs, gallery),
        }  # fmt: skip
        found = {kind: float((a @ b.T).mean()) for kind, (a, b) in sides.items() if a is not None and b is not None}
        if "ids" in found:
            found["degrees"] = math.degrees(math.acos(max(-1.0, min(1.0, found["ids"]))))
        return found

    def put(self, run: str, key: str, name: str, value: float) -> None:
        """Keep a value; NaN is no value but a failure."""
        if math.isnan(value):
            self.fail(name, run, f"{key} is NaN")
        elif key in self.share.values[run]:
            self.share.values[run][key][name] = value

    def fail(self, name: str, run: str | None, reason: str) -> None:
        """Note a failure, once."""
        failure = Failure(name, run, reason)
        if failure not in self.share.failures:
            self.share.failures.append(failure)

    def collect_people(self, pairs: Iterable[EvaluationPair]) -> None:
        """Photos of people that no network made, for the judges' thresholds: GT, references, gallery."""
        for judge in self.instruments.judges:
            photos = self.share.people.setdefault(judge.name, [])
            for pair in pairs:
                if pair.identity is None:
                    continue
                digests = [self.store.files.get(path) for path in (*pair.shared_refs, *pair.gallery)]
                digests.append(self.gt_digests.get(pair.name))
                for digest in digests:
                    found = self.store.of(judge, digest) if isinstance(digest, bytes) else None
                    if isinstance(digest, bytes) and isinstance(found, Tensor):
                        photos.append(PersonPhoto(pair.identity, digest, found.numpy(), pair.name))
