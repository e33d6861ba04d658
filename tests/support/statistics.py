"""The chi-squared test, without SciPy."""

from __future__ import annotations

import math

from torch import Tensor


def chi_square(observed: Tensor, expected: Tensor) -> float:
    """Return the p-value of counts [N, V] of N independent multinomials.

    By Wilson and Hilferty's approximation of the chi-square distribution.
    """
    used = expected > 0
    assert observed[~used].sum() == 0, "a token without probability was drawn"
    statistic = ((observed - expected) ** 2 / expected.clamp(min=1e-9))[used].sum().item()
    freedom = int(used.sum()) - len(observed)
    spread = 2 / (9 * freedom)
    z = ((statistic / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)
    return 0.5 * math.erfc(z / math.sqrt(2))
