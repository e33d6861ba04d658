"""OpenAI's bodies on their way through the intake: what each asks for, and how it is answered.

A chat's template is rendered before a permit is taken, the parameters are checked after it. The
rules and the forms of each route lie in the route's own file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial

from aiohttp import web

from router.http.context import REQUEST_ID
from router.offload import offload
from router.openai import chat, completions, responses
from router.openai.chat_prompt import ChatPrompt, ChatPromptBuilder
from router.openai.model_names import DEFAULT_NAMES, ModelNames
from router.openai.request_models import ChatRequest, CommonParameters, CompletionRequest
from router.openai.responses_request import ResponsesRequest, to_chat_body
from router.openai.sampling_defaults import SamplingDefaults
from router.openai.shape import ResponseFormatter, ResponseHeader
from router.requests.record import LiveRequest
from router.requests.request import Request, ResolvedLimits
from router.server_info import ServerInfo
from router.text.grammar import GrammarSource
from router.text.tokenizer import Tokenizer

NewFormatter = Callable[[ChatPrompt, ResponseHeader, LiveRequest], ResponseFormatter]
"""Makes the formatter of one choice."""


@dataclass(frozen=True, slots=True)
class OpenAIGeneration:
    """A body that has passed its prechecks."""

    build_requests: Callable[[], list[Request]]
    """Raises RouterError."""
    build_size: float
    """About as many bytes as `build_requests` has to look at."""
    new_formatter: Callable[[Sequence[LiveRequest]], ResponseFormatter]
    choices_per_prompt: int = 1
    """Number of consecutive Requests that share a prompt."""
    grammar_source: GrammarSource | None = None
    send_compute_time: bool = False
    """Whether the headers include `x-compute-time`, as TGI's do for chats."""
    adapter: int = 0
    """Number of the adapter that `model` names; 0 for the model alone."""

    async def validate(self) -> Sequence[Request]:
        """One Request for each choice of each prompt. Raises RouterError."""
        requests = await offload(self.build_size, self.build_requests)
        return [replace(request, adapter=self.adapter) for request in requests]

    def grammar(self) -> GrammarSource | None:
        """What each choice must match."""
        return self.grammar_source


class GenerationBuilder:
    """The prechecks of each body, for one model."""

    def __init__(
        self,
        bounds: ResolvedLimits,
        server_info: ServerInfo,
        tokenizer: Tokenizer,
        vocabulary_size: int,
        prompt_builder: ChatPromptBuilder,
        defaults: SamplingDefaults,
        adapters: ModelNames,
    ) -> None:
        """`vocabulary_size`: number of the model's logits; token ids are below it."""
        self._adapters = adapters
        self._defaults = defaults
        self._bounds, self._server_info, self._tokenizer = bounds, server_info, tokenizer
        self._vocabulary_size, self._prompt_builder = vocabulary_size, prompt_builder

    async def chat(self, http: web.Request, body: ChatRequest) -> OpenAIGeneration:
        """Of `/v1/chat/completions`. Raises RouterError."""
        adapter = self._adapters.adapter(body.model)
        body = self._defaults.fill(body)
        prompt = await self._prompt_builder.build(body, body_bytes(http))
        header = self._response_header(http, body)
        return OpenAIGeneration(
            self._chat_requests(body, prompt),
            build_size=0,
            new_formatter=lambda records: chat.ChatFormatter(
                body, prompt, records, header, self._server_info
            ),
            choices_per_prompt=body.n or 1,
            grammar_source=prompt.grammar,
            send_compute_time=True,
            adapter=adapter,
        )

    async def completion(self, http: web.Request, body: CompletionRequest) -> OpenAIGeneration:
        """Of `/v1/completions`. Raises RouterError."""
        adapter = self._adapters.adapter(body.model)
        body = self._defaults.fill(body)
        completions.parse_prompts(body, self._bounds)
        header = self._response_header(http, body)
        if not adapter:
            header = replace(header, model=self._server_info.model_id)
        decode = self._tokenizer.decode_without_gil
        return OpenAIGeneration(
            partial(completions.build_requests, body, self._bounds, self._vocabulary_size, decode),
            build_size=body_bytes(http),
            new_formatter=lambda records: completions.CompletionFormatter(
                body, records, header, self._server_info
            ),
            choices_per_prompt=body.n or 1,
            adapter=adapter,
        )

    async def response(self, http: web.Request, body: ResponsesRequest) -> OpenAIGeneration:
        """Of `/v1/responses`. Raises RouterError."""
        body = self._defaults.fill(body)
        as_chat = await offload(body_bytes(http), to_chat_body, body)
        return await self.translated(
            http,
            as_chat,
            lambda prompt, header, record: responses.ResponsesApiFormatter(
                body, prompt.new_parser(), record, header
            ),
        )

    async def translated(
        self, http: web.Request, as_chat: ChatRequest, new_formatter: NewFormatter
    ) -> OpenAIGeneration:
        """Of a body that was translated into a chat with one choice. Raises RouterError."""
        adapter = self._adapters.adapter(as_chat.model)
        as_chat = self._defaults.fill(as_chat)
        prompt = await self._prompt_builder.build(as_chat, body_bytes(http))
        header = self._response_header(http, as_chat)
        return OpenAIGeneration(
            self._chat_requests(as_chat, prompt),
            build_size=0,
            new_formatter=lambda records: new_formatter(prompt, header, records[0]),
            grammar_source=prompt.grammar,
            adapter=adapter,
        )

    def _chat_requests(self, body: ChatRequest, prompt: ChatPrompt) -> Callable[[], list[Request]]:
        limit = self._defaults.max_new_tokens
        return partial(
            chat.build_requests, body, prompt, self._bounds, self._vocabulary_size, limit
        )

    def _response_header(self, http: web.Request, body: CommonParameters) -> ResponseHeader:
        unnamed = body.model in DEFAULT_NAMES
        model = self._server_info.model_id if unnamed else str(body.model)
        return ResponseHeader(http[REQUEST_ID], int(datetime.now(UTC).timestamp()), model)


def body_bytes(http: web.Request) -> float:
    """Size of the body; infinite if it was not declared."""
    return math.inf if http.content_length is None else http.content_length
