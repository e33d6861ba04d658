"""How much this process has computed, as one number by which others see that a Step progresses.

The thread that computes calls `advance` after every part of a Step that may take long: a layer, the
attention of a row, a step of sampling, a grammar's mask. Any thread may read the number. Only its
changes have a meaning: it does not say how much work is left.
"""

from __future__ import annotations

_parts = 0


def advance() -> None:
    """Count one part of a Step as done. Only the thread that computes may call this."""
    global _parts
    _parts += 1


def count() -> int:
    """Number of parts done since this process started."""
    return _parts
