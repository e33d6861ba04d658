"""The way of a request from a parsed body to the scheduler: every check and preparation, in order.

Rule: what fails here fails before the response has a status. The order is TGI's: the checks that
need no permit, a permit (429), the rules for parameters, the prompt's length, the grammar (422).
The rules themselves belong to the API that read the body; what runs when, to the scheduler.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from typing import Protocol, TypeVar

from router.dispatch.dispatcher import Dispatcher, PreparedRequest
from router.dispatch.page_hashes import PromptPages, hash_prompt
from router.offload import offload
from router.requests.record import LiveRequest
from router.requests.request import Request, ResolvedLimits, fit_to_context
from router.text.encoder import Encoder
from router.text.grammar import GrammarCompiler, GrammarSource


class Generation(Protocol):
    """A body that has passed the checks that come before a permit."""

    async def validate(self) -> Sequence[Request]:
        """One Request for each sequence. Raises RouterError with the first rule broken."""

    def grammar(self) -> GrammarSource | None:
        """What the output must match. Raises ValidationError."""


AnyGeneration = TypeVar("AnyGeneration", bound=Generation)


class Intake:
    """Starts requests on one dispatcher, whose shards' pages hold `page_size` tokens."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        encoder: Encoder,
        grammars: GrammarCompiler,
        bounds: ResolvedLimits,
        page_size: int,
    ) -> None:
        self._dispatcher, self._encoder, self._grammars = dispatcher, encoder, grammars
        self._bounds, self._page_size = bounds, page_size

    @asynccontextmanager
    async def open(
        self, request_id: str, precheck: Callable[[], Awaitable[AnyGeneration]]
    ) -> AsyncIterator[tuple[AnyGeneration, list[LiveRequest]]]:
        """What `precheck` returned and its live requests; leaving cancels those that still run.

        Each sequence takes a permit. Raises RouterError, with nothing left running.
        """
        generation = await precheck()
        with ExitStack() as held:
            held.enter_context(self._dispatcher.hold_permits(1))
            requests = await generation.validate()
            held.enter_context(self._dispatcher.hold_permits(len(requests) - 1))
            records: list[LiveRequest] = []
            for request in requests:
                arrived = self._dispatcher.now()
                tokens = await self._encode(request)
                prompt, max_new = fit_to_context(request, tokens, self._bounds)
                request = await self._with_grammar(request, generation)
                pages = await self._hash_pages(request, prompt)
                start = self._dispatcher.start(
                    PreparedRequest(request_id, request, prompt, max_new, pages, arrived)
                )
                records.append(held.enter_context(start))
            yield generation, records

    async def _encode(self, request: Request) -> Sequence[int]:
        if request.prompt_token_ids is not None:
            return request.prompt_token_ids
        return await self._encoder.encode(request.inputs, request.add_special_tokens)

    async def _with_grammar(self, request: Request, generation: Generation) -> Request:
        """The request with its grammar compiled, here and on every rank."""
        compiled = await self._grammars.compile(generation.grammar())
        if compiled is None:
            return request
        await self._dispatcher.prepare_grammar(compiled)
        return replace(request, grammar=compiled)

    async def _hash_pages(self, request: Request, prompt: Sequence[int]) -> PromptPages:
        """No hashes where the prompt's log-probabilities are wanted: it has to be computed."""
        if request.report.prompt_logprobs:
            return PromptPages()
        salt = request.cache_salt or ""
        return await offload(4 * len(prompt), hash_prompt, prompt, self._page_size, salt)
