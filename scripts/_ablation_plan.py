"""The programs of an ablation in their order: trainings, restorations, evaluations, each a step that is done once.

What is the same is done once: stage I is shared by all rows and seeds, and rows whose options of a stage are the same
but for the name share the training.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import _root
from _steps import Step, all_restored

import basicsr.archs
import basicsr.data
import basicsr.losses
import basicsr.metrics
import basicsr.models  # noqa: F401  the five fill the registries
from basicsr.config import Options, parse_options
from basicsr.config.options import to_plain
from basicsr.evaluation.ablation import QUESTIONS
from basicsr.evaluation.ablation_options import ROWS, AblationOptions
from basicsr.utils.csv_util import read_rows, write_rows, write_table
from basicsr.utils.errors import OptionError

SCALED = ("total_iter", "warmup_iter", "net_d_start_iter", "code_restart_until")  # iterations of `train`
BLIND = "blind"  # name of the training that all rows start their stage II from
PAIRS = {"wrong": "pairs_wrong.csv", "oracle": "pairs_oracle.csv"}  # of a mode; pairs.csv for the others


@dataclass(frozen=True)
class Restoration:
    """The test set restored by one training in one way; `label` is the run's name in report and table."""

    label: str
    training: str
    mode: str  # of Row.modes
    w: float
    guide: int = 0  # steps of identity guidance for each face


