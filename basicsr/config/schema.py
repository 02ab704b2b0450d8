"""What may stand where in an option file: read off the registered classes and the structs of options.py."""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

import msgspec

from basicsr.config.options import (
    LoaderOptions,
    LoggerOptions,
    Options,
    PathOptions,
    TrainOptions,
    ValOptions,
    yaml_keys,
)
from basicsr.config.yaml_loader import KeyPath, OptionTree
from basicsr.utils.registry import (
    ARCH_REGISTRY,
    DATASET_REGISTRY,
    LOSS_REGISTRY,
    METRIC_REGISTRY,
    MODEL_REGISTRY,
    Registry,
)
from basicsr.utils.signature import parameters_of

Parameters = dict[str, inspect.Parameter]

# Arguments that code hands to a loss; the YAML neither can nor need give them.
INJECTED = frozenset({"network_identity"})
# `code_opt: {loss_weight: 0.5}` is enough where only one class makes sense.
DEFAULT_LOSS_TYPES = {"code_opt": "CodeCrossEntropyLoss", "feat_opt": "CodeFeatureLoss", "identity_opt": "IdentityLoss"}

# The mappings of the trunk that have no `type`.
SECTIONS: dict[KeyPath, type[msgspec.Struct]] = {
    (): Options,
    ("path",): PathOptions,
    ("train",): TrainOptions,
    ("val",): ValOptions,
    ("logger",): LoggerOptions,
}


class Registries(NamedTuple):
    """Where the names in an option file are looked up."""

    arch: Registry = ARCH_REGISTRY
    dataset: Registry = DATASET_REGISTRY
    model: Registry = MODEL_REGISTRY
    loss: Registry = LOSS_REGISTRY
    metric: Registry = METRIC_REGISTRY


REGISTRIES = Registries()


class Schema:
    """Questions on the option tree that the registries answer."""

    def __init__(self, registries: Registries) -> None:
        self.registries = registries

    def registry_at(self, path: KeyPath) -> Registry | None:
        """The registry that explains `type` in the mapping at `path`; None where it means nothing registered."""
        match path:
            case ("network_g" | "network_d" | "network_vqgan",):
                return self.registries.arch
            case ("datasets", _):
                return self.registries.dataset
            case ("train", str(key)) if key.endswith("_opt"):
                return self.registries.loss
            case ("val", "metrics", _):
                return self.registries.metric
        return None

    def keys_at(self, path: KeyPath, type_name: Any) -> Collection[str] | None:
        """The keys that the mapping at `path` takes when its type is `type_name`; None when that is not known."""
        registry = self.registry_at(path)
        if registry is None:
            return next((yaml_keys(struct) for struct in tagged_structs(path) if tag_of(struct) == type_name), None)
        if type_name not in registry.names():
            return None
        loader = yaml_keys(LoaderOptions) if registry is self.registries.dataset else ()
        return {*class_arguments(registry.get(type_name)), *loader}

    def keep(self, path: KeyPath, old: Any, new: Any) -> Collection[str] | None:
        """The keys of a `_base_` mapping that stay when its type becomes `new`; None when all do."""
        old = DEFAULT_LOSS_TYPES.get(str(path[-1])) if old is None and path else old
        registry = self.registry_at(path)
        if old is None or old == new:
            return None
        if registry is not None and {old, new} <= set(registry.names()) and registry.get(old) is registry.get(new):
            return None
        return self.keys_at(path, new)

    def takes(self, tree: OptionTree, path: KeyPath) -> bool:
        """Whether something takes the key at the end of `path` today."""
        parent = path[:-1]
        if parent in SECTIONS:
            return path[-1] in {*yaml_keys(SECTIONS[parent]), *self._stage_keys(tree, parent)}
        node = tree.find((*parent, "type"))
        name = DEFAULT_LOSS_TYPES.get(str(parent[-1])) if node is None else node.value
        return path[-1] in (self.keys_at(parent, name) or ())

    def _stage_keys(self, tree: OptionTree, section: KeyPath) -> Collection[str]:
        """The keys of the stage in `train` and `val`."""
        node = tree.find(("model_type",))
        if node is None or node.value not in self.registries.model.names():
            return ()
        stage = self.registries.model.get(node.value)
        if section == ("train",):
            return {*stage_arguments(stage), *(allowed_losses(stage) or ())}
        return restore_arguments(stage) if section == ("val",) else ()


def class_arguments(cls: Callable[..., Any]) -> Parameters:
    """The arguments of a registered class that the YAML may give."""
    return {name: p for name, p in parameters_of(cls).items() if name not in INJECTED}


def stage_arguments(stage: type) -> Parameters:
    """The keyword-only arguments of a stage: its keys under `train`."""
    return _keyword_only(parameters_of(stage))


def restore_arguments(stage: type) -> Parameters:
    """The keyword-only arguments of a stage's `restore`: its keys under `val`."""
    restore = getattr(stage, "restore", None)
    return {} if restore is None else _keyword_only(parameters_of(restore))


def allowed_losses(stage: type) -> frozenset[str] | None:
    """The `*_opt` names that a stage knows; None when it does not say."""
    return getattr(stage, "ALLOWED_LOSSES", None)


def tagged_structs(path: KeyPath) -> list[type[msgspec.Struct]]:
    """The structs among which `type` chooses in the trunk: optimisers and schedulers."""
    if len(path) != 2 or path[0] != "train":
        return []
    hint = typing.get_type_hints(TrainOptions).get(str(path[1]))
    return structs_in(hint)


def shown(value: Any) -> str:
    """A value as an error message quotes it."""
    return "~" if value is None else repr(value)


def bare(hint: Any) -> Any:
    """The type below the documentation and limits of an annotation."""
    return typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint


def structs_in(hint: Any) -> list[type[msgspec.Struct]]:
    """The structs of a field: one section, or several of which `type` chooses one."""
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return [hint]
    if typing.get_origin(hint) in (dict, list, tuple):
        return []
    return [struct for part in typing.get_args(hint) for struct in structs_in(part)]


def is_mapping_type(hint: Any) -> bool:
    """Whether values of this type are written as mappings with fixed keys."""
    return isinstance(hint, type) and (dataclasses.is_dataclass(hint) or issubclass(hint, msgspec.Struct))


def unknown_keys(value: Any, hint: Any, path: KeyPath = ()) -> Iterator[tuple[KeyPath, list[str]]]:
    """(path, keys there are) of each key in `value` that the dataclasses in `hint` do not have.

    msgspec refuses unknown keys of its own structs alone; for a dataclass it would drop a misspelled key in silence.
    """
    if isinstance(value, list) and typing.get_args(hint):
        for number, item in enumerate(value):
            for part in typing.get_args(hint):
                yield from unknown_keys(item, part, (*path, number))
    elif isinstance(value, dict) and dataclasses.is_dataclass(hint):
        hints = typing.get_type_hints(hint)
        for key, item in value.items():
            if key in hints:
                yield from unknown_keys(item, hints[key], (*path, key))
            else:
                yield (*path, key), list(hints)
    elif isinstance(value, dict) and typing.get_origin(hint) in (typing.Union, types.UnionType):
        for part in typing.get_args(hint):
            yield from unknown_keys(value, part, path)


def tag_of(struct: type[msgspec.Struct]) -> str | None:
    """The `type` that chooses this struct."""
    tag = struct.__struct_config__.tag
    return tag if isinstance(tag, str) else None


def _keyword_only(parameters: Parameters) -> Parameters:
    return {name: p for name, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
