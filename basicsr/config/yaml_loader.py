"""Option files: YAML in, one merged tree out that still knows the file and line of every key.

The YAML is the 1.2 core schema: `1e-4` is a number, `yes` and `on` are text, only true/false are booleans. A key given
twice is an error. `1e5` counts as the integer 100000, which every float option takes as well.

`_base_: file` (or a list of files; paths are relative to the file that says it) is read first, and the file's own keys
are merged over it: mapping into mapping, anything else replaces. `key: !replace {...}` replaces a mapping whole.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import yaml

from basicsr.utils.errors import OptionError

KeyPath = tuple[str | int, ...]
MAX_DEPTH = 32
_TAG = "tag:yaml.org,2002:"


class Origin(NamedTuple):
    """Where a key was written; `line` is None for the command line."""

    file: str
    line: int | None

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


@dataclass(frozen=True)
class Located:
    """A value with the place of its key. `value` is dict[str, Located], list[Located] or a scalar."""

    value: Any
    origin: Origin
    replace: bool = False

    def plain(self) -> Any:
        """The value without its places."""
        if isinstance(self.value, dict):
            return {key: child.plain() for key, child in self.value.items()}
        if isinstance(self.value, list):
            return [child.plain() for child in self.value]
        return self.value


class Dropped(NamedTuple):
    """A key of a `_base_` that went because the `type` of its mapping changed."""

    path: KeyPath
    origin: Origin
    new_type: str

    def __str__(self) -> str:
        return f"{dotted(self.path)} ({self.origin}): dropped, {self.new_type} takes no such argument"


# keep(path, old type, new type): the keys that stay when a mapping changes its type; None when all of them do.
Keep = Callable[[KeyPath, Any, Any], Collection[str] | None]


@dataclass
class OptionTree:
    """The merged options of one run, before they are checked."""

    root: Located
    dropped: list[Dropped] = field(default_factory=list)

    def find(self, path: KeyPath) -> Located | None:
        """The node at `path`, None when there is none."""
        node = self.root
        for key in path:
            try:
                node = node.value[key]
            except (KeyError, IndexError, TypeError):
                return None
        return node

    def origin(self, path: KeyPath) -> Origin:
        """Where the key at `path` was written, or the nearest key above it."""
        for length in range(len(path), 0, -1):
            node = self.find(path[:length])
            if node is not None:
                return node.origin
        return self.root.origin

    def take(self, path: KeyPath) -> Located | None:
        """Remove the node at `path` and return it."""
        parent = self.find(path[:-1])
        if parent is None or not isinstance(parent.value, dict):
            return None
        node: Located | None = parent.value.pop(path[-1], None)
        return node

    def put(self, path: KeyPath, node: Located) -> None:
        """Set the node at `path`; mappings on the way are made."""
        parent = self.root
        for key in path[:-1]:
            if not isinstance(parent.value.get(key), Located) or not isinstance(parent.value[key].value, dict):
                parent.value[key] = Located({}, node.origin)
            parent = parent.value[key]
        parent.value[path[-1]] = node

    def error(self, path: KeyPath, message: str) -> OptionError:
        """One line: the key, what is wrong with it, where it was written."""
        origin = self.origin(path)
        return OptionError(f"{dotted(path)}: {message} ({origin})" if path else f"{origin}: {message}")


def dotted(path: KeyPath) -> str:
    """`train.schedule[2].until`."""
    text = "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)
    return text.removeprefix(".")


def load_tree(path: str | os.PathLike[str], force_yml: Sequence[str] = (), keep: Keep | None = None) -> OptionTree:
    """Read an option file with its `_base_` files and the `a:b=c` changes of the command line merged in.

    The change `_base_=other.yml` puts the file's own keys over another file than the one that it names.

    Raises:
        OptionError: a file is missing or no YAML, a key stands twice, `_base_` goes round.
    """
    tree = OptionTree(Located({}, Origin(os.fspath(path), 1)))
    merger = _Merger(keep or (lambda _path, _old, _new: None), tree.dropped)
    changes = [parse_override(text) for text in force_yml]
    instead = [change.value.pop("_base_").plain() for change in changes if "_base_" in change.value]
    tree.root = merger.read(os.path.normpath(path), (), os.path.abspath(str(instead[-1])) if instead else None)
    for change in changes:
        tree.root = merger.merge(tree.root, change, ())
    return tree


def parse_override(text: str) -> Located:
    """`train:optim_g:lr=1e-4` as a tree. The value is YAML."""
    keys, equals, value = text.partition("=")
    names = [name.strip() for name in keys.split(":")]
    if not equals or not all(names):
        raise OptionError(f"--force_yml {text}: write key:key=value, for example train:optim_g:lr=1e-4.")
    node = _compose(value, Origin(f"--force_yml {text}", None))
    for name in reversed(names):
        node = Located({name: node}, node.origin)
    return node


class _Merger:
    """Files into one tree; remembers what a change of type dropped."""

    def __init__(self, keep: Keep, dropped: list[Dropped]) -> None:
        self.keep = keep
        self.dropped = dropped

    def read(self, path: str, above: tuple[str, ...], instead: str | None = None) -> Located:
        """The tree of a file with its `_base_` files (or `instead`) below it. `above`: the files that led here."""
        if any(os.path.realpath(path) == os.path.realpath(other) for other in above):
            raise OptionError(f"{above[0]}: _base_ goes round: {' -> '.join([*above, path])}")
        own = _compose(_read_text(path, above), Origin(path, 1))
        if not isinstance(own.value, dict):
            raise OptionError(f"{path}: not an option file: its top level is no mapping (or it is empty).")
        base = own.value.pop("_base_", None)
        base = base if instead is None else Located(instead, own.origin)
        tree = Located({}, own.origin)
        for node in [] if base is None else base.value if isinstance(base.value, list) else [base]:
            if not isinstance(node.value, str):
                raise OptionError(f"_base_: found {node.plain()!r}, expected a file or a list of files ({node.origin})")
            below = self.read(os.path.normpath(os.path.join(os.path.dirname(path), node.value)), (*above, path))
            tree = self.merge(tree, below, ())
        return self.merge(tree, own, ())

    def merge(self, base: Located, over: Located, path: KeyPath) -> Located:
        """`over` on top of `base`; neither is changed."""
        if over.replace or not isinstance(base.value, dict) or not isinstance(over.value, dict):
            return over
        merged = dict(base.value)
        if "type" in over.value:
            old = base.value["type"].value if "type" in base.value else None
            new = over.value["type"].value
            stay = self.keep(path, old, new)
            for key in [] if stay is None else [key for key in merged if key != "type" and key not in stay]:
                self.dropped.append(Dropped((*path, key), merged.pop(key).origin, str(new)))
        for key, node in over.value.items():
            merged[key] = self.merge(merged[key], node, (*path, key)) if key in merged else node
        return Located(merged, over.origin)


class _Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML ships no types
    """Composes nodes by the YAML 1.2 core schema."""

    yaml_implicit_resolvers: ClassVar[dict[str, list[Any]]] = {}


for _name, _pattern, _first in (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]+|0o[0-7]+|0x[0-9a-fA-F]+", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+0123456789.")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
):
    _Loader.add_implicit_resolver(_TAG + _name, re.compile(rf"(?:{_pattern})\Z"), _first)


RESOLVERS: dict[str, list[Any]] = _Loader.yaml_implicit_resolvers


def _read_text(path: str, above: tuple[str, ...]) -> str:
    """The text of an option file, or the reason why there is none."""
    said_by = f" ({above[-1]} names it as _base_)" if above else ""
    try:
        return Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        near = sorted(str(file) for file in Path(path).parent.glob("*.yml"))
        hint = f" There: {', '.join(near[:8])}." if near else ""
        raise OptionError(f"{path}: no such option file{said_by}.{hint}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(f"{path}: cannot be read as text{said_by}: {error}") from error


def _compose(text: str, origin: Origin) -> Located:
    """YAML text to a located tree. Lines are counted when the origin is a file."""
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = Origin(origin.file, mark.line + 1) if mark is not None and origin.line else origin
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise OptionError(f"{place}: not valid YAML: {reason}.") from error
    return Located(None, origin) if node is None else _located(node, origin, 0)


def _located(node: Any, origin: Origin, depth: int) -> Located:
    """A YAML node with the place `origin` of its key."""
    if depth > MAX_DEPTH:
        raise OptionError(f"{origin}: nested more than {MAX_DEPTH} deep, or an anchor that contains itself.")
    replace = node.tag == "!replace"
    if isinstance(node, yaml.MappingNode) and (replace or node.tag == f"{_TAG}map"):
        return Located(_mapping(node, origin, depth), origin, replace)
    if isinstance(node, yaml.SequenceNode) and node.tag == f"{_TAG}seq":
        return Located([_located(child, _at(child, origin), depth + 1) for child in node.value], origin)
    if isinstance(node, yaml.ScalarNode):
        return Located(_scalar(node, origin), origin)
    raise OptionError(f"{_at(node, origin)}: the tag {node.tag} is not allowed here.")


def _mapping(node: Any, origin: Origin, depth: int) -> dict[str, Located]:
    entries: dict[str, Located] = {}
    for key_node, value_node in node.value:
        place = _at(key_node, origin)
        key = _scalar(key_node, place) if isinstance(key_node, yaml.ScalarNode) else None
        if not isinstance(key, str):
            raise OptionError(f"{place}: a key must be text, found {key_node.value!r}; put it in quotes.")
        if key in entries:
            raise OptionError(f"{place}: the key '{key}' stands twice, first in {entries[key].origin}.")
        entries[key] = _located(value_node, place, depth + 1)
    return entries


def _scalar(node: Any, origin: Origin) -> str | int | float | bool | None:
    """The value of a scalar node by its tag."""
    text: str = node.value
    kind = node.tag.removeprefix(_TAG)
    try:
        if kind == "null":
            return None
        if kind == "bool":
            return {"true": True, "false": False}[text.lower()]
        if kind == "int":
            return int(text, 0) if text.startswith(("0o", "0x")) else int(text)
        if kind == "float":
            return _number(text)
    except (ValueError, KeyError):
        raise OptionError(f"{_at(node, origin)}: '{text}' is no {kind}.") from None
    if kind != "str":
        raise OptionError(f"{_at(node, origin)}: the tag {node.tag} is not allowed here.")
    return text


def _number(text: str) -> int | float:
    """A float; an integer when written with an exponent and whole (5e3: 5000)."""
    value = float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    whole = "e" in text.lower() and math.isfinite(value) and value.is_integer() and abs(value) < 2**53
    return int(value) if whole else value


def _at(node: Any, origin: Origin) -> Origin:
    """The line of `node` in the file of `origin`."""
    return origin if origin.line is None else Origin(origin.file, node.start_mark.line + 1)
