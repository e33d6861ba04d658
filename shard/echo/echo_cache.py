"""The echo engine's cache: each slot holds a checksum in place of keys and values.

Keys and values at a position depend on every token up to it, so a slot holds a checksum of that
prefix, for the target and for the draft. So every false claim is detected: a row that enters with
pages of another prefix, one that returns from the host with another row's pages, a page that is
written while two rows own it. The draft's half of a shared page may be written, if it gets the same
tokens as the target's half. It knows pages and checksums; no row, no token, no Step order.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Sequence
from zlib import crc32

from shard.wire.protocol import PageCopy, ProtocolError, Step

PAGE_SIZE = 16
"""Tokens per page."""
_GARBAGE = -1

SlotContents = list[int]
"""The checksums in a page's slots."""


def prefix_checksums(tokens: Sequence[int], known: Sequence[int] = (), salt: int = 0) -> list[int]:
    """A checksum of every prefix of `tokens`; `known` are those of the first ones."""
    sums = list(known)
    for token in tokens[len(sums) :]:
        sums.append(crc32(array("i", [token]).tobytes(), sums[-1] if sums else salt))
    return sums


class EchoCache:
    """Pages 1..`pages` and host slots 0..`slots` - 1, for a target and its draft."""

    def __init__(self, pages: int, slots: int) -> None:
        self._page_count, self._slot_count = pages, slots
        self._owners: Counter[int] = Counter()
        self._pages: dict[int, tuple[SlotContents, SlotContents]] = {}
        self._host: dict[int, tuple[SlotContents, SlotContents]] = {}

    def clear(self) -> None:
        """Forget all contents and owners."""
        self._owners.clear()
        self._pages.clear()
        self._host.clear()

    def acquire(self, page: int, shared: bool) -> None:
        """Add an owner of `page`; only a `shared` page may have owners already."""
        require(0 < page <= self._page_count, f"there is no page {page}")
        require(shared or not self._owners[page], f"page {page} has an owner")
        self._owners[page] += 1
        if not shared:  # its contents are void; copies of the same Step may fill it
            self._pages.setdefault(page, _empty_page())

    def release(self, pages: Sequence[int]) -> None:
        """Remove an owner of `pages`; the contents stay."""
        self._owners.subtract(pages)

    def copy_pages(self, step: Step) -> None:
        """Make the copies of `step`, in order: out, within the device, in."""
        require(
            all(
                0 <= slot < self._slot_count
                for slot in (*step.swap_out.targets, *step.swap_in.sources)
            ),
            "there is no such host slot",
        )
        _copy_page_contents(step.swap_out, self._pages, self._host)
        _copy_page_contents(step.copy, self._pages, self._pages)
        _copy_page_contents(step.swap_in, self._host, self._pages)

    def write(
        self, pages: Sequence[int], draft: bool, positions: range, checksums: Sequence[int]
    ) -> None:
        """Fill `positions` of a row; those beyond `checksums` are rejected drafts."""
        for position in positions:
            page, at = pages[position // PAGE_SIZE], position % PAGE_SIZE
            value = checksums[position] if position < len(checksums) else _GARBAGE
            same = draft and value == self._pages[page][False][at]
            require(self._owners[page] == 1 or same, f"page {page} is written and shared")
            self._pages[page][draft][at] = value

    def verify(self, pages: Sequence[int], draft: bool, checksums: Sequence[int]) -> None:
        """Raise ProtocolError unless `pages` hold `checksums` from position 0 on."""
        for position, value in enumerate(checksums):
            page = pages[position // PAGE_SIZE]
            held = self._pages[page][draft][position % PAGE_SIZE]
            require(held == value, f"page {page} does not hold what position {position} claims")


def require(holds: bool, text: str) -> None:
    """Raises ProtocolError with `text` unless `holds`."""
    if not holds:
        raise ProtocolError(text)


def _empty_page() -> tuple[SlotContents, SlotContents]:
    return [_GARBAGE] * PAGE_SIZE, [_GARBAGE] * PAGE_SIZE


def _copy_page_contents(
    move: PageCopy,
    sources: dict[int, tuple[SlotContents, SlotContents]],
    targets: dict[int, tuple[SlotContents, SlotContents]],
) -> None:
    require(len(move.sources) == len(move.targets), "a move has as many targets as sources")
    require(all(source in sources for source in move.sources), "a move of what was never filled")
    read = [(list(sources[source][0]), list(sources[source][1])) for source in move.sources]
    targets.update(zip(move.targets, read, strict=True))
