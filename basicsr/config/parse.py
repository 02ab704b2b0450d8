"""From an option file to checked, frozen Options: everything is bound before anything is built.

The trunk is checked against the structs of options.py, each leaf against the signature of the class that its `type`
names. What a stage (a class in MODEL_REGISTRY) offers to the YAML are the keyword-only arguments of its `__init__`
(under `train`) and of its `restore` (under `val`). As class attributes it may name its needs, each a frozenset[str]:
REQUIRED_NETWORKS and REQUIRED_WEIGHTS (`network_*` keys), ALLOWED_LOSSES (`*_opt` keys); as a class method
`check_arguments`, which refuses ranges and combinations of its arguments.
"""

from __future__ import annotations

import inspect
import logging
import os
import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import msgspec

from basicsr.config.checks import check_name, check_needs, check_ranges, check_recognizers, missing_files
from basicsr.config.legacy import apply_legacy
from basicsr.config.options import (
    DatasetSpec,
    LoaderOptions,
    Options,
    Spec,
    TrainOptions,
    ValOptions,
    phase_of,
    plain_value,
    yaml_keys,
)
from basicsr.config.schema import (
    DEFAULT_LOSS_TYPES,
    REGISTRIES,
    Parameters,
    Registries,
    Schema,
    allowed_losses,
    bare,
    class_arguments,
    restore_arguments,
    shown,
    stage_arguments,
    structs_in,
    tag_of,
    unknown_keys,
)
from basicsr.config.yaml_loader import KeyPath, OptionTree, load_tree
from basicsr.utils.errors import OptionError
from basicsr.utils.registry import Registry, SpecError, bind_arguments
from basicsr.utils.signature import allows_none, did_you_mean, parameters_of

logger = logging.getLogger(__name__)

Section = TypeVar("Section", bound=msgspec.Struct)


def parse_options(
    path: str | os.PathLike[str],
    force_yml: Sequence[str] = (),
    registries: Registries = REGISTRIES,
    check_files: bool = True,
) -> Options:
    """Read, merge and check an option file.

    Args:
        force_yml: changes from the command line, `key:key=value`.
        registries: where names are looked up. The packages that fill them must have been imported.
        check_files: whether the weights that the file names must exist now.
    Raises:
        OptionError: one line with the key, the fault, the way out and file:line.
    """
    schema = Schema(registries)
    tree = load_tree(path, force_yml, schema.keep)
    for dropped in tree.dropped:
        logger.info("%s", dropped)
    for line in apply_legacy(tree, schema):
        logger.warning("%s", line)
    options = _Binder(tree, registries).options()
    stage = registries.model.get(options.model_type)
    check_name(options, tree.error)
    check_needs(options, stage, registries, tree.error)
    check_ranges(options, stage, registries, tree.error)
    check_recognizers(options, registries, tree.error)
    if check_files:
        for key, message in missing_files(options):
            raise tree.error(key, message)
    return options


