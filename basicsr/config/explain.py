"""Options as text: the resolved YAML of a run, and the page that documents every option (Markdown).

The page is read off the structs and signatures that check the options, so it cannot say anything else than they do:
meanings of the trunk are in options.py, those of registered classes in the `Args:` of their docstrings.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import msgspec
import yaml

from basicsr.config.legacy import LEGACY, LEGACY_TYPES
from basicsr.config.options import DatasetSpec, LoaderOptions, Options, plain_value, to_plain, yaml_keys
from basicsr.config.schema import (
    DEFAULT_LOSS_TYPES,
    REGISTRIES,
    Registries,
    Schema,
    allowed_losses,
    class_arguments,
    is_mapping_type,
    restore_arguments,
    stage_arguments,
    structs_in,
    tag_of,
)
from basicsr.config.yaml_loader import RESOLVERS, load_tree
from basicsr.utils.registry import Registry

INTRODUCTION = """# Options

Written by `python basicsr/train.py --explain`; do not edit. `--dry-run` prints the resolved options of one file.

- `_base_: other.yml` (or a list; paths are relative to the file) reads that file first; the file's own keys go over it.
  A mapping whose `type` changes keeps only the keys that the new class takes too (`-opt FILE --explain` lists the
  dropped ones). `key: !replace {...}` replaces a mapping whole.
- `~` turns a thing off, where its type says `or ~`.
- `--force_yml train:optim_g:lr=1e-4` changes a key from the command line; the value is YAML. `_base_=other.yml` there
  puts the file's own keys over that file in the place of its own `_base_`: an ablation row over another run.