@dataclass
class Plan:
    """Everything that an ablation does below the folder `out`.

    Args:
        rows: in the order of the table.
        budget: factor on all iterations.
    """

    options: AblationOptions
    rows: Sequence[str]
    seeds: int
    budget: float
    out: Path
    trainings: dict[str, Step] = field(default_factory=dict)  # by name of the run; stage I first
    _same: dict[str, str] = field(default_factory=dict)  # options without names -> name of the run that has them
    _weights_of: dict[tuple[int, str, int], str] = field(default_factory=dict)  # (stage, row, seed) -> name of the run

    def __post_init__(self) -> None:
        self._add("stage1", [self.options.stage1], 0, [])
        before = self._add_blind()
        for seed in range(self.seeds):
            for row in self.rows:
                second = self._add_row(2, row, seed, before)
                start = [f"path:pretrain_network_g={self.weights(second)}"]
                self._add_row(3, row, seed, [*start, f"path:pretrain_network_d={self.weights('stage1', 'd')}"])

    def training_of(self, stage: int, row: str, seed: int) -> str:
        """Name of the training that stands for a row after stage 2 or 3; rows with the same options share one."""
        return self._weights_of[stage, row, seed]

    def weights(self, training: str, net: str = "g") -> Path:
        """What a training leaves."""
        return self.out / "experiments" / training / "models" / f"net_{net}_latest.pth"

    def layers(self) -> list[list[Step]]:
        """Trainings and restorations; the steps of one list do not need each other."""
        by_stage = [[step for name, step in self.trainings.items() if name.startswith(f"stage{n}")] for n in (1, 2, 3)]
        restorations = [self.restoration_step(run, seed, stage) for stage, seed, run in self.restorations()]
        unique = {step.makes: step for step in restorations}  # rows that share a training share its pictures
        # the test set alone: beside it, stage I would be held to half of the cores for all of its time
        first = [[self.test_set_step()], by_stage[0], [self.trainings[BLIND]] if BLIND in self.trainings else []]
        return [*first, [self.ceiling_step(), *by_stage[1]], by_stage[2], [*unique.values()]]

    def restorations(self) -> Iterator[tuple[int, int, Restoration]]:
        """(stage, seed, restoration) of everything that is judged."""
        for seed in range(self.seeds):
            for row in self.rows:
                modes, guide = ROWS[row].modes, 0 if ROWS[row].guides is None else self.options.guide
                name = {mode: f"{row} {mode}" if ROWS[row].sees else row for mode in modes}
                second, third = self._weights_of[2, row, seed], self._weights_of[3, row, seed]
                for mode in modes:
                    yield 2, seed, Restoration(name[mode], second, mode, 0.0, guide)
                    yield 3, seed, Restoration(name[mode], third, mode, self.options.w, guide)
                for w in self.options.w_sweep:
                    yield 3, seed, Restoration(f"{row} w={w:g}", third, modes[0], w, guide)

    def test_set_step(self) -> Step:
        """Held-out people, degraded once for all rows and seeds."""
        test = self.options.test
        command = ["scripts/make_test_set.py", "--index", test.index, "--split", test.split, "--size", str(test.size)]
        command += ["--strength", *test.strength, "--out", str(self.out / "test_set")]
        command += [] if test.num_images is None else ["--num_images", str(test.num_images)]
        return Step("test set", command, self.out / "test_set" / "pairs_oracle.csv")

    def ceiling_step(self) -> Step:
        """Ground truths through the autoencoder of stage I; always asked, since it goes on by itself."""
        folder = self.out / "results" / "ceiling"
        command = ["scripts/reconstruct.py", "--weights", str(self.weights("stage1"))]
        command += ["--input", str(self.out / "test_set" / "gt"), "--out", str(folder)]
        needs = [self.weights("stage1"), self.out / "test_set" / "gt"]
        return Step("ceiling", command, folder, lambda _: False, needs)

    def restoration_step(self, run: Restoration, seed: int, stage: int) -> Step:
        """The test set restored by one training in one way."""
        folder = self.folder_of(run)
        pairs = self.out / "test_set" / PAIRS.get(run.mode, "pairs.csv")
        mode = "ref" if run.mode in ("wrong", "oracle") else run.mode
        command = ["inference_codeformer.py", "--pairs", str(pairs), "--has_aligned", "--no-adain", "--mode", mode]
        command += ["-w", f"{run.w:g}", "--weights", str(self.weights(run.training)), "--batch_size", "16"]
        if run.guide:
            recognizer = self.recognizer()
            if recognizer is None:
                raise OptionError(f"{self.options.stage2}: guidance needs a network_identity, to guide by it.")
            command += ["--guide", str(run.guide), "--recognizer", recognizer]
        title = f"restore {run.label}, stage {stage}, seed {seed}"
        needs = [pairs, self.weights(run.training)]
        return Step(title, [*command, "-o", str(folder)], folder / "results.json", all_restored, needs)

    def folder_of(self, run: Restoration) -> Path:
        """Where the pictures of a restoration lie."""
        guided = f"_guide{run.guide}" if run.guide else ""
        return self.out / "results" / f"{run.training}_{run.mode}_w{run.w:g}{guided}"

    def report_folder(self, stage: int, seed: int) -> Path:
        """Where the evaluation of one seed after a stage goes."""
        return self.out / f"report_stage{stage}_seed{seed}"

    def evaluation_step(self, stage: int, seed: int, trained_with: str | None) -> Step:
        """Every finished run of one seed after one stage, beside the degraded photos and the ceiling.

        It is done when its report holds these very runs: rows may be added to an ablation.
        """
        runs = [run for at, of, run in self.restorations() if (at, of) == (stage, seed) and self.is_restored(run)]
        folder = self.report_folder(stage, seed)
        given = {"degraded": self.out / "test_set" / "lq", "ceiling": self.out / "results" / "ceiling"}
        given = {label: path for label, path in given.items() if (_root.ROOT / path).is_dir()}
        given |= {run.label: self.folder_of(run) / "restored_faces" for run in runs}
        command = ["scripts/evaluate.py", "--pairs", str(self.write_pairs(runs, folder.name)), "--restored"]
        command += [f"{label}={path}" for label, path in given.items()]
        command += ["--recognizer", *self.options.judges, "--lpips_net", *self.options.lpips]
        asked = [question for question in QUESTIONS if {question.run, question.minus} <= given.keys()]
        if asked:  # the family of differences that is tested
            write_table(_root.ROOT / folder / "questions.csv", ("question", "run", "minus"), asked)
            command += ["--questions", str(folder / "questions.csv")]
        command += ["--baseline", "A"] if "A" in given else []
        command += [] if trained_with is None else ["--trained_with", trained_with]
        command += ["--title", f"{self.options.title}: stage {stage}, seed {seed}", "--out", str(folder)]

        def is_done(metrics: Path) -> bool:
            return metrics.exists() and json.loads(metrics.read_text(encoding="utf-8"))["runs"] == list(given)

        return Step(f"evaluate stage {stage}, seed {seed}", command, folder / "metrics.json", is_done)

    def is_restored(self, run: Restoration) -> bool:
        """Whether the test set is there in full, restored in this way."""
        return all_restored(_root.ROOT / self.folder_of(run) / "results.json")

    def evaluations(self) -> list[tuple[int, int]]:
        """(stage, seed) of every evaluation for which something is restored."""
        wanted = [(stage, seed) for stage, seed, run in self.restorations() if self.is_restored(run)]
        return sorted(set(wanted))

    def write_pairs(self, runs: Sequence[Restoration], name: str) -> Path:
        """The pairs of the test set for an evaluation, with the references that each run was really given."""
        test_set = self.out / "test_set"
        rows = [row for _, row in read_rows(_root.ROOT / test_set / "pairs.csv", required=("gt", "ref", "ref:wrong"))]
        given = {"wrong": "ref:wrong", "oracle": "gt"}
        for row in rows:
            row |= {f"ref:{run.label}": row[given[run.mode]] for run in runs if run.mode in given}
        path = test_set / f"pairs_{name}.csv"  # in this folder, where the paths in it begin
        write_rows(_root.ROOT / path, rows)
        return path

    def recognizer(self) -> str | None:
        """The recogniser that the full model trains with."""
        identity = self.parsed([self.options.stage2]).network_identity
        return None if identity is None else identity.path

    def parsed(self, arguments: Sequence[str]) -> Options:
        """Options of an option file and changes to it; the weights of earlier stages need not exist yet."""
        path, *changes = arguments
        return parse_options(_root.ROOT / path, changes, check_files=False)

    def _add_blind(self) -> list[str]:
        """The training before stage II that all rows go on from, if there is one; what it changes in theirs."""
        if self.options.stage2_blind is None:
            return []
        vqgan = f"path:pretrain_network_vqgan={self.weights('stage1')}"
        self._add(BLIND, [self.options.stage2_blind], 0, [vqgan])
        return [f"path:pretrain_network_g={self.weights(BLIND)}", "path:strict_load_g=false"]

    def _add_row(self, stage: int, row: str, seed: int, changes: Sequence[str]) -> str:
        """A training of a row; the name of the run, which may be that of another row with the same options."""
        base = self.options.stage2 if stage == 2 else self.options.stage3
        name = f"stage{stage}_{ROWS[row].file}_seed{seed}"
        laid_over = [f"options/ablation/stage{stage}_{ROWS[row].file}.yml", f"_base_={_root.ROOT / base}"]
        vqgan = f"path:pretrain_network_vqgan={self.weights('stage1')}"
        found = self._add(name, laid_over, seed, [vqgan, *changes])
        self._weights_of[stage, row, seed] = found
        return found

    def _add(self, name: str, option_file: Sequence[str], seed: int, changes: Sequence[str]) -> str:
        """A training, unless there is one with the same options; the name of the one that stands for it."""
        forced = [*option_file, f"manual_seed={seed}", f"path:experiments_root={self.out}/experiments", *changes]
        options = self.parsed([*forced, f"name={name}"])
        forced += scaled_iterations(options, self.budget)
        same = what_it_computes(self.parsed([*forced, f"name={name}"]))
        if same not in self._same:
            path, *rest = forced
            command = ["basicsr/train.py", "-opt", path, "--auto_resume", "--force_yml", f"name={name}", *rest]
            self._same[same] = name
            starts = [change.partition("=")[2] for change in changes if change.startswith("path:pretrain_network_")]
            self.trainings[name] = Step(name, command, self.weights(name), needs=[Path(start) for start in starts])
        return self._same[same]


