"""A figure of a benchmark and the bound that it should keep. Measures and shows nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Target:
    """What one figure of a result file should be."""

    figure: str
    relation: Literal["<=", ">="]
    bound: float
    text: str = ""
    """What the figure measures, for a reader."""

    def is_met(self, value: float) -> bool:
        """Whether `value` keeps the bound."""
        return value <= self.bound if self.relation == "<=" else value >= self.bound
