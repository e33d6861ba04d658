"""The way of a request from a parsed body to the scheduler: every check and preparation, in order.

Rule: what fails here fails before the response has a status. The order is TGI's: the checks that
need no permit, a permit (429), the rules for parameters, the prompt's length, the grammar (422).
The rules themselves belong to the API that read the body; what runs when, to the scheduler.
"""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from typing import Protocol, TypeVar

from router.dispatch.dispatcher import Dispatcher
from router.dispatch.live_requests import PreparedRequest
from router.dispatch.page_hashes import PromptPages, hash_prompt, scope_of
from router.errors import ValidationError
from router.offload import offload
from router.requests.record import LiveRequest
from router.requests.request import Request, ResolvedLimits, check_text_size, fit_to_context
from router.text.encoder import Encoder
from router.text.grammar import GrammarCompiler, GrammarSource
from shard.wire.protocol import Sampling

MAX_NAME_CHARACTERS = 40
"""Maximum number of characters of a token's name in an error message."""


class Generation(Protocol):
    """A body that has passed the checks that come before a permit."""

    async def validate(self) -> Sequence[Request]:
        """One Request for each sequence. Raises RouterError with the first rule broken."""

    def grammar(self) -> GrammarSource | None:
        """What the output must match. Raises ValidationError."""


AnyGeneration = TypeVar("AnyGeneration", bound=Generation)


class Intake:
    """Starts requests on one dispatcher, for one model."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        encoder: Encoder,
        grammars: GrammarCompiler,
        bounds: ResolvedLimits,
        page_size: int,
        vocabulary_size: int,
    ) -> None:
        """`page_size`: tokens in a page of the KV cache; `vocabulary_size`: ids are below it."""
        self._dispatcher, self._encoder, self._grammars = dispatcher, encoder, grammars
        self._bounds, self._page_size = bounds, page_size
        self._vocabulary_size = vocabulary_size
        self._calls = itertools.count(1)

    @asynccontextmanager
    async def open(
        self,
        request_id: str,
        precheck: Callable[[], Awaitable[AnyGeneration]],
        cache_scope: str = "",
        caller: str = "",
    ) -> AsyncIterator[tuple[AnyGeneration, list[LiveRequest]]]:
        """What `precheck` returned and its live requests; leaving cancels those that still run.

        Cached prefixes are shared within a `cache_scope`; all scopes of a server are equally long.
        Only `caller` may ask for the requests by their id, or cancel them.
        Each sequence takes a permit. Raises RouterError, with nothing left running.
        """
        call = next(self._calls)
        generation = await precheck()
        with ExitStack() as held:
            held.enter_context(self._dispatcher.hold_permits(1))
            requests = await generation.validate()
            held.enter_context(self._dispatcher.hold_permits(len(requests) - 1))
            records: list[LiveRequest] = []
            previous: PreparedRequest | None = None
            for request in requests:
                if previous is not None and _differ_in_sampling_only(request, previous.request):
                    prepared = _with_sampling(previous, request.sampling)
                else:
                    prepared = replace(
                        await self._prepare(request_id, request, generation, call, cache_scope),
                        caller=caller,
                    )
                records.append(held.enter_context(self._dispatcher.start(prepared)))
                previous = prepared
            if records:
                await self._dispatcher.wait_in_queue(records[0])
            yield generation, records

    async def _prepare(
        self,
        request_id: str,
        request: Request,
        generation: Generation,
        call: int,
        cache_scope: str,
    ) -> PreparedRequest:
        arrived = self._dispatcher.now()
        tokens = await self._encode(request)
        prompt, max_new = fit_to_context(request, tokens, self._bounds)
        await self._check_ids(request, prompt)
        request = await self._with_grammar(request, generation)
        salt = cache_scope + (request.cache_salt or "")
        pages = await self._hash_pages(request, prompt, salt)
        scope = scope_of(salt)
        return PreparedRequest(
            request_id, request, prompt, max_new, pages, arrived, call, scope=scope
        )

    async def _encode(self, request: Request) -> Sequence[int]:
        if request.prompt_token_ids is not None:
            return request.prompt_token_ids
        min_tokens = self._encoder.tokenizer.min_token_count(request.inputs)
        check_text_size(request, min_tokens, self._bounds)
        return await self._encoder.encode(request.inputs, request.add_special_tokens)

    async def _check_ids(self, request: Request, prompt: Sequence[int]) -> None:
        """Raises ValidationError for an id that the model has no embedding for.

        A client may send such an id, and a tokenizer may have more tokens than its model.
        """
        largest, size = await offload(len(prompt), max, prompt), self._vocabulary_size
        if largest < size:
            return
        if request.prompt_token_ids is not None:
            raise ValidationError(f"token ids must be below {size}. Given: {largest}")
        name = self._encoder.tokenizer.decode([largest])[:MAX_NAME_CHARACTERS]
        raise ValidationError(
            f"`inputs` contains the token `{name}`, whose id {largest} is not in the model's"
            f" vocabulary of {size} tokens"
        )

    async def _with_grammar(self, request: Request, generation: Generation) -> Request:
        """The request with its grammar compiled, here and on every rank."""
        compiled = await self._grammars.compile(generation.grammar())
        if compiled is None:
            return request
        await self._dispatcher.prepare_grammar(compiled)
        return replace(request, grammar=compiled)

    async def _hash_pages(self, request: Request, prompt: Sequence[int], salt: str) -> PromptPages:
        """No hashes where the prompt's log-probabilities are wanted: it has to be computed."""
        if request.report.prompt_logprobs:
            return PromptPages()
        return await offload(
            4 * len(prompt), hash_prompt, prompt, self._page_size, salt, request.adapter
        )


def _differ_in_sampling_only(request: Request, prepared: Request) -> bool:
    """Whether what was prepared of one request serves the other, such as one of `n` choices."""
    return replace(request, sampling=prepared.sampling, grammar=prepared.grammar) == prepared


def _with_sampling(prepared: PreparedRequest, sampling: Sampling) -> PreparedRequest:
    """Another sequence with the same prompt, encoded once."""
    request = replace(prepared.request, sampling=sampling)
    return replace(prepared, request=request, pages=prepared.pages.copy())