- A default of *required* means that the key must be given.
"""

# Arguments that mean the same everywhere; a docstring may say more.
COMMON_MEANINGS = {"loss_weight": "factor on the loss", "reduction": "over the elements"}

Row = tuple[str, str, str, str]  # key, type, default, meaning


class _Dumper(yaml.SafeDumper):  # type: ignore[misc]  # PyYAML ships no types
    """Writes YAML that both our loader (1.2) and a 1.1 loader read alike: text that either takes for more is quoted."""

    yaml_implicit_resolvers = {
        key: [*RESOLVERS.get(key, []), *yaml.SafeDumper.yaml_implicit_resolvers.get(key, [])]
        for key in {*RESOLVERS, *yaml.SafeDumper.yaml_implicit_resolvers}
    }

    def ignore_aliases(self, data: Any) -> bool:
        """No anchors: a list that stands twice is written twice."""
        return True


def resolved(options: Options) -> str:
    """The options as YAML, all defaults written out. Parsing it gives equal options."""
    text: str = yaml.dump(to_plain(options), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)
    return text


def explain(
    registries: Registries = REGISTRIES, path: str | os.PathLike[str] | None = None, force_yml: Sequence[str] = ()
) -> str:
    """The page of all options; with an option file, also what its changes of type dropped."""
    parts = [INTRODUCTION, *_trunk(), *_stages(registries)]
    for title, registry, where in (
        ("Networks", registries.arch, "`type` in `network_g`, `network_d`, `network_vqgan`"),
        (
            "Data sets",
            registries.dataset,
            "`type` in `datasets.*`; a set that takes `seed` gets `manual_seed` by default",
        ),
        ("Losses", registries.loss, "`type` in `train.*_opt`"),
        ("Metrics", registries.metric, "`type` in `val.metrics.*`"),
    ):
        parts.append(f"## {title}\n\n{where[0].upper()}{where[1:]}.\n")
        for cls, names in classes_of(registry):
            parts.append(_class_section(cls, names))
    parts.append(_legacy())
    if path is not None:
        dropped = load_tree(path, force_yml, Schema(registries).keep).dropped
        lines = [f"- {line}" for line in dropped] or ["- none"]
        parts.append(f"## Keys that a change of `type` dropped in {os.fspath(path)}\n\n" + "\n".join(lines) + "\n")
    return "\n".join(parts)


def classes_of(registry: Registry) -> Iterator[tuple[type, list[str]]]:
    """Each registered class with its names, its own name first."""
    names: dict[type, list[str]] = {}
    for name in registry.names():
        names.setdefault(registry.get(name), []).append(name)
    for cls in sorted(names, key=lambda cls: cls.__name__):
        yield cls, sorted(names[cls], key=lambda name: (name != cls.__name__, name))


def _trunk() -> Iterator[str]:
    """Tables of the structs, from the top."""
    yield f"## Top level\n\n{_table(_struct_rows(Options))}"
    for key, hint in typing.get_type_hints(Options, include_extras=True).items():
        for struct in structs_in(hint):
            yield from _struct_section(f"`{key}`", struct)
    yield f"## `datasets.*`\n\n{_summary(DatasetSpec)}\n\n{_table(_struct_rows(LoaderOptions))}"


def _struct_section(title: str, struct: type[msgspec.Struct]) -> Iterator[str]:
    yield f"## {title}\n\n{_summary(struct)}\n\n{_table(_struct_rows(struct))}"
    below: dict[type[msgspec.Struct], list[str]] = {}
    for key, hint in typing.get_type_hints(struct, include_extras=True).items():
        for inner in structs_in(hint):
            below.setdefault(inner, []).append(f"`{title.strip('`')}.{key}`")
    for inner, titles in below.items():
        chosen_by = "" if tag_of(inner) is None else f": `type: {tag_of(inner)}`"
        yield f"### {', '.join(titles)}{chosen_by}\n\n{_summary(inner)}\n\n{_table(_struct_rows(inner))}"


def _struct_rows(struct: type[msgspec.Struct]) -> Iterator[Row]:
    hints = typing.get_type_hints(struct, include_extras=True)
    shown = yaml_keys(struct)
    for field in msgspec.structs.fields(struct):
        if field.name in shown:
            yield field.name, type_text(hints[field.name]), _field_default(field), _description(hints[field.name])


def _stages(registries: Registries) -> Iterator[str]:
    """One section for each stage: its keys in `train` and `val`."""
    yield "## Stages\n\n`model_type`. The keys stand flat under `train` and `val`.\n"
    for cls, names in classes_of(registries.model):
        meanings = argument_docs(cls) | argument_docs(getattr(cls, "restore", None))
        rows = [*_argument_rows(stage_arguments(cls), meanings, "train.")]
        losses = allowed_losses(cls)
        rows += [(f"train.{key}", "loss", "~", _default_type(key)) for key in sorted(losses or ())]
        rows += _argument_rows(restore_arguments(cls), meanings, "val.")
        yield f"### {_names(names)}\n\n{_summary(cls)}\n\n{_table(rows)}"


def _default_type(key: str) -> str:
    """What a `*_opt` without `type` means."""
    name = DEFAULT_LOSS_TYPES.get(key)
    return f"`type` is {name} by default" if name else "`type` chooses one of the losses below"


def _class_section(cls: type, names: list[str]) -> str:
    return (
        f"### {_names(names)}\n\n{_summary(cls)}\n\n{_table(_argument_rows(class_arguments(cls), argument_docs(cls)))}"
    )


def _argument_rows(
    parameters: Mapping[str, inspect.Parameter], meanings: Mapping[str, str], prefix: str = ""
) -> Iterator[Row]:
    """A row for each argument, and below it those of the mappings that it takes."""
    for name, parameter in parameters.items():
        required = parameter.default is inspect.Parameter.empty
        default = "*required*" if required else _default(parameter.default)
        yield f"{prefix}{name}", type_text(parameter.annotation), default, meanings.get(name, "")
        yield from _inner_rows(parameter.annotation, f"{prefix}{name}")


def _inner_rows(hint: Any, prefix: str) -> Iterator[Row]:
    """Rows of the dataclasses and structs inside an annotation."""
    prefix = f"{prefix}[]" if typing.get_origin(hint) in (list, tuple) else prefix
    if not is_mapping_type(hint):
        for part in typing.get_args(hint):
            yield from _inner_rows(part, prefix)
        return
    hints, meanings = typing.get_type_hints(hint, include_extras=True), argument_docs(hint)
    fields: Sequence[Any] = (
        msgspec.structs.fields(hint) if issubclass(hint, msgspec.Struct) else dataclasses.fields(hint)
    )
    for field in fields:
        key, inner = f"{prefix}.{field.name}", hints[field.name]
        yield key, type_text(inner), _field_default(field), _description(inner) or meanings.get(field.name, "")
        yield from _inner_rows(inner, key)


def _field_default(field: Any) -> str:
    """The default of a field of a struct or dataclass, as text."""
    unset = (msgspec.NODEFAULT, dataclasses.MISSING)
    if field.default_factory not in unset:
        return _default(field.default_factory())
    return "*required*" if field.default in unset else _default(field.default)


def type_text(hint: Any) -> str:
    """A type in the words of the YAML: `float or ~`, `[int, int]`, `none or soft`, `mapping`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if hint is None or hint is type(None):
        return "~"
    if hint is Any:
        return "anything"
    if origin is typing.Annotated:
        return type_text(args[0])
    if origin in (typing.Union, types.UnionType):
        texts = dict.fromkeys(type_text(part) for part in sorted(args, key=lambda part: part is type(None)))
        return " or ".join(texts)
    if origin is Literal:
        return " or ".join(str(value) for value in args)
    if origin is tuple and args[-1] is not Ellipsis:
        return f"[{', '.join(type_text(part) for part in args)}]"
    if origin in (list, tuple) or (isinstance(origin, type) and issubclass(origin, Sequence)):
        return f"list of {type_text(args[0])}"
    if origin is dict or is_mapping_type(hint) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        return "mapping"
    return {str: "text", bool: "true or false"}.get(hint, getattr(hint, "__name__", str(hint)))


