"""A video restored: faces found and followed, one identity for each track, restored in batches over frames, painted in.

First every frame is looked at (basicsr/inference/video_scan.py), then the frames are read again and restored in
segments of SEGMENT frames. A finished segment is a file with its figures beside it, and an interrupted run goes on
after the last one; a batch ends with its segment, so that the pictures do not depend on where a run was interrupted.
Frames are in memory a few at a time; what is kept of every frame are its time and the landmarks of its faces.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, cast

import numpy as np

from basicsr.faces.steady import steady_landmarks
from basicsr.faces.track import Track
from basicsr.inference.gallery import Gallery, Match
from basicsr.inference.jobs import Job
from basicsr.inference.photo import crop_size
from basicsr.inference.restorer import FaceRestorer, References
from basicsr.inference.results_file import ResultsFile
from basicsr.inference.run_settings import RunSettings
from basicsr.inference.values import Knobs, RestoredFace
from basicsr.inference.video_file import MP4_SOUND, read_frames, video_facts
from basicsr.inference.video_scan import Scan, Scanner
from basicsr.inference.video_segment import Figures, GuidanceMeans, SegmentRun, TrackPlan, read_figures
from basicsr.inference.video_write import count_packets, join_segments
from basicsr.models.identity_source import IdentityMode
from basicsr.utils.cli import progress
from basicsr.utils.errors import ImageFileError
from basicsr.utils.img_util import Image
from basicsr.utils.text_util import make_folder, write_text

logger = logging.getLogger(__name__)

SEGMENT = 100  # frames: what an interruption can cost
PARTS = "parts 3"  # what lies in the work folder; another version of it is made anew


@dataclass(frozen=True)
class VideoSettings:
    """What a run is told of videos beside `RunSettings`.

    Args:
        smooth: sigma of the filter of the landmarks over time, frames; see `steady_landmarks`.
        crf: of x264, 0 lossless .. 51.
        fps: frames a second of the result; None: the times of the source, which may be uneven.
        resume: go on where an earlier run with the same settings stopped.
    """

    smooth: float = 1.5
    crf: int = 18
    fps: float | None = None
    resume: bool = False


def video_output(path: Path, folder: Path, suffix: str | None) -> Path:
    """The file that a video's result goes to: .mp4, or .mkv where .mp4 does not take the sound as it is.

    Raises:
        ImageFileError: the video cannot be read, or would be overwritten by its own result.
    """
    sound = video_facts(path).sound
    ending = ".mp4" if all(codec in MP4_SOUND for codec in sound) else ".mkv"
    output = folder / f"{path.stem}{f'_{suffix}' if suffix else ''}{ending}"
    if output.resolve() == path.resolve():
        raise ImageFileError(f"{path}: its result would be written over it. Take another -o, or a --suffix.")
    return output


class VideoRun:
    """Restores videos; `restore` does one."""

    def __init__(
        self, restorer: FaceRestorer, settings: RunSettings, video: VideoSettings, results: ResultsFile
    ) -> None:
        self.restorer = restorer
        self.settings = settings
        self.video = video
        self.results = results

    def restore(self, job: Job) -> None:
        """Restore. What cannot be done is a line and an entry in the results; they are on disk however this ends."""
        try:
            self._restore(job)
            self.results.finish()
        except ImageFileError as error:
            logger.error("%s", error)
            self.results.fail(job, error)
        finally:
            self.results.write()

    def _restore(self, job: Job) -> None:
        work = self._work_folder(job)
        scan = self._scan(job.path, work)
        if scan.error is not None:
            error = ImageFileError(f"{scan.error[:-1]}; what can be read is restored.")
            logger.error("%s", error)
        plans = self.plan(job, scan)
        figures = self._segments(job, work, scan, plans)
        facts = video_facts(job.path)
        times, time_base = scan.times(), facts.time_base
        if self.video.fps is not None:
            time_base = 1 / Fraction(self.video.fps).limit_denominator(100_000)
            times = [(i, 1) for i in range(len(times))]
        join_segments(self._parts(work, len(times)), times, time_base, job.path, job.output)
        self.results.begin(job)
        for plan in plans:
            self._note(job, plan, figures[plan.track.number], scan, facts.time_base)
        if scan.error is not None:
            self.results.fail(job, error, restored=f"{job.output}#end", final=str(job.output))
        shutil.rmtree(work)

    def _work_folder(self, job: Job) -> Path:
        """Where parts wait until they are joined; emptied unless they are of a run like this one."""
        work = job.output.parent / f".{job.output.stem}.parts"
        head = work / "settings.txt"
        wanted = f"{PARTS} {self.settings.fingerprints.get(job.output, '')}"
        same = head.is_file() and head.read_text(encoding="utf-8") == wanted
        if work.is_dir() and not (self.video.resume and same):
            shutil.rmtree(work)
        make_folder(work)
        write_text(head, wanted)
        return work

    def _scan(self, source: Path, work: Path) -> Scan:
        """The tracks of a video.

        Raises:
            ImageFileError: there is none, or no video.
        """
        if self.settings.detector is None:
            raise ImageFileError(f"{source}: faces of a video are found by a detector; leave out --has_aligned.")
        embed = self._embed if self.restorer.recognizer is not None else None
        scanner = Scanner(
            self.settings.detector, embed, crop_size(self.restorer), self.settings.only_center_face,
            self.settings.threads,
        )  # fmt: skip
        scan = scanner.scan(source, work / "faces.jsonl")
        if not scan.tracks:
            raise ImageFileError(
                f"{source}: no face found in {len(scan.pts)} frames. Lower --detection_threshold, or raise "
                "--detect_size for small faces."
            )
        logger.info("%s: %d frames, %d people followed", source, len(scan.pts), len(scan.tracks))
        return scan

    def _embed(self, crops: Sequence[Image]) -> Any:
        return self.restorer.embed(crops).cpu().numpy()

    def plan(self, job: Job, scan: Scan) -> list[TrackPlan]:
        """Who each track is, its references, and where its face is in every frame."""
        gallery = self.settings.gallery
        if gallery is None:
            matches: list[Match | None] = [None] * len(scan.tracks)
            if len(scan.tracks) > 1 and job.refs:
                logger.warning(
                    "%s: %d people, and the references are used for each of them. Take --only_center_face, or "
                    "--ref_dir with a folder per person.", job.path, len(scan.tracks),
                )  # fmt: skip
        else:
            matches = list(match_tracks(gallery, scan.tracks))
        encoded: dict[tuple[Path, ...], References] = {}
        plans = []
        for track, match in zip(scan.tracks, matches, strict=True):
            files = tuple(job.refs)
            if gallery is not None:
                files = gallery.files_of(match.person) if match is not None and match.person is not None else ()
            if files not in encoded:
                encoded[files] = self._encode([self.settings.read_ref(path) for path in files])
            if match is not None and match.person is None:
                logger.info("%s, track %d: %s; restored blind", job.path, track.number, match.reason)
            steady = steady_landmarks(track, self.video.smooth, scan.cuts, scan.tracks)
            plans.append(TrackPlan(track, track.frames[track.best], match, files, encoded[files], steady))
        return plans

    def _encode(self, photos: Sequence[Image]) -> References:
        if photos and self.restorer.recognizer is not None and self.settings.mode in (None, "ref"):
            return self.restorer.encode_references(photos)
        return photos

    def _parts(self, work: Path, num_frames: int) -> list[Path]:
        return [work / f"{i:06d}.mkv" for i in range(-(-num_frames // SEGMENT))]

    def _segments(self, job: Job, work: Path, scan: Scan, plans: Sequence[TrackPlan]) -> dict[int, Figures]:
        """Restore every segment that is not there yet. Returns the figures of each track."""
        total, parts = len(scan.pts), self._parts(work, len(scan.pts))
        done = 0
        while done < len(parts) and count_packets(parts[done]) == min(SEGMENT, total - done * SEGMENT):
            done += 1
        if done:
            logger.info("%s: %d of %d segments were done by an earlier run", job.path, done, len(parts))
        colours = video_facts(job.path).colours
        frames = enumerate(read_frames(job.path, done * SEGMENT), done * SEGMENT)
        with progress(total=total, desc="restore frames") as bar:
            bar.update(done * SEGMENT)
            for k in range(done, len(parts)):
                of_this = islice(frames, min(SEGMENT, total - k * SEGMENT))
                place = partial(self.place, job)
                run = SegmentRun(self.restorer, self.settings, plans, place, self.video.crf, colours, scan.cuts)
                run.run(parts[k], of_this, bar)
        figures = {plan.track.number: Figures() for plan in plans}
        for part in parts:
            for number, later in read_figures(part.with_suffix(".json")).items():
                figures[number].take_in(later)
        return figures

    def place(self, job: Job, number: int, folder: str) -> Path:
        """Where the clearest view of a track goes: FOLDER/<name>_<NN>.png beside the video."""
        return job.output.parent / folder / f"{job.output.stem}_{number:02d}.png"

    def _note(self, job: Job, plan: TrackPlan, figures: Figures, scan: Scan, time_base: Fraction) -> None:
        """Enter a track into the results."""
        track = plan.track
        best = track.frames.index(plan.best_frame)
        facts: dict[str, Any] = {
            "settings": self.settings.fingerprints.get(job.output, ""),
            "restored": str(self.place(job, track.number, "restored_faces")),
            "final": str(job.output),
            "track": track.number,
            "frames": [track.frames[0], track.frames[-1]],
            "num_frames": figures.count,
            "shown": [round(float(scan.pts[frame] * time_base), 3) for frame in (track.frames[0], track.frames[-1])],
            "best_frame": plan.best_frame,
            "box": [round(float(value), 1) for value in track.boxes[best]],
            "score": round(float(track.scores[best]), 4),
        }
        if figures.failed:
            error = ImageFileError(
                f"{job.path}, track {track.number}: {figures.failed} of {figures.failed + figures.count} faces could "
                f"not be restored and are as they were ({figures.error})"
            )
            logger.error("%s", error)
            self.results.fail(job, error, restored=f"{facts['restored']}#failed", final=facts["final"])
        if not figures.count:
            return
        if plan.match is not None:
            facts |= {
                "person": plan.match.person,
                "match_similarity": plan.match.similarity,
                "match_refused": plan.match.reason or None,
            }
        files = [str(path) for path in plan.files]
        compared = figures.num_compared or None
        before, after = (None if compared is None else value / compared for value in (figures.before, figures.after))
        mode = cast(IdentityMode, figures.mode)
        face = RestoredFace(np.empty((0, 0, 3), np.uint8), mode, before, after, Knobs(*figures.knobs))
        facts |= {"refs": files if mode == "ref" else [], "compared_with": files if compared else []}
        guided = figures.guidance
        if guided is not None:
            facts |= self._guidance(job, plan, guided)
            after = figures.unguided / figures.num_guided  # guidance makes any face similar to its reference
        nearest = max(before or -1.0, after or -1.0)
        if mode == "ref" and nearest < self.settings.doubtful:
            logger.warning(
                "%s, track %d: low similarity to the references: %.2f, below %g even after restoration%s. They may "
                "show someone else.", job.path, track.number, nearest, self.settings.doubtful,
                "" if guided is None else " without guidance",
            )  # fmt: skip
            facts["doubtful_references"] = files
        self.results.add(job, face, figures.seconds, **facts)

    def _guidance(self, job: Job, plan: TrackPlan, means: GuidanceMeans) -> dict[str, Any]:
        """What results.json says of the guidance of a track."""
        over_guided = self.restorer.is_over_guided(means.kl, means.similarity_after)
        if over_guided:
            logger.warning(
                "%s, track %d: over-guided: mean similarity %.2f to its references, more than two images of one person "
                "usually have. Lower --guide.", job.path, plan.track.number, means.similarity_after,
            )  # fmt: skip
        return {"guidance": means._asdict(), "over_guided": over_guided}


def match_tracks(gallery: Gallery, tracks: Sequence[Track]) -> list[Match]:
    """Who each track is: once for all its frames. A person who is in two tracks at the same time is the nearer one."""
    matches = []
    for track in tracks:
        if track.embedding is None:
            raise ValueError(f"track {track.number} has no embedding: who it is cannot be told")
        matches.append(gallery.match(track.embedding[None])[0])
    order = sorted(range(len(tracks)), key=lambda i: -(matches[i].similarity or 0.0))
    for rank, i in enumerate(order):
        for j in order[:rank]:
            person = matches[i].person
            if person is not None and matches[j].person == person and tracks[i].overlaps(tracks[j]):
                reason = f"{person} is track {tracks[j].number} at the same time, which is more similar"
                matches[i] = matches[i]._replace(person=None, reason=reason)
    return matches
