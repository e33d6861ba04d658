"""Clients that send one request after another, and note how each ended.

Rule: a client sees what an HTTP handler sees, the LiveRequest, and decides when it reads, leaves
and retries. Whether an end was right is judged elsewhere.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

from benchmark.faults.virtual.requests import PlannedRequest
from router.dispatch.dispatcher import Dispatcher
from router.dispatch.live_requests import PreparedRequest
from router.dispatch.page_hashes import PromptPages, hash_prompt
from router.errors import Cancelled, EngineFault, GenerationFailed, Overloaded, Unavailable
from router.requests.record import LiveRequest

RETRY_SECONDS, MAX_TRIES = 1.0, 30
LEFT, REFUSED, COMPLETE, CANCELLED, FAILED, BLAMED, LOST = (
    *("left", "refused", "complete", "cancelled", "failed", "blamed", "lost"),
)
"""How a request ends: its client leaves, no permit in MAX_TRIES, with a finish reason, by its id,
with an error of the model, since it ran whenever the ranks failed, or with the server."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How a request ended for its client. `record` is None if it never was live."""

    planned: PlannedRequest
    how: str
    record: LiveRequest | None = None
    tokens: tuple[int, ...] = ()
    """What the client has read."""


class Client:
    """Sends requests to `dispatcher`, whose pages have `page_size` tokens."""

    def __init__(self, dispatcher: Dispatcher, page_size: int) -> None:
        self._dispatcher, self._page_size = dispatcher, page_size

    async def send(self, planned: PlannedRequest, number: int) -> Ended:
        """Send a request, the `number`-th of all, and read its answer as planned."""
        for _ in range(MAX_TRIES):
            try:
                return await _Reading(planned).read(self, number)
            except Overloaded:
                await asyncio.sleep(RETRY_SECONDS)
            except Unavailable:
                return Ended(planned, LOST)
        return Ended(planned, REFUSED)

    def permit(self) -> AbstractContextManager[None]:
        """A permit. Raises Overloaded or Unavailable."""
        return self._dispatcher.hold_permits(1)

    async def prepare(self, planned: PlannedRequest, number: int) -> PreparedRequest:
        """What intake does once a request has its permit. Raises EngineFault or Unavailable."""
        request, arrived = planned.request, self._dispatcher.now()
        if request.grammar is not None:
            await self._dispatcher.prepare_grammar(request.grammar)
        hidden = request.report.prompt_logprobs
        pages = (
            PromptPages()
            if hidden
            else hash_prompt(planned.prompt, self._page_size, request.cache_salt or "")
        )
        return PreparedRequest(
            planned.id, request, planned.prompt, planned.max_new, pages, arrived, number
        )

    def start(self, prepared: PreparedRequest) -> AbstractContextManager[LiveRequest]:
        """Queue a request. Raises Unavailable."""
        return self._dispatcher.start(prepared)

    def cancel(self, planned: PlannedRequest) -> None:
        """Cancel a request by its id."""
        self._dispatcher.cancel(planned.id)


class _Reading:
    """One try of a request."""

    def __init__(self, planned: PlannedRequest) -> None:
        self._planned = planned
        self._record: LiveRequest | None = None
        self._read: list[int] = []

    async def read(self, client: Client, number: int) -> Ended:
        try:
            async with asyncio.timeout(self._planned.leaves_after):
                how = await self._read_answer(client, number)
        except TimeoutError:
            how = LEFT
        return Ended(self._planned, how, self._record, tuple(self._read))

    async def _read_answer(self, client: Client, number: int) -> str:
        """Read to the end. Raises Overloaded or Unavailable if the request is never live."""
        with client.permit():
            try:
                prepared = await client.prepare(self._planned, number)
            except EngineFault:
                return BLAMED
            with client.start(prepared) as self._record, self._cancelling(client):
                try:
                    await self._read_tokens(self._record)
                except Cancelled:
                    return CANCELLED
                except EngineFault:
                    return BLAMED
                except GenerationFailed:
                    return FAILED
                return COMPLETE

    async def _read_tokens(self, record: LiveRequest) -> None:
        async for number in record.numbers():
            self._read.append(record.tokens[number - 1].id)
            if number in self._planned.stops_after:
                await asyncio.sleep(self._planned.read_seconds)

    @contextmanager
    def _cancelling(self, client: Client) -> Iterator[None]:
        """Cancel the request by its id at the planned time, if it is still live then."""
        if self._planned.cancelled_after is None:
            yield
            return
        loop = asyncio.get_running_loop()
        timer = loop.call_later(self._planned.cancelled_after, client.cancel, self._planned)
        try:
            yield
        finally:
            timer.cancel()
