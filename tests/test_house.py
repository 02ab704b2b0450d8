"""The rules of the house as law: floors, sizes, and what no line in basicsr/ may do.

Read from the syntax trees, nothing is imported. The floors from the ground are utils, faces, recognizers (1);
archs, losses, data, metrics, config (2); models (3); engine (4); inference, evaluation, train.py, test.py (5);
scripts and inference_codeformer.py (6). An import goes down; the wings of floor 2 do not know each other.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MAX_TRACKED_BYTES = 500 * 1024
DEMO_WEIGHTS = "weights/demo/"  # the one folder whose weights are part of the project
MAX_DEMO_BYTES = 12 * 10**6  # of all files of that folder
FLOOR = {
    "utils": 1, "faces": 1, "recognizers": 1,
    "archs": 2, "losses": 2, "data": 2, "metrics": 2, "config": 2,
    "models": 3,
    "engine": 4,
    "inference": 5, "evaluation": 5, "train": 5, "test": 5,
}  # fmt: skip
# Whom a room may import on its own floor besides itself.
NEIGHBOURS = {
    "faces": {"utils"},
    "recognizers": {"utils", "faces"},  # a recogniser's input is aligned to a template of faces/
    "test": {"evaluation"},
}
# Third parties that are wrapped in one file of basicsr/; True: imported there only inside functions.
WRAPPED = {
    "insightface": True,
    "facexlib": True,
    "lpips": False,
    "onnx2torch": False,
    "lmdb": True,
    "wandb": True,
    "av": True,
    "spandrel": True,
    "kornia": True,
}
NEVER_IMPORTED = {"gradio", "gfpgan", "realesrgan", "facelib", "pyiqa", "timm", "lightning", "accelerate", "hydra"}
OWN_RANDOMNESS = {"default_rng", "Generator", "SeedSequence", "Philox", "PCG64", "BitGenerator"}
SEED_FILE = "basicsr/utils/seed.py"  # keeps and restores the global generators, for what third parties draw
DIST_FILE = "basicsr/utils/dist_util.py"  # unwraps DistributedDataParallel


@cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def library_files() -> list[Path]:
    return sorted((ROOT / "basicsr").rglob("*.py"))


def program_files() -> list[Path]:
    folders = [path for folder in ("scripts", "benchmarks") for path in (ROOT / folder).rglob("*.py")]
    return sorted([*library_files(), *folders, *ROOT.glob("*.py")])


def room_of(path: Path) -> str | None:
    """'utils' for basicsr/utils/seed.py, 'train' for basicsr/train.py, None for basicsr/__init__.py."""
    first = path.relative_to(ROOT / "basicsr").parts[0].removesuffix(".py")
    return None if first == "__init__" else first


def imported_modules(tree: ast.AST) -> Iterator[tuple[ast.stmt, str]]:
    """Each import in a tree, with the dotted name; `from a.b import c` gives a.b.c, which may be a name in a.b."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            yield from ((node, f"{node.module}.{alias.name}") for alias in node.names)