class _Binder:
    """Turns a located tree into structs, key by key."""

    def __init__(self, tree: OptionTree, registries: Registries) -> None:
        self.tree = tree
        self.registries = registries

    def options(self) -> Options:
        """The whole file."""
        raw = self.mapping(())
        self.check_known((), raw, yaml_keys(Options), "no such option.")
        stage = self.stage_class(raw)
        ready: dict[str, Any] = {"datasets": self.datasets()}
        for key in ("network_g", "network_d", "network_vqgan"):
            if raw.get(key) is not None:
                ready[key] = self.leaf((key,), self.registries.arch)
        if raw.get("train") is not None:
            ready["train"] = self.train(stage)
        if raw.get("val") is not None:
            ready["val"] = self.val(stage)
        return self.section(Options, (), raw, ready)

    def stage_class(self, raw: Mapping[str, Any]) -> type:
        """The class that `model_type` names."""
        name = raw.get("model_type")
        if not isinstance(name, str):
            known = ", ".join(self.registries.model.names())
            raise self.tree.error((), f"'model_type' is missing: which stage? Known: {known}.")
        try:
            return self.registries.model.get(name)
        except SpecError as error:
            raise self.tree.error(("model_type",), error.message) from error

    def datasets(self) -> dict[str, DatasetSpec]:
        """The entries of `datasets` that are on. A set that takes a seed and states none gets manual_seed."""
        entries: dict[str, DatasetSpec] = {}
        seed = self.mapping(()).get("manual_seed", 0)
        for key, raw in self.mapping(("datasets",)).items():
            path: KeyPath = ("datasets", key)
            try:
                phase = phase_of(key)
            except OptionError as error:
                raise self.tree.error(path, str(error)) from error
            if raw is None:
                continue
            if phase == "train" and any(entry.phase == "train" for entry in entries.values()):
                raise self.tree.error(path, "a run has one training set; this is the second.")
            loader_keys = yaml_keys(LoaderOptions)
            spec = self.leaf(path, self.registries.dataset, beside=loader_keys, defaults={"seed": seed})
            loader = self.section(LoaderOptions, path, {name: raw[name] for name in loader_keys if name in raw})
            entries[key] = DatasetSpec(key=key, loader=loader, spec=spec)
        return entries

    def train(self, stage: type) -> TrainOptions:
        """`train`: engine keys, losses, and what is left belongs to the stage."""
        path: KeyPath = ("train",)
        raw = self.mapping(path)
        engine, settable, allowed = yaml_keys(TrainOptions), stage_arguments(stage), allowed_losses(stage)
        losses = {key for key in raw if key.endswith("_opt")} if allowed is None else allowed
        self.check_known(path, raw, [*engine, *settable, *losses], f"{stage.__name__} takes no such key.")
        built = {
            key: self.leaf((*path, key), self.registries.loss, {"type": DEFAULT_LOSS_TYPES.get(key)})
            for key in raw
            if key in losses and raw[key] is not None
        }
        arguments = {key: value for key, value in raw.items() if key in settable}
        ready = {"losses": built, "stage": self.bound(path, stage, arguments, settable)}
        return self.section(TrainOptions, path, {key: raw[key] for key in engine if key in raw}, ready)

    def val(self, stage: type) -> ValOptions:
        """`val`: its own keys, the metrics, and what is left belongs to the stage's `restore`."""
        path: KeyPath = ("val",)
        raw = self.mapping(path)
        own, settable = yaml_keys(ValOptions), restore_arguments(stage)
        self.check_known(path, raw, [*own, *settable], f"validation of {stage.__name__} takes no such key.")
        ready: dict[str, Any] = {"restore": {}, "metrics": {}}
        if settable:
            arguments = {key: value for key, value in raw.items() if key in settable}
            ready["restore"] = self.bound(path, getattr(stage, "restore"), arguments, settable)  # noqa: B009
        if raw.get("metrics") is not None:
            for key, entry in self.mapping((*path, "metrics")).items():
                if entry is not None:
                    ready["metrics"][key] = self.leaf((*path, "metrics", key), self.registries.metric)
        return self.section(ValOptions, path, {key: raw[key] for key in own if key in raw}, ready)

    def leaf(
        self, path: KeyPath, registry: Registry, defaults: Mapping[str, Any] | None = None, beside: Sequence[str] = ()
    ) -> Spec:
        """A checked mapping with `type`, the defaults of its class filled in.

        Args:
            defaults: values of keys that the file leaves out, before the defaults of the class.
            beside: keys of the mapping that are not for the class.
        """
        raw = {**{key: value for key, value in (defaults or {}).items() if value is not None}, **self.mapping(path)}
        name = raw.get("type")
        if not isinstance(name, str):
            known = ", ".join(registry.names())
            raise self.tree.error(path, f"'type' is missing: which {registry.kind}? Known: {known}.")
        try:
            cls = registry.get(name)
        except SpecError as error:
            raise self.tree.error((*path, *error.path), error.message) from error
        settable = class_arguments(cls)
        written = self.mapping(path).keys() - {"type"}
        self.check_known(path, sorted(written), [*settable, *beside], f"{cls.__name__} takes no such argument.")
        arguments = {key: value for key, value in raw.items() if key in settable}
        return {"type": name, **self.bound(path, cls, arguments, settable)}

    def bound(
        self, path: KeyPath, target: Callable[..., Any], arguments: dict[str, Any], settable: Parameters
    ) -> dict[str, Any]:
        """`arguments` checked against `target`, with its defaults filled in, as plain values."""
        try:
            bind_arguments(target, arguments, parameters_of(target).keys() - settable.keys())
        except SpecError as error:
            raise self.tree.error(self.located((*path, *error.path)), error.message) from error
        except OptionError as error:  # a check of the arguments' own, such as that of a dataclass
            raise self.tree.error(path, str(error)) from error
        for name, value in arguments.items():
            for inner, known in unknown_keys(value, settable[name].annotation):
                hint = did_you_mean(str(inner[-1]), known)
                raise self.tree.error((*path, name, *inner), f"no such key.{hint}")
        defaults = {
            name: plain_value(parameter.default)
            for name, parameter in settable.items()
            if name not in arguments and parameter.default is not inspect.Parameter.empty
        }
        return {**arguments, **defaults}

    def section(
        self, struct: type[Section], path: KeyPath, raw: Mapping[str, Any], ready: Mapping[str, Any] | None = None
    ) -> Section:
        """A struct of the trunk from the raw mapping at `path`; the fields in `ready` are built already."""
        hints = typing.get_type_hints(struct, include_extras=True)
        self.check_known(path, raw, yaml_keys(struct), "no such key.")
        built = dict(ready or {})
        for field in msgspec.structs.fields(struct):
            if field.name in built:
                continue
            if field.name in raw:
                built[field.name] = self.value((*path, field.name), raw[field.name], hints[field.name])
            elif field.required:
                raise self.tree.error(path, f"'{field.name}' is missing.")
        try:
            return struct(**built)
        except ValueError as error:
            raise self.tree.error(path, str(error)) from error

    def value(self, path: KeyPath, value: Any, hint: Any) -> Any:
        """One value of the trunk: a section, or a plain value of the annotated type."""
        if value is None:
            if allows_none(bare(hint)):
                return None
            raise self.tree.error(path, "'~' turns nothing off here: a value is needed.")
        if structs := structs_in(hint):
            return self.section(*self.chosen(path, structs))
        try:
            return msgspec.convert(value, hint)
        except msgspec.ValidationError as error:
            reason, _, place = str(error).partition(" - at `$")
            inner = [int(part) for part in place.strip("[]`").split("][") if part.isdigit()]
            found = self.tree.find((*path, *inner))
            expected = reason.partition(", got")[0].replace("Expected", "expected").replace("`", "")
            raise self.tree.error(
                (*path, *inner), f"found {shown(found.plain() if found else value)}, {expected}."
            ) from error

    def chosen(
        self, path: KeyPath, structs: list[type[msgspec.Struct]]
    ) -> tuple[type[msgspec.Struct], KeyPath, dict[str, Any]]:
        """Arguments of `section` for the struct that `type` chooses."""
        raw = self.mapping(path)
        tags = {tag_of(struct): struct for struct in structs}
        if None in tags:
            return structs[0], path, raw
        name = raw.pop("type", None)
        if name not in tags:
            hint = did_you_mean(str(name), [tag for tag in tags if tag])
            where, message = (path, "'type' is missing.") if name is None else ((*path, "type"), f"found {name!r}.")
            raise self.tree.error(where, f"{message}{hint}")
        return tags[name], path, raw

    def located(self, path: KeyPath) -> KeyPath:
        """`path` with numbers where the tree has lists."""
        found: list[str | int] = []
        for key in path:
            node = self.tree.find(tuple(found))
            found.append(int(key) if node is not None and isinstance(node.value, list) else key)
        return tuple(found)

    def mapping(self, path: KeyPath) -> dict[str, Any]:
        """The plain mapping at `path`; an error when something else stands there."""
        node = self.tree.find(path)
        if node is None:
            raise self.tree.error(path[:-1], f"'{path[-1]}' is missing.")
        if not isinstance(node.value, dict):
            raise self.tree.error(path, f"found {shown(node.plain())}, expected a mapping.")
        plain: dict[str, Any] = node.plain()
        return plain

    def check_known(self, path: KeyPath, names: Iterable[str], known: Iterable[str], message: str) -> None:
        """Raise for the first of `names` that is not known."""
        candidates = list(known)
        for name in names:
            if name not in candidates:
                raise self.tree.error((*path, name), f"{message}{did_you_mean(name, candidates)}")
