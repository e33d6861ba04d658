"""Parameters that a checkpoint holds in parts or under another name, read as if they were there.

transformers knows which tensors of a file become which parameter. Two of its rules are followed
here, since they can be read by slices: another name, and experts, each a tensor of its own in the
file, that are stacked, with gate and up side by side. Other rules are transformers' to apply.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import (
    Concatenate,
    MergeModulelist,
    WeightConverter,
    WeightRenaming,
    rename_source_key,
)


class NotSliceable(Exception):
    """A checkpoint that cannot be read by slices, and why."""


@dataclass(frozen=True, slots=True)
class TensorSource:
    """The tensors that make up one parameter.

    Those of each part are stacked in a new first dimension, and the parts joined in the second. A
    single tensor under another name is one part of one tensor, and is not `stacked`.
    """

    parts: tuple[tuple[str, ...], ...]
    stacked: bool

    def open(self, slices: Callable[[str], Any]) -> Any:
        """The whole as `slices`, which is `get_slice` of safetensors, gives each tensor."""
        if not self.stacked:
            return slices(self.parts[0][0])
        return StackedSlices([[slices(name) for name in part] for part in self.parts])


class StackedSlices:
    """Slices of [rows, ...] that act as one of [count, all parts' rows, ...].

    Raises ValueError where they do not fit together.
    """

    def __init__(self, parts: Sequence[Sequence[Any]]) -> None:
        self._parts = parts
        shapes = [[tuple(expert.get_shape()) for expert in part] for part in parts]
        if any(part != [part[0]] * len(shapes[0]) for part in shapes):
            raise ValueError("the experts do not have the same shapes")
        self._rows = [part[0][0] for part in shapes]
        self._rest = shapes[0][0][1:]

    def get_shape(self) -> list[int]:
        """As a slice of a file has it."""
        return [len(self._parts[0]), sum(self._rows), *self._rest]

    def get_dtype(self) -> str:
        """As a slice of a file has it."""
        dtype: str = self._parts[0][0].get_dtype()
        return dtype

    def __getitem__(self, index: tuple[slice, ...]) -> Tensor:
        """The part within slices of the leading dimensions; nothing else is read."""
        which, wanted, *rest = (*index, slice(None))[: max(2, len(index))]
        start, stop, _ = wanted.indices(sum(self._rows))
        found, at = [], 0
        for part, rows in zip(self._parts, self._rows, strict=True):
            own = slice(max(start - at, 0), min(stop - at, rows))
            if own.start < own.stop:
                found.append(torch.stack([expert[(own, *rest)] for expert in part[which]]))
            at += rows
        return torch.cat(found, 1)


def converted_sources(module: Any, names: Iterable[str]) -> dict[str, TensorSource]:
    """The parameters of `module` that files with tensors called `names` hold in another way.

    Raises Unreadable.
    """
    rules = get_model_conversion_mapping(module)
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    own = module.state_dict()
    found: dict[str, TensorSource] = {}
    merged: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in sorted(names, key=_natural_key):
        target, pattern = rename_source_key(
            name, renamings, converters, module.base_model_prefix, own
        )
        if pattern is not None:
            merged[target][pattern].append(name)
        elif target != name and target in own:
            found[target] = TensorSource(((name,),), False)
    for target, parts in merged.items():
        found[target] = _converted_source(target, parts, converters)
    return found


def _converted_source(
    target: str, parts: dict[str, list[str]], converters: Sequence[WeightConverter]
) -> TensorSource:
    """The source of `target`, whose `parts` go by the pattern of the converter that takes them."""
    takers = [rule for rule in converters if not parts.keys() - set(rule.source_patterns)]
    if len(takers) != 1 or not _only_stacks(takers[0]):
        raise NotSliceable(f"`{next(iter(parts.values()))[0]}` becomes `{target}`")
    [rule] = takers
    return TensorSource(
        tuple(tuple(parts[each]) for each in rule.source_patterns if each in parts), True
    )


def _only_stacks(rule: WeightConverter) -> bool:
    """Whether all that `rule` does is to stack, and to join what was stacked."""
    dims = [(type(step), getattr(step, "dim", None)) for step in rule.operations]
    joined = (MergeModulelist, 0), (Concatenate, 1)
    return dims == [*joined[: len(dims)]] and (len(dims) == 2 or len(rule.source_patterns) == 1)


def _natural_key(name: str) -> list[str | int]:
    """So that expert 10 comes after expert 9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