def argument_docs(target: Any) -> dict[str, str]:
    """Meaning of each argument: from the `Args:` of a function, or of a class, its bases and their constructors."""
    classes = [cls for cls in reversed(inspect.getmro(target)) if cls is not object] if inspect.isclass(target) else []
    sources = [source for cls in classes for source in (cls, vars(cls).get("__init__"))] or [target]
    texts = [getattr(source, "__doc__", None) or "" for source in sources]
    meanings = dict(COMMON_MEANINGS)
    for text in texts:
        block = re.search(r"^(?:Args|Attributes):\n((?:(?: +.*)?\n?)*)", inspect.cleandoc(text), re.MULTILINE)
        for entry in re.split(r"\n(?= {4}\S)", "\n" + block.group(1).rstrip())[1:] if block else []:
            names, colon, meaning = entry.partition(":")
            if colon:
                said = " ".join(meaning.split()).rstrip(".")
                meanings |= {name.split("(")[0].strip(" `*"): said for name in names.split(",")}
    return meanings


def _default(value: Any) -> str:
    """A default as YAML in one line; a mapping's keys have rows of their own."""
    if is_mapping_type(type(value)):
        return "see below"
    text: str = yaml.dump(plain_value(value), Dumper=_Dumper, default_flow_style=True, width=10_000)
    text = text.removesuffix("...\n").strip()
    return {"null": "~", "''": '""'}.get(text, text)


def _description(hint: Any) -> str:
    """The documentation in an annotation."""
    metas = typing.get_args(hint)[1:] if typing.get_origin(hint) is typing.Annotated else ()
    return next((meta.description for meta in metas if isinstance(meta, msgspec.Meta) and meta.description), "")


def _summary(target: Any) -> str:
    """The first paragraph of a docstring, in one line."""
    return " ".join((inspect.getdoc(target) or "").split("\n\n")[0].split())


def _names(names: list[str]) -> str:
    also = ", ".join(f"`{name}`" for name in names[1:])
    return f"`{names[0]}`" + (f" (also {also})" if also else "")


def _table(rows: Iterator[Row] | Sequence[Row]) -> str:
    cells = [(f"`{key}`", kind, default, meaning) for key, kind, default, meaning in rows]
    if not cells:
        return "No keys.\n"
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
    return "\n".join(lines) + "\n"


def _legacy() -> str:
    """What becomes of upstream's keys."""
    lines = ["## Keys of upstream's files\n\nRead with one warning line each. Any other unknown key is an error.\n"]
    lines += ["| old key | becomes |", "|---|---|"]
    for rule in LEGACY:
        becomes = " or ".join(f"`{place}`" for place in rule.new) or f"ignored: {rule.why}"
        only = "" if rule.only is None else f" (only when it is {' or '.join(map(_default, rule.only))})"
        lines.append(f"| `{rule.old}` | {becomes}{only} |")
    for key, renamed in LEGACY_TYPES.items():
        lines += [f"| `{key}: {old}` | `{new}` |" for old, new in renamed.items()]
    return "\n".join(lines) + "\n"
