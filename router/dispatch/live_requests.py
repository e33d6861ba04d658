"""The requests that have not ended, by id, and how one is made of what was prepared.

Decides ids and who is meant by a request id; what a request does is the dispatcher's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from router.dispatch.page_hashes import PromptPages
from router.requests.record import LiveRequest
from router.requests.request import Request
from router.text.tokenizer import Tokenizer


@dataclass(frozen=True, slots=True)
class PreparedRequest:
    """A request that has passed every check and lacks nothing that a row needs."""

    request_id: str
    request: Request
    prompt: tuple[int, ...]
    """Token ids."""
    max_new: int
    """Maximum number of new tokens, at least 1."""
    pages: PromptPages
    arrived: float
    """By the dispatcher's clock, in seconds."""
    call: int = 0
    """Number of the HTTP request that it belongs to; later ones have larger numbers."""
    caller: str = ""
    """Who sent it, as the access policy has it."""
    scope: str = ""
    """Requests of equal scope may learn from each other's answers."""


class LiveRequests(Mapping[int, LiveRequest]):
    """Requests that the scheduler knows, or will once the event queue is read, by id."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._records: dict[int, LiveRequest] = {}
        self._last_id = 0

    def __getitem__(self, id: int) -> LiveRequest:
        return self._records[id]

    def __iter__(self) -> Iterator[int]:
        return iter(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def add(self, prepared: PreparedRequest, now: float) -> LiveRequest:
        """Add a request, which is queued from `now` on."""
        self._last_id += 1
        record = self._records[self._last_id] = LiveRequest(
            self._last_id,
            prepared.request_id,
            prepared.request,
            prepared.prompt,
            prepared.max_new,
            self._tokenizer,
            prepared.arrived,
            prepared.call,
            prepared.caller,
            prepared.scope,
        )
        record.queued = now
        return record

    def remove(self, id: int) -> None:
        """Forget a request; unknown ids are ignored."""
        self._records.pop(id, None)

    def newest(self, request_id: str, caller: str) -> list[LiveRequest]:
        """The live sequences of the newest HTTP request of `caller` whose id is `request_id`."""
        records = [
            record
            for record in self._records.values()
            if record.is_live and (record.request_id, record.caller) == (request_id, caller)
        ]
        newest = max((record.call for record in records), default=0)
        return [record for record in records if record.call == newest]

    def grammars(self) -> Sequence[str]:
        """The compiled grammars that their rows follow, each once, in the order of arrival."""
        grammars = (record.request.grammar for record in self._records.values())
        return list(dict.fromkeys(grammar for grammar in grammars if grammar is not None))
