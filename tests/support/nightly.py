"""Grids of test cases: a part of each runs by default, the rest in `make nightly` only.

Rule: the default part has every row and every column of the grid, so that it makes the same claim
with fewer combinations.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from typing import Any

import pytest
from _pytest.mark.structures import ParameterSet


def nightly(*values: Any, id: str | None = None) -> ParameterSet:
    """A case that runs in `make nightly` only."""
    return pytest.param(*values, marks=pytest.mark.nightly, id=id)


def thinned(
    rows: Iterable[tuple[Any, ...]], columns: Iterable[tuple[Any, ...]], stride: int
) -> list[ParameterSet]:
    """Every row with every column, the values joined; all but each `stride`-th are nightly.

    Every row and every column keeps a case if there are at least `stride` of both.
    """
    grid = product(enumerate(rows), enumerate(columns))
    return [
        pytest.param(*row, *column) if (i - j) % stride == 0 else nightly(*row, *column)
        for (i, row), (j, column) in grid
    ]