def what_it_computes(options: Options) -> str:
    """The options of a training without what has no effect on it, as text."""
    plain = {key: value for key, value in to_plain(options).items() if key not in ("name", "description")}
    if options.model_type == "IDCodeFormerModel" and not plain["train"].get("identity_opt"):
        del plain["train"]["code_grad"]  # stage II without L_ids has no picture whose loss could reach the codes
    return json.dumps(plain)


def scaled_iterations(options: Options, budget: float) -> list[str]:
    """Changes that multiply every iteration of a training by `budget`; shares of the run stay shares."""
    if budget == 1:
        return []
    plain: Mapping[str, Any] = to_plain(options)
    train = plain["train"]

    def scaled(value: int) -> int:
        return value if value <= 0 else max(1, round(value * budget))

    changes: dict[str, Any] = {f"train:{key}": scaled(train[key]) for key in SCALED if train.get(key) is not None}
    for key in ("periods", "milestones"):
        if train.get("scheduler") and key in train["scheduler"]:
            changes[f"train:scheduler:{key}"] = [scaled(value) for value in train["scheduler"][key]]
    if train.get("schedule"):
        ends = [phase["until"] for phase in train["schedule"]]
        scaled_ends = [scaled(end) if isinstance(end, int) else end for end in ends]
        changes["train:schedule"] = [
            {**phase, "until": end} for phase, end in zip(train["schedule"], scaled_ends, strict=True)
        ]
    if train.get("identity_opt"):
        changes["train:identity_opt:start_iter"] = scaled(train["identity_opt"]["start_iter"])
    changes["logger:save_checkpoint_freq"] = scaled(plain["logger"]["save_checkpoint_freq"])
    if plain.get("val"):
        changes["val:val_freq"] = scaled(plain["val"]["val_freq"])
    return [f"{key}={json.dumps(value)}" for key, value in changes.items()]
