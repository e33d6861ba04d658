"""Parameters that a checkpoint stores in several tensors or under another name.

transformers has rules that convert the tensors of a file to parameters. Two of them are implemented
here, since their results can be read by slices: renaming, and stacking experts that are one tensor
each, with gate and up concatenated. A checkpoint that needs another rule is loaded by transformers.
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
    """The checkpoint cannot be read by slices. The text is the reason."""


@dataclass(frozen=True, slots=True)
class TensorSource:
    """The stored tensors that make up one parameter.

    The tensors of each part are stacked along a new first dimension, and the parts concatenated
    along the second. A tensor under another name is one part of one tensor, and not `stacked`.
    """

    parts: tuple[tuple[str, ...], ...]
    stacked: bool

    def open(self, slices: Callable[[str], Any]) -> Any:
        """The parameter as a lazy slice; `slices` is `get_slice` of safetensors."""
        if not self.stacked:
            return slices(self.parts[0][0])
        return StackedSlices([[slices(name) for name in part] for part in self.parts])


class StackedSlices:
    """Lazy slices of shape [rows, ...], combined to one of shape [experts, sum of rows, ...].

    Raises ValueError if their shapes do not match.
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
        """Read what `index`, slices of the leading dimensions, selects, and nothing else."""
        experts, wanted, *rest = (*index, slice(None))[: max(2, len(index))]
        start, stop, _ = wanted.indices(sum(self._rows))
        selected, offset = [], 0
        for part, rows in zip(self._parts, self._rows, strict=True):
            inside = slice(max(start - offset, 0), min(stop - offset, rows))
            if inside.start < inside.stop:
                selected.append(torch.stack([expert[(inside, *rest)] for expert in part[experts]]))
            offset += rows
        return torch.cat(selected, 1)


def converted_sources(module: Any, names: Iterable[str]) -> dict[str, TensorSource]:
    """The parameters of `module` that must be converted from stored tensors called `names`.

    Raises NotSliceable.
    """
    rules = get_model_conversion_mapping(module)
    converters = [rule for rule in rules if isinstance(rule, WeightConverter)]
    renamings = [rule for rule in rules if isinstance(rule, WeightRenaming)]
    parameters = module.state_dict()
    sources: dict[str, TensorSource] = {}
    merged: defaultdict[str, defaultdict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name in sorted(names, key=_natural_key):
        target, pattern = rename_source_key(
            name, renamings, converters, module.base_model_prefix, parameters
        )
        if pattern is not None:
            merged[target][pattern].append(name)
        elif target != name and target in parameters:
            sources[target] = TensorSource(((name,),), False)
    for target, parts in merged.items():
        sources[target] = _converted_source(target, parts, converters)
    return sources


def _converted_source(
    target: str, parts: dict[str, list[str]], converters: Sequence[WeightConverter]
) -> TensorSource:
    """The source of `target`; `parts` are its tensors by the converter's pattern."""
    matching = [rule for rule in converters if not parts.keys() - set(rule.source_patterns)]
    if len(matching) != 1 or not _only_stacks(matching[0]):
        raise NotSliceable(f"`{next(iter(parts.values()))[0]}` becomes `{target}`")
    [rule] = matching
    return TensorSource(
        tuple(tuple(parts[each]) for each in rule.source_patterns if each in parts), True
    )


def _only_stacks(rule: WeightConverter) -> bool:
    """Whether `rule` only stacks tensors and concatenates the stacks."""
    dims = [(type(step), getattr(step, "dim", None)) for step in rule.operations]
    supported = (MergeModulelist, 0), (Concatenate, 1)
    return dims == [*supported[: len(dims)]] and (len(dims) == 2 or len(rule.source_patterns) == 1)


def _natural_key(name: str) -> list[str | int]:
    """Sort key with which expert 10 comes after expert 9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]
