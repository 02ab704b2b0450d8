"""Check arguments against a signature. The annotated signature of a class is the schema of what YAML may say of it."""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import math
import types
import typing
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import msgspec

from basicsr.utils.errors import OptionError

SpecPath = tuple[str | int, ...]


class SpecError(OptionError):
    """A leaf of the options does not fit its constructor. `path` leads to the faulty key, relative to the spec."""

    def __init__(self, path: SpecPath, message: str) -> None:
        super().__init__(f"{'.'.join(map(str, path))}: {message}" if path else message)
        self.path = path
        self.message = message


def suggest(name: str, candidates: Iterable[str]) -> str | None:
    """The candidate nearest in spelling to `name`, or None when nothing is near."""
    near = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.6)
    return near[0] if near else None


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """` Did you mean 'x'?`, or the list of what there is when nothing is near."""
    known = sorted(candidates)
    near = suggest(name, known)
    if near:
        return f" Did you mean '{near}'?"
    return f" Known: {', '.join(known)}." if known else ""


def parameters_of(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Parameters of a class's constructor or of a function, without `self`, annotations resolved to types."""
    function = target.__init__ if inspect.isclass(target) else target
    hints = typing.get_type_hints(function)
    parameters = list(inspect.signature(function).parameters.values())
    if inspect.isclass(target):
        parameters = parameters[1:]
    return {p.name: p.replace(annotation=hints.get(p.name, Any)) for p in parameters}


def require_within(least: float, most: float = math.inf, **arguments: Any) -> None:
    """Refuse an argument, or an entry of one that is a list, outside of [least, most]; None passes.

    Raises:
        OptionError: `name: found 0, expected at least 1.`
    """
    expected = f"at least {least:g}" if math.isinf(most) else f"{least:g} to {most:g}"
    for name, value in arguments.items():
        entries = value if isinstance(value, list | tuple) else [value]
        if not all(entry is None or least <= entry <= most for entry in entries):
            raise OptionError(f"{name}: found {value}, expected {expected}.")


def allows_none(annotation: Any) -> bool:
    """Whether `~` is a legal value of the annotation."""
    if annotation is Any or annotation is None or annotation is type(None):
        return True
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return any(allows_none(part) for part in typing.get_args(annotation))
    return False


def bind_arguments(
    target: Callable[..., Any], arguments: Mapping[str, Any], injected: Collection[str] = ()
) -> dict[str, Any]:
    """Check `arguments` against the signature of `target` and convert them to the annotated types.

    Args:
        target: class or function whose parameters carry annotations (dataclasses are taken from mappings).
        arguments: what the YAML says.
        injected: names that code hands in; YAML may not set them and need not.
    Raises:
        SpecError: unknown, missing or wrongly typed argument.
    """
    parameters = parameters_of(target)
    settable = {n: p for n, p in parameters.items() if n not in injected}
    bound: dict[str, Any] = {}
    name_of_target = getattr(target, "__name__", str(target))
    for name, value in arguments.items():
        if name not in settable:
            hint = did_you_mean(str(name), settable)
            raise SpecError((name,), f"{name_of_target} takes no such argument.{hint}")
        bound[name] = convert(value, settable[name].annotation, (name,))
    for name, parameter in settable.items():
        if name not in bound and parameter.default is inspect.Parameter.empty:
            raise SpecError((), f"{name_of_target} needs '{name}', which is not given.")
    return bound


def convert(value: Any, annotation: Any, path: SpecPath) -> Any:
    """`value` as the annotated type, or a SpecError that says what was found and what was expected."""
    if value is None and not allows_none(annotation):
        raise SpecError(path, f"'~' turns nothing off here: a value of type {type_name(annotation)} is needed.")
    if annotation is Any:
        return value
    _refuse_unknown_fields(value, annotation, path)
    try:
        return msgspec.convert(value, annotation)
    except msgspec.ValidationError as error:
        reason, _, place = str(error).partition(" - at `$")
        inner = tuple(part for part in place.rstrip("`").replace("[", ".").replace("]", "").split(".") if part)
        unknown = _unknown_field(reason, annotation)
        if unknown:
            raise SpecError((*path, *inner, unknown[0]), unknown[1]) from error
        raise SpecError((*path, *inner), f"found {value!r}, expected {type_name(annotation)} ({reason}).") from error


def _refuse_unknown_fields(value: Any, annotation: Any, path: SpecPath) -> None:
    """Raise for a key that a dataclass does not have; msgspec would drop it without a word."""
    parts = [annotation, *typing.get_args(annotation)]
    classes = [part for part in parts if isinstance(part, type) and dataclasses.is_dataclass(part)]
    if len(classes) != 1 or not isinstance(value, Mapping):
        return
    known = [field.name for field in dataclasses.fields(classes[0])]
    for key in value:
        if key not in known:
            raise SpecError((*path, key), f"no such key.{did_you_mean(str(key), known)}")


def type_name(annotation: Any) -> str:
    """The annotation as a person writes it: `int`, `list[str]`, `float | None`."""
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    return str(annotation).replace("typing.", "").replace("NoneType", "None")


def _unknown_field(reason: str, annotation: Any) -> tuple[str, str] | None:
    """(field, message) when msgspec refused an unknown field of a struct."""
    marker = "Object contains unknown field `"
    if not reason.startswith(marker):
        return None
    field = reason[len(marker) :].rstrip("`")
    known = [f.name for part in _structs(annotation) for f in msgspec.structs.fields(part)]
    return field, f"no such key.{did_you_mean(field, known)}"


def _structs(annotation: Any) -> list[Any]:
    """All msgspec structs inside an annotation."""
    if isinstance(annotation, type) and issubclass(annotation, msgspec.Struct):
        return [annotation]
    return [struct for part in typing.get_args(annotation) for struct in _structs(part)]
