"""The echo engine with rows that fail: a poisoned row gives an error instead of a token.

Rule: which rows fail, and at which token, is a function of the seed alone, so that every rank,
every repetition and every check agree. The engine itself checks each Step: that pages have one
owner, and hold the keys and values that a row takes them to hold.
"""

from __future__ import annotations

from shard.echo.echo_engine import EchoEngine
from shard.echo.echo_row import EchoRow
from shard.wire.protocol import End, RowResult

POISONED_SHARE, MAX_GOOD_TOKENS = 40, 12
"""One seed in so many is poisoned, after fewer tokens than this."""
FAULTS = ("out of memory", "")
"""What a row that fails says."""


def good_tokens(seed: int) -> int | None:
    """Number of tokens after which a row with `seed` fails; None if it does not."""
    share, rest = seed % POISONED_SHARE, seed // POISONED_SHARE
    return None if share else rest % MAX_GOOD_TOKENS


class PoisonedEcho(EchoEngine):
    """An echo engine in which some rows fail. It takes no real time."""

    def _compute(self) -> None:
        """Return at once: the rank decides how long a Step takes."""

    def _emit(self, row: EchoRow, drafted: int, accepted: int) -> RowResult:
        limit, emitted = good_tokens(row.new.sampling.seed), len(row.tokens) - row.new.prompt
        if limit is None:
            return super()._emit(row, drafted, accepted)
        if emitted < limit:  # the round ends at the last good token
            accepted = min(accepted, limit - emitted - 1)
            row.draft_cached = min(row.draft_cached, len(row.tokens) + accepted)
            return super()._emit(row, drafted, accepted)
        row.end = End.ERROR
        fault = FAULTS[min(limit, 1)]
        return RowResult(row.new.id, (), (), drafted, 0, End.ERROR, fault=fault)
