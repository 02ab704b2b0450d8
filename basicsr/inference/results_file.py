"""results.json: what was restored with what. It survives a run that is cut off, and grows over several runs.

    {complete: true where the last run restored all it was given, weights: {path, sha256},
     recognizer: {path, sha256} | null, faces: [...], failures: [{input, restored, error}]}

The head speaks of the last run; each face names the sha256 of its own weights. `final` is the photo that a face was
pasted into; an aligned face has none. `settings` stands for everything that decided a result, so that a run can go on.
"""

from __future__ import annotations

import json
import os
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from basicsr.inference.jobs import Job
from basicsr.inference.restorer import FaceRestorer, RestoredFace
from basicsr.inference.values import FaceGuidance
from basicsr.utils.errors import UserError
from basicsr.utils.text_util import write_text

Entry = dict[str, Any]
SECONDS_BETWEEN_WRITES = 5.0  # a file of thousands of faces is not written after each batch
SHARE_OF_WRITING = 0.05  # of the time of a run at most: the network waits meanwhile


def read_results(path: Path) -> Entry:
    """The results.json of earlier runs into this folder; empty lists where there is none.

    Raises:
        UserError: there is a file, but it is not one of this tool.
    """
    way_out = "Move it away, or choose another folder with -o."
    try:
        contents = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):  # the first run, or -o is a file, which is named where it is made
        return {"faces": [], "failures": []}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read as the results of earlier runs ({error}). {way_out}") from error
    faces = contents.get("faces") if isinstance(contents, dict) else None
    if not isinstance(faces, list) or not all(isinstance(face, dict) and "restored" in face for face in faces):
        raise UserError(f"{path}: holds no results of earlier runs (no list 'faces'). {way_out}")
    failures = contents.get("failures")
    # older files hold failures as plain text, which does not say what a later run has put right
    kept = [failure for failure in failures if isinstance(failure, dict)] if isinstance(failures, list) else []
    return {"faces": faces, "failures": kept}


class ResultsFile:
    """The file of one run. Entries of earlier runs stay unless this run writes the same picture again."""

    def __init__(self, path: Path, earlier: Entry) -> None:
        self.path = path
        self.weights_sha256 = ""
        self.head: Entry = {"complete": False, "weights": None, "recognizer": None}
        self.faces: dict[str, Entry] = {_key(face): face for face in earlier["faces"]}
        self.failures: dict[str, Entry] = {_key(failure): failure for failure in earlier["failures"]}
        self._faces_of: dict[str, set[str]] = defaultdict(set)  # result -> keys of its faces and failures
        for entries in (self.faces, self.failures):
            for key, entry in entries.items():
                self._faces_of[_result(entry)].add(key)
        self.num_restored = self.num_failed = 0  # of this run
        self._written = time.monotonic()
        self._pause = SECONDS_BETWEEN_WRITES

    def describe_restorer(self, restorer: FaceRestorer) -> None:
        """Say what this run restores with, before the first face."""
        self.weights_sha256 = restorer.weights_file.sha256
        self.head["weights"] = restorer.weights_file._asdict()
        self.head["recognizer"] = restorer.recognizer_file._asdict() if restorer.recognizer_file else None

    @property
    def num_by_other_weights(self) -> int:
        """Faces of earlier runs of which the head does not speak."""
        return sum(face.get("weights_sha256") != self.weights_sha256 for face in self.faces.values())

    def is_done(self, job: Job, settings: str) -> bool:
        """Whether an earlier run has made this very result, and it is still there."""
        keys = self._faces_of[os.path.abspath(job.output)]
        entries = [self.faces[key] for key in keys if key in self.faces]
        failed = any(key in self.failures for key in keys)
        same = bool(entries) and all(face.get("settings") == settings for face in entries)
        return same and not failed and job.output.exists()

    def begin(self, job: Job) -> None:
        """Forget what earlier runs say of a result, since it is made again."""
        for key in self._faces_of.pop(os.path.abspath(job.output), ()):
            self.faces.pop(key, None)
            self.failures.pop(key, None)

    def add(self, job: Job, face: RestoredFace, seconds: float, /, **more: Any) -> None:
        """A restored face, whose picture is on disk. `more` stands beside or in place of what `describe` says."""
        entry = describe(job, face, seconds) | {"weights_sha256": self.weights_sha256} | more
        self.faces[_key(entry)] = entry
        self._faces_of[_result(entry)].add(_key(entry))
        self.failures.pop(_key(entry), None)
        self.num_restored += 1

    def fail(self, job: Job, error: Exception, /, **more: Any) -> None:
        """A face that could not be restored. A picture that an earlier run has made of it stays listed."""
        entry = {"input": str(job.path), "restored": str(job.output), "error": str(error), **more}
        self.failures[_key(entry)] = entry
        self._faces_of[_result(entry)].add(_key(entry))
        self.num_failed += 1

    def finish(self) -> None:
        """Every picture of this run has had its turn."""
        self.head["complete"] = self.num_failed == 0

    def write_when_due(self) -> None:
        """Write if the last time is a while ago: what a kill can cost is a few seconds, or 20 times a slow write."""
        if time.monotonic() - self._written >= self._pause:
            self.write()

    def write(self) -> None:
        """Write everything that is known so far."""
        begun = time.monotonic()
        contents = self.head | {"faces": list(self.faces.values()), "failures": list(self.failures.values())}
        write_text(self.path, json.dumps(contents, indent=1, allow_nan=False) + "\n")
        self._written = time.monotonic()
        self._pause = max(SECONDS_BETWEEN_WRITES, (self._written - begun) / SHARE_OF_WRITING)


def describe(job: Job, face: RestoredFace, seconds: float) -> Entry:
    """One entry of `faces`: what was used, which is not always what was asked for."""
    refs = [str(ref) for ref in job.refs]
    return {
        "input": str(job.path),
        "restored": str(job.output),
        "mode": face.mode,
        "refs": refs if face.mode == "ref" else [],
        "compared_with": refs if face.similarity_after is not None else [],
        "similarity_before": face.similarity_before,
        "similarity_after": face.similarity_after,
        **({"similarity_to_each": face.each_reference} if len(face.each_reference) > 1 else {}),
        "seconds": round(seconds, 4),
        **describe_guidance(face.guidance),
        **face.knobs._asdict(),
    }


def describe_guidance(guidance: FaceGuidance | None) -> Entry:
    """What results.json says of the guidance of a face; nothing without guidance."""
    if guidance is None:
        return {}
    return {"guidance": guidance.report._asdict(), "over_guided": guidance.over_guided}


def _key(entry: Entry) -> str:
    """The picture that an entry speaks of."""
    return os.path.abspath(str(entry.get("restored", "")))


def _result(entry: Entry) -> str:
    """The result that an entry belongs to: the photo, or the aligned face itself."""
    return os.path.abspath(str(entry.get("final") or entry.get("restored", "")))
