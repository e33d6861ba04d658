"""How many tokens a row drafts in its next round. First version: as many as allowed.

The whole row is the argument, since a price for each draft length (goodput: expected tokens by
`row.survival` over the cost of the Step) needs its survival curve; 0 is a valid answer.
"""

from __future__ import annotations

from router.scheduler.row import Row


def draft_length(row: Row) -> int:
    """Draft tokens of the next round of `row`, which has at least one token left to emit.

    Never beyond `remaining - 1`: a round emits one token more than it accepts.
    """
    return min(row.draft_cap, row.remaining - 1)
