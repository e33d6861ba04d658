"""What an adapter of an architecture's attention consists of; `adapter_table` installs it.

An adapter computes queries, keys and values with the module's own weights and passes them to the
paged attention. It knows nothing of rows, pages or Steps. A module that reads its recent inputs
instead of attending is adapted alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

AttentionForward = Callable[..., tuple[Tensor, None] | Tensor]
"""Replaces the module's `forward`: takes the module and its arguments, of which it uses those that
it needs, and returns what the module would; there are no attention weights."""


def with_positions(positions: Tensor) -> dict[str, Any]:
    """The arguments of a model that computes its embeddings of positions from `position_ids`."""
    return {"position_ids": positions}


@dataclass(frozen=True, slots=True)
class AttentionAdapter:
    """How one architecture attends to paged keys and values."""

    attention: type[nn.Module]
    """The class of its attention modules."""
    forward: AttentionForward
    arguments: Callable[[Tensor], dict[str, Any]] = with_positions
    """The model's arguments for tokens at positions [1, T], besides the tokens themselves."""
    implementation: str = "eager"
    """transformers' own attention, as which the model is built and with which it is compared."""
    layer_types: frozenset[str] = frozenset()
    """Layer types that the adapter implements besides full and sliding attention."""
