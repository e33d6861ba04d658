"""An adapter in memory, and the layers that a model lets adapters change. Computes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

Spans = tuple[tuple[int, int], ...]
"""Start and stop of the parts that a rank keeps of a dimension; empty: all of it."""


@dataclass(frozen=True, slots=True)
class AdaptableLayer:
    """A linear layer of the whole model, and what this rank keeps of it."""

    inputs: int
    outputs: int
    input_spans: Spans = ()
    output_spans: Spans = ()


@dataclass(frozen=True, slots=True)
class LoraWeights:
    """What an adapter adds to the output of one layer for x [T, in]: x `down`^T `up`."""

    down: Tensor
    """[rank, input features of this rank], PEFT's `lora_A`."""
    up: Tensor
    """[rank, output features of this rank], PEFT's `lora_B` transposed and scaled."""

    @property
    def nbytes(self) -> int:
        """Bytes of both matrices."""
        return self.down.nbytes + self.up.nbytes


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """One adapter on one rank. Rows hold it, so that it stays until the last of them has ended."""

    number: int
    """Never given twice, so that equal numbers mean equal weights."""
    weights: Mapping[str, LoraWeights]
    """By the name of the layer."""

    @property
    def rank(self) -> int:
        """The largest rank of its matrices."""
        return max(len(weights.down) for weights in self.weights.values())

    @property
    def nbytes(self) -> int:
        """Bytes of all its matrices on this rank."""
        return sum(weights.nbytes for weights in self.weights.values())
