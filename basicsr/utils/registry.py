"""Registries: a name in the YAML to the class that it means."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, TypeVar

from basicsr.utils.signature import SpecError, bind_arguments, did_you_mean, suggest

__all__ = [
    "ARCH_REGISTRY",
    "DATASET_REGISTRY",
    "LOSS_REGISTRY",
    "METRIC_REGISTRY",
    "MODEL_REGISTRY",
    "Registry",
    "SpecError",
    "bind_arguments",
    "suggest",
]

Registered = TypeVar("Registered", bound=type)


class Registry:
    """Classes by name and alias. `kind` is the word that error messages use ("loss")."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._classes: dict[str, type] = {}

    def register(self, aliases: Sequence[str] = ()) -> Callable[[Registered], Registered]:
        """Decorator: the class under its own name and under each alias.

        Raises:
            KeyError: a name is taken; both classes are named.
        """

        def add(cls: Registered) -> Registered:
            for name in (cls.__name__, *aliases):
                taken = self._classes.get(name)
                if taken is not None:
                    raise KeyError(
                        f"{self.kind} '{name}' is registered twice: by {taken.__module__}.{taken.__qualname__} "
                        f"and by {cls.__module__}.{cls.__qualname__}"
                    )
                self._classes[name] = cls
            return cls

        return add

    def names(self) -> list[str]:
        """All names and aliases, sorted."""
        return sorted(self._classes)

    def get(self, name: str) -> type:
        """The class registered under `name`; SpecError with a suggestion when there is none."""
        if name not in self._classes:
            raise SpecError(("type",), f"no {self.kind} '{name}'.{did_you_mean(str(name), self._classes)}")
        return self._classes[name]

    def bind(self, spec: Mapping[str, Any], injected: Collection[str] = ()) -> dict[str, Any]:
        """Checked and converted constructor arguments of `spec` (`type` plus keywords)."""
        if "type" not in spec:
            raise SpecError((), f"'type' is missing: which {self.kind}? Known: {', '.join(self.names())}.")
        arguments = {key: value for key, value in spec.items() if key != "type"}
        return bind_arguments(self.get(spec["type"]), arguments, injected)

    def build(self, spec: Mapping[str, Any], **injected: Any) -> Any:
        """An instance of the class that `spec["type"]` names; `injected` are arguments that code hands in."""
        return self.get(spec["type"])(**self.bind(spec, injected), **injected)


ARCH_REGISTRY = Registry("network")
DATASET_REGISTRY = Registry("dataset")
MODEL_REGISTRY = Registry("model_type")
LOSS_REGISTRY = Registry("loss")
METRIC_REGISTRY = Registry("metric")
