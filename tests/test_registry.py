"""Registries and signatures: names, aliases, duplicates, and errors that lead to the faulty key."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import pytest

from basicsr.utils.registry import Registry, SpecError, suggest


@dataclasses.dataclass(frozen=True)
class Ranges:
    low: float = 0.0
    high: float = 1.0


def make_registry() -> Registry:
    registry = Registry("loss")

    @registry.register(aliases=["Old"])
    class Example:
        def __init__(
            self,
            network: object,
            size: int,
            weight: float = 1.0,
            kind: Literal["a", "b"] = "a",
            ranges: Ranges | None = None,
        ) -> None:
            self.got = (network, size, weight, kind, ranges)

    return registry


def test_a_spec_builds_the_class_by_name_or_alias_with_converted_arguments() -> None:
    registry = make_registry()
    for name in ("Example", "Old"):
        spec = {"type": name, "size": 3, "weight": 2, "ranges": {"high": 5}}
        built = registry.build(spec, network="net")
        assert built.got == ("net", 3, 2.0, "a", Ranges(0.0, 5.0))
        assert isinstance(built.got[2], float)
        assert spec["type"] == name, "the caller's spec is left alone"


@pytest.mark.parametrize(
    ("spec", "path", "says"),
    [
        ({"type": "Exampel"}, ("type",), "Did you mean 'Example'?"),
        ({"size": 1}, (), "'type' is missing"),
        ({"type": "Example"}, (), "needs 'size'"),
        ({"type": "Example", "size": 1, "wieght": 2}, ("wieght",), "Did you mean 'weight'?"),
        ({"type": "Example", "size": "x"}, ("size",), "expected int"),
        ({"type": "Example", "size": None}, ("size",), "'~'"),
        ({"type": "Example", "size": 1, "kind": "c"}, ("kind",), "found 'c'"),
        ({"type": "Example", "size": 1, "network": 1}, ("network",), "takes no such argument"),
        ({"type": "Example", "size": 1, "ranges": {"hihg": 1}}, ("ranges", "hihg"), "Did you mean 'high'?"),
    ],
)
def test_a_faulty_spec_is_refused_at_its_key(spec: dict[str, Any], path: tuple[str, ...], says: str) -> None:
    with pytest.raises(SpecError) as caught:
        make_registry().bind(spec, injected=("network",))
    assert caught.value.path == path
    assert says in str(caught.value)


def test_a_name_taken_twice_names_both_classes() -> None:
    registry = make_registry()
    with pytest.raises(KeyError, match=r"'Old' is registered twice: by .*Example.*and by .*Other"):

        @registry.register(aliases=["Old"])
        class Other:
            pass


def test_suggestions_are_near_or_nothing() -> None:
    assert suggest("L1Los", ["L1Loss", "GANLoss"]) == "L1Loss"
    assert suggest("zzz", ["L1Loss", "GANLoss"]) is None
