"""What of a weights file fits a network: counted by module, so that the report of a large network fits one screen."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from torch import Tensor, nn

LISTED_KEYS = 3  # keys that an error message quotes
DEPTH = 2  # parts of a name that make a module of the table, places in lists aside
MAX_ROWS = 20


class LoadReport(NamedTuple):
    """Names of parameters that a file lacked, had too many, or had in another shape."""

    missing: list[str]
    extra: list[str]
    mismatched: list[str]
    shapes: Mapping[str, str] = {}  # of the mismatched: that in the file, that in the network

    @property
    def fits(self) -> bool:
        """Whether every name and shape matches."""
        return not (self.missing or self.extra or self.mismatched)

    def __str__(self) -> str:
        parts = [
            f"{len(names)} {word} ({', '.join(names[:LISTED_KEYS])}{', ...' if len(names) > LISTED_KEYS else ''})"
            for word, names in zip(("missing", "extra", "of another shape"), self[:3], strict=True)
            if names
        ]
        return "; ".join(parts) or "all keys match"

    def table(self) -> str:
        """Lines of a table: module, tensors missing, extra, of another shape (the first one's shapes)."""
        counts: dict[str, list[int]] = {}
        shapes: dict[str, str] = {}
        for column, names in enumerate(self[:3]):
            for name in names:
                counts.setdefault(module_of(name), [0, 0, 0])[column] += 1
        for name in self.mismatched:
            shapes.setdefault(module_of(name), self.shapes.get(name, ""))
        return "\n".join(_lines(counts, shapes))


def compare(net: nn.Module, state: Mapping[str, Tensor]) -> LoadReport:
    """How the names and shapes of `state` match those of `net`."""
    own = net.state_dict()
    mismatched = [name for name in own if name in state and own[name].shape != state[name].shape]
    return LoadReport(
        missing=[name for name in own if name not in state],
        extra=[name for name in state if name not in own],
        mismatched=mismatched,
        shapes={
            name: f"{list(state[name].shape)} in the file, {list(own[name].shape)} in the network"
            for name in mismatched
        },
    )


def module_of(name: str) -> str:
    """`ft_layers.*.cross_attn` for `ft_layers.0.cross_attn.q.weight`: places in lists are put together."""
    parts = ["*" if part.isdigit() else part for part in name.split(".")]
    named = [place for place, part in enumerate(parts[:-1]) if part != "*"][:DEPTH]
    return ".".join(parts[: named[-1] + 1] if named else parts)


def _lines(counts: Mapping[str, list[int]], shapes: Mapping[str, str]) -> Iterator[str]:
    width = max((len(module) for module in counts), default=0)
    yield f"{'module':<{width}}  missing  extra  other shape"
    for module, numbers in list(counts.items())[:MAX_ROWS]:
        missing, extra, mismatched = (str(number) if number else "" for number in numbers)
        yield f"{module:<{width}}  {missing:>7}  {extra:>5}  {mismatched:>11}  {shapes.get(module, '')}".rstrip()
    if len(counts) > MAX_ROWS:
        yield f"... and {len(counts) - MAX_ROWS} modules more"
