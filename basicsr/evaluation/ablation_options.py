"""What an ablation compares: its option file (options/ablation/<data>.yml) and the rows that there are.

A row is a pair of option files, options/ablation/stage2_<file>.yml and stage3_<file>.yml, that are laid over the
stages of the experiment: what differs between two rows stands there and nowhere else. A guided row (A+G) trains
nothing: it restores with the weights of another row and with identity guidance.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from basicsr.config.yaml_loader import KeyPath, OptionTree, load_tree
from basicsr.utils.errors import OptionError
from basicsr.utils.signature import did_you_mean

Strength = Literal["small", "large", "severe", "extreme"]
Fidelity = Annotated[float, Meta(ge=0)]


@dataclass(frozen=True)
class Row:
    """A row of the table."""

    file: str  # between stage2_ or stage3_ and .yml
    says: str
    sees: bool  # takes references, so that right, wrong and no references can be compared
    guides: str | None = None  # row whose weights it restores with, by identity guidance; `file` is that row's

    @property
    def modes(self) -> tuple[str, ...]:
        """Ways in which the test set is restored, the one of the table first."""
        if self.guides is not None:
            return ("ref", "wrong", "oracle")  # guidance needs a reference
        return ("ref", "wrong", "none", "self", "oracle") if self.sees else ("none",)


ROWS: dict[str, Row] = {
    "A0": Row("a0", "as released: image losses do not reach the code prediction", False),
    "A": Row("a", "baseline", False),
    "A+G": Row("a", "A + guidance", True, guides="A"),
    "B": Row("b", "A + identity loss", False),
    "C": Row("c", "B + conditioned transformer", True),
    "D": Row("d", "C + IA-CFT", True),
    "D+G": Row("d", "D + guidance", True, guides="D"),
    "M": Row("maps", "D with maps: each place is told its own", True),
    "A+C": Row("a_c", "A + conditioned transformer, no identity loss", True),
    "A+D": Row("a_d", "A + IA-CFT, no identity loss, no tokens", True),
    "C1": Row("c_one_token", "C with one token and no null key (degenerate)", True),
    "kv_share": Row("kv_share", "B + reference keys and values in the self-attention", True),
    "capacity": Row("capacity", "D whose identity is a learned constant", False),
}


class TestSet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Held-out people and how their photos are degraded, see scripts/make_test_set.py."""

    __test__ = False  # no test case, whatever pytest thinks of the name

    index: str
    size: Annotated[int, Meta(ge=1)]
    split: Literal["val", "test"] = "test"
    strength: Annotated[tuple[Strength, ...], Meta(min_length=1)] = ("large",)  # several: in turns
    num_images: Annotated[int, Meta(ge=1)] | None = None


class AblationOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The option file of an ablation. Paths are relative to the repository, or absolute.

    Args:
        stage1, stage2, stage3: option files of the full model; stage I is shared by all rows and seeds.
        stage2_blind: option file of a code prediction without identity, trained once, from which all rows start
            stage II; None: they start from stage I alone.
        rows: names of ROWS, in the order of the table.
        w: fidelity weight of the table; `w_sweep` are further ones, with right references.
        guide: steps of identity guidance for each face of the guided rows.
        judges: recognisers that judge, none of them the one that trains.
        lpips: backbones of LPIPS.
    """

    title: str
    stage1: str
    stage2: str
    stage3: str
    stage2_blind: str | None = None
    rows: Annotated[tuple[str, ...], Meta(min_length=1)]
    test: TestSet
    judges: Annotated[tuple[str, ...], Meta(min_length=1)]
    lpips: tuple[Literal["alex", "vgg", "squeeze"], ...] = ("alex", "vgg")
    w: Fidelity = 0.5
    w_sweep: tuple[Fidelity, ...] = (0.0, 1.0)
    guide: Annotated[int, Meta(ge=1)] = 10


def read_ablation(path: Path) -> AblationOptions:
    """The option file of an ablation, checked.

    Raises:
        OptionError: one line with key, fault and file:line.
    """
    tree = load_tree(path, (), lambda *_: None)
    plain = tree.root.plain()
    if not isinstance(plain, dict):
        raise tree.error((), "expected the keys of an ablation (title, stage1, ...).")
    _refuse_unknown(tree, (), plain, AblationOptions)
    if isinstance(plain.get("test"), dict):
        _refuse_unknown(tree, ("test",), plain["test"], TestSet)
    try:
        options = msgspec.convert(plain, AblationOptions)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$.")
        keys = tuple(key for key in place.rstrip("`").replace("[", ".").replace("]", "").split(".") if key)
        raise tree.error(tuple(int(k) if k.isdigit() else k for k in keys), f"{reason}.") from error
    check_rows(options.rows, lambda row, message: tree.error(("rows", options.rows.index(row)), message))
    for key in ("stage1", "stage2_blind", "stage2", "stage3"):
        if getattr(options, key) is not None and not Path(getattr(options, key)).is_file():
            raise tree.error((key,), f"no such option file: {getattr(options, key)}.")
    return options


def check_rows(rows: tuple[str, ...], error: Callable[[str, str], OptionError]) -> None:
    """Refuse a row that there is not, that is named twice, or whose weights no row trains."""
    for row in rows:
        if row not in ROWS:
            raise error(row, f"no row '{row}'.{did_you_mean(row, ROWS)}")
        if rows.count(row) > 1:
            raise error(row, f"the row '{row}' is named twice.")
        if (base := ROWS[row].guides) is not None and base not in rows:
            raise error(row, f"the row '{row}' restores with the weights of row '{base}'. Add {base} to the rows.")


def _refuse_unknown(tree: OptionTree, path: KeyPath, plain: dict[str, object], struct: type[msgspec.Struct]) -> None:
    for key in plain:
        if key not in struct.__struct_fields__:
            raise tree.error((*path, key), f"no such key.{did_you_mean(key, struct.__struct_fields__)}")
