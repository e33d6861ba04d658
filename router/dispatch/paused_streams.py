"""Streams that generate faster than their clients read: who is paused, and who goes on.

Rule: a live request with more than `max_unread` tokens that its client has not read leaves the
scheduler, so that it costs neither a row nor memory for more tokens. Its pages stay in the prefix
cache while there is room. Once its client has read half of them it is submitted again, with its
tokens so far as part of the prompt, and so goes on with the tokens that it would have had. How long
a client may read nothing at all is decided by the HTTP server.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

from router.requests.record import LiveRequest


class PausedStreams(Collection[int]):
    """The ids of the paused requests.

    `on_caught_up` is called when the client of one has read enough.
    """

    def __init__(self, max_unread: float, on_caught_up: Callable[[], None]) -> None:
        self._max_unread = max_unread
        self._on_caught_up = on_caught_up
        self._paused: dict[int, LiveRequest] = {}

    def __len__(self) -> int:
        return len(self._paused)

    def __iter__(self) -> Iterator[int]:
        return iter(self._paused)

    def __contains__(self, id: object) -> bool:
        return id in self._paused

    def pause_slow(self, records: Iterable[LiveRequest]) -> Sequence[LiveRequest]:
        """Pause those of `records` whose clients are too far behind, and return them."""
        slow = [
            record
            for record in records
            if record.is_live and record.id not in self and record.unread > self._max_unread
        ]
        for record in slow:
            self._paused[record.id] = record
            record.notify_when_read(self._resumed_at, self._on_caught_up)
        return slow

    def resume_read(self, in_flight: Collection[int]) -> Sequence[LiveRequest]:
        """Take out those whose clients have read enough, and return them.

        None of `in_flight`, ids of rows in Steps: more tokens of theirs are still to come.
        """
        ready = [
            record
            for record in self._paused.values()
            if record.is_live and record.unread <= self._resumed_at and record.id not in in_flight
        ]
        for record in ready:
            del self._paused[record.id]
        return ready

    @property
    def _resumed_at(self) -> int:
        """Unread tokens at which a paused request goes on."""
        return int(self._max_unread // 2)

    def discard(self, id: int) -> None:
        """Forget a request that has ended, if it was paused."""
        self._paused.pop(id, None)