def dotted(node: ast.expr) -> str:
    """'np.random.rand' for that attribute chain; '' for anything that does not start at a name."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    return ".".join([node.id, *reversed(parts)]) if isinstance(node, ast.Name) else ""


def calls(path: Path) -> Iterator[tuple[ast.Call, str]]:
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call):
            yield node, dotted(node.func)


def place(path: Path, node: ast.AST) -> str:
    return f"{name_of(path)}:{getattr(node, 'lineno', 0)}"


def may_import(room: str, other: str) -> bool:
    if room == other or FLOOR[other] < FLOOR[room]:
        return True
    return other in NEIGHBOURS.get(room, set())


def test_there_is_something_to_judge():
    assert len(library_files()) > 30


def test_every_room_stands_on_a_floor():
    assert {room_of(path) for path in library_files()} - {None} <= set(FLOOR)


def test_imports_go_down_and_never_between_wings():
    wrong = []
    for path in library_files():
        room = room_of(path)
        for node, name in imported_modules(tree_of(path)):
            parts = name.split(".")
            if (
                parts[0] == "basicsr"
                and room
                and len(parts) > 1
                and parts[1] in FLOOR
                and not may_import(room, parts[1])
            ):
                wrong.append(f"{place(path, node)}: {room} (floor {FLOOR[room]}) imports {name}")
    assert wrong == []


def test_imports_inside_the_library_are_absolute():
    wrong = [
        place(path, node)
        for path in library_files()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.ImportFrom) and node.level > 0
    ]
    assert wrong == []


def test_every_basicsr_module_that_is_imported_is_ours():
    """PyPI's basicsr has files of the same names: what is imported must stand in this tree."""
    wrong = []
    for path in program_files():
        for node in ast.walk(tree_of(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            for name in names:
                target = ROOT / Path(*name.split("."))
                if name.split(".")[0] == "basicsr" and not (target.is_dir() or target.with_suffix(".py").exists()):
                    wrong.append(f"{name_of(path)}: {name}")
    assert wrong == []


def test_the_package_itself_imports_nothing_heavy():
    names = {name.split(".")[0] for _, name in imported_modules(tree_of(ROOT / "basicsr" / "__init__.py"))}
    assert names <= set(sys.stdlib_module_names)


def test_heavy_third_parties_are_imported_in_one_file_each():
    users: dict[str, set[str]] = defaultdict(set)
    for path in library_files():
        for _, name in imported_modules(tree_of(path)):
            users[name.split(".")[0]].add(name_of(path))
    assert {package: sorted(users[package]) for package in WRAPPED if len(users[package]) > 1} == {}
    assert NEVER_IMPORTED & set(users) == set()


def test_optional_third_parties_are_imported_only_when_called():
    wrong = [
        f"{name_of(path)}: {name}"
        for path in library_files()
        for statement in tree_of(path).body
        if isinstance(statement, ast.Import | ast.ImportFrom)
        for _, name in imported_modules(ast.Module([statement], []))
        if WRAPPED.get(name.split(".")[0])
    ]
    assert wrong == []


def test_every_file_says_what_it_holds():
    empty_allowed = [path for path in program_files() if path.name != "setup.py" and path.read_text(encoding="utf-8")]
    assert [name_of(path) for path in empty_allowed if not ast.get_docstring(tree_of(path))] == []


def test_the_library_does_not_print():
    assert [place(path, node) for path in library_files() for node, name in calls(path) if name == "print"] == []


def test_no_code_is_run_from_text_or_from_a_pickle():
    wrong = []
    for path in program_files():
        for node, name in calls(path):
            function = name.rpartition(".")[2]
            if name in ("eval", "exec", "compile", "__import__", "os.system"):
                wrong.append(f"{place(path, node)}: {name}")
            if name.startswith(("pickle.", "dill.", "joblib.", "marshal.")) or function in ("Unpickler", "unsafe_load"):
                wrong.append(f"{place(path, node)}: {name}")
            if any(keyword.arg == "shell" and is_true(keyword.value) for keyword in node.keywords):
                wrong.append(f"{place(path, node)}: shell=True")
            if any(keyword.arg == "allow_pickle" and is_true(keyword.value) for keyword in node.keywords):
                wrong.append(f"{place(path, node)}: allow_pickle=True")
    assert wrong == []


def is_true(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def test_torch_load_takes_weights_only():
    wrong = [
        place(path, node)
        for path in program_files()
        for node, name in calls(path)
        if name == "torch.load"
        and not any(keyword.arg == "weights_only" and is_true(keyword.value) for keyword in node.keywords)
    ]
    assert wrong == []


def test_yaml_is_read_with_a_safe_loader():
    text = "\n".join(path.read_text(encoding="utf-8") for path in program_files())
    for unsafe in ("yaml.Loader", "yaml.FullLoader", "yaml.UnsafeLoader", "yaml.full_load", "yaml.unsafe_load"):
        assert unsafe not in text


def test_randomness_is_handed_in():
    wrong = []
    for path in library_files():
        if name_of(path) == SEED_FILE:
            continue
        wrong += [place(path, node) for node, name in imported_modules(tree_of(path)) if name.split(".")[0] == "random"]
        for node in ast.walk(tree_of(path)):
            chain = dotted(node).split(".") if isinstance(node, ast.Attribute) else []
            if (
                len(chain) == 3
                and chain[0] in ("np", "numpy")
                and chain[1] == "random"
                and chain[2] not in OWN_RANDOMNESS
            ):
                wrong.append(f"{place(path, node)}: {'.'.join(chain)}")
    assert wrong == []


def test_no_file_of_ours_hides_one_of_the_standard_library():
    """`python basicsr/train.py` puts basicsr/ first on sys.path: a basicsr/logging.py would be everybody's logging."""
    direct = {path.stem for path in (ROOT / "basicsr").iterdir() if path.suffix == ".py" or path.is_dir()}
    assert direct & set(sys.stdlib_module_names) == set()


def test_distributed_wrappers_are_opened_in_one_file():
    wrong = [
        place(path, node)
        for path in library_files()
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.Attribute) and node.attr == "module" and name_of(path) != DIST_FILE
    ]
    assert wrong == []


def test_nothing_is_swallowed_and_no_attribute_is_guessed():
    wrong = []
    for path in program_files():
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ExceptHandler) and node.type is None:
                wrong.append(f"{name_of(path)}:{node.lineno}: bare except")
        for call, name in calls(path):
            if name == "hasattr" and call.args and dotted(call.args[0]) == "self":
                wrong.append(f"{place(path, call)}: hasattr(self, ...)")
    assert wrong == []


def test_a_todo_has_an_issue_number():
    mark = "TO" + "DO"
    wrong = [
        f"{name_of(path)}:{number}"
        for path in [*program_files(), *sorted((ROOT / "tests").rglob("*.py"))]
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if mark in line and "#" + "".join(filter(str.isdigit, line.split(mark, 1)[1][:8])) not in line.split(mark, 1)[1]
    ]
    assert wrong == []


def git(*arguments: str) -> list[str]:
    try:
        done = subprocess.run(["git", *arguments, "-z"], cwd=ROOT, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout: what would be committed is unknown")
    return [name for name in done.stdout.decode().split("\0") if name]


def tracked_names() -> list[str]:
    return [name for name in git("ls-files", "--cached", "--others", "--exclude-standard") if (ROOT / name).is_file()]


def test_no_file_in_the_repository_is_larger_than_500_kb_but_the_weights_of_the_demo():
    sizes = {name: (ROOT / name).stat().st_size for name in tracked_names() if not name.startswith(DEMO_WEIGHTS)}
    assert {name: size for name, size in sizes.items() if size > MAX_TRACKED_BYTES} == {}


def test_the_weights_of_the_demo_have_at_most_12_mb():
    sizes = [(ROOT / name).stat().st_size for name in tracked_names() if name.startswith(DEMO_WEIGHTS)]
    assert 0 < sum(sizes) <= MAX_DEMO_BYTES


def test_no_data_and_no_weights_but_those_of_the_demo_are_in_the_repository():
    names = [name for name in tracked_names() if not name.startswith(DEMO_WEIGHTS)]
    assert [name for name in names if name.endswith((".pth", ".onnx", ".safetensors", ".lmdb", ".tar"))] == []
    inside = [name for name in names if name.startswith(("weights/", "datasets/"))]
    assert set(inside) <= {"weights/README.md", "datasets/README.md"}
    demo = {name.removeprefix(DEMO_WEIGHTS) for name in tracked_names() if name.startswith(DEMO_WEIGHTS)}
    assert all(name in ("README.md", "SHA256SUMS") or name.endswith(".safetensors") for name in demo)
