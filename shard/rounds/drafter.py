"""The interface of every drafter: propose tokens, and say what the engine must know about it.

A drafter only proposes. The target's verification decides, so a bad proposal costs time and never
changes a token. What a drafter offers is stated by its properties, so that no caller asks for its
class. `shard.drafters` holds the table of all drafters. A drafter must not know Steps, priorities
or clients.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from shard.attention.kv_cache import KvCache
from shard.batch.packing import TokenSpan
from shard.batch.rows import CachedRow
from shard.rounds.device_drafter import DeviceDrafter
from shard.sampling.position import Position


@dataclass(slots=True)
class DraftRequest:
    """Asks for at most `count` tokens after the last token of `row`; `drafts` is the answer."""

    row: CachedRow
    count: int
    drafts: list[int] = field(default_factory=list)
    suffix: int = 0
    """Where suffix decoding finds any, at most this many tokens of it instead."""
    drafter: str = ""
    """Name of what has filled it."""

    @property
    def next_position(self) -> Position:
        """The position of the next draft."""
        return self.row.position_after(tuple(self.drafts))


class Drafter(ABC):
    """Proposes tokens. Ranks that hold equal rows must propose equal tokens."""

    name: ClassVar[str]
    """Its key in `shard.drafters.DRAFTERS`, and its label in metrics."""
    may_abstain: ClassVar[bool] = False
    """Whether it may propose nothing because it finds nothing, as prompt lookup does.

    Warm-up then measures Steps with a stand-in that fills every request.
    """

    remembers: ClassVar[bool] = False
    """Whether it drafts from rows that were released, so that drafts depend on earlier rows."""

    suffix_length: ClassVar[int] = 0
    """Maximum length of drafts by suffix decoding, which it has next to its own; 0 without."""

    @property
    def caches(self) -> Sequence[KvCache]:
        """Caches under the target's page ids; `CachedRow.draft_cached` counts tokens in them."""
        return ()

    @property
    def keeps_cache(self) -> bool:
        """Whether it falls behind in Steps without drafts, and has to catch up."""
        return bool(self.caches)

    @property
    def device_drafter(self) -> DeviceDrafter | None:
        """Its implementation for rounds that stay on the device; None if it runs on the host."""
        return None

    @property
    def resident(self) -> bool:
        """Whether it can propose in rounds that stay on the device."""
        return self.device_drafter is not None

    def max_drafts(self, row: CachedRow) -> int:
        """The maximum number of tokens that it can propose after the last token of `row`."""
        return row.remaining

    @abstractmethod
    def propose(self, requests: Sequence[DraftRequest], prefills: Sequence[TokenSpan]) -> None:
        """Fill `drafts` of every request with 0 to `count` tokens of the target's vocabulary.

        `prefills` are the prompt chunks that the target takes in during the same round.
        """

    def rollback(self, request: DraftRequest, token_count: int, accepted: int) -> None:  # noqa: B027
        """The row had `token_count` tokens, and the first `accepted` drafts were confirmed."""

    def remove(self, ids: Iterable[int]) -> None:  # noqa: B027
        """Drop any state of the rows `ids`, which are released; the ids may be used again."""

    def clear(self) -> None:  # noqa: B027
        """Drop the state of every row."""
