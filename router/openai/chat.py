"""`/v1/chat/completions`: from a body to Requests, and from live requests to chunks and a response.

Pure. What the output means (reasoning, tool calls) is decided in `parsing`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from router.errors import RouterError
from router.openai import logprobs, validation
from router.openai.chat_prompt import ChatPrompt
from router.openai.parsing.content_tokens import ContentTokens
from router.openai.parsing.output import OutputDelta
from router.openai.parsing.tool_calls import ToolCallDelta
from router.openai.request_models import ChatRequest
from router.openai.shape import (
    ResponseHeader,
    error_event_body,
    finish_reason,
    speculation_metrics,
    usage,
)
from router.requests.record import LiveRequest
from router.requests.request import Request, ResolvedLimits, expand_best_of
from router.requests.rules import require
from router.server_info import ServerInfo

ID_PREFIX = "chatcmpl"
MAX_TOP_LOGPROBS = 20
"""OpenAI's limit; a larger `--max-top-n-tokens` raises it."""
CHAT_ROUTE = 1
"""`Request.route` of chats."""


def build_requests(
    body: ChatRequest,
    prompt: ChatPrompt,
    bounds: ResolvedLimits,
    vocabulary_size: int,
    default_new_tokens: int | None = None,
) -> list[Request]:
    """The `n` Requests of `body`, without their grammar. Raises ValidationError.

    `default_new_tokens` is the limit if `body` has none; None: as many as fit.
    """
    count = validation.validated_choice_count(body, bounds)
    top = body.top_logprobs or 0
    require(not top or body.logprobs, "`top_logprobs` needs `logprobs`")
    limit = max(MAX_TOP_LOGPROBS, bounds.max_top_n_tokens)
    options = validation.LogprobOptions(body.logprobs, top, limit)
    base = validation.validate(body, bounds, vocabulary_size, options)
    require(bool(prompt.text), "the chat template renders an empty prompt")
    request = replace(
        base,
        inputs=prompt.text,
        add_special_tokens=False,
        visible_specials=prompt.visible_special_tokens,
        default_new_tokens=default_new_tokens,
    )
    return list(expand_best_of(replace(request, route=CHAT_ROUTE), count))


class ChatFormatter:
    """Formats the response of a chat."""

    ends_with_done, names_events = True, False

    def __init__(
        self,
        body: ChatRequest,
        prompt: ChatPrompt,
        records: Sequence[LiveRequest],
        response_header: ResponseHeader,
        server_info: ServerInfo,
    ) -> None:
        self._body, self._records, self._server_info = body, records, server_info
        self._response_header = response_header
        self._contents = [ContentTokens(prompt.new_parser()) for _ in records]

    def start_events(self) -> Iterable[dict[str, Any]]:
        """None."""
        return ()

    def token_events(self, index: int, number: int) -> Iterable[dict[str, Any]]:
        """One chunk."""
        reason, delta, entries = self._parse_token(index, number)
        first = {"role": "assistant"} if number == 1 else {}
        choice = {
            "index": index,
            "delta": {**first, **_delta_fields(delta)},
            "logprobs": logprobs.chat_logprobs(entries),
            "finish_reason": reason,
        }
        with_usage = self._body.stream_options.continuous_usage_stats
        counts = usage([self._records[index]]) if with_usage else None
        yield {**self._header_fields("chat.completion.chunk"), "choices": [choice], "usage": counts}

    def final_events(self) -> Iterable[dict[str, Any]]:
        """One chunk with the usage, if requested."""
        if self._body.stream_options.include_usage:
            yield {
                **self._header_fields("chat.completion.chunk"),
                "choices": [],
                **self._usage_fields(),
            }

    def error_event(self, error: RouterError) -> dict[str, Any]:
        """The event of an error."""
        return error_event_body(error)

    def full_response(self) -> dict[str, Any]:
        """The response with all choices."""
        choices = [self._choice(index) for index in range(len(self._records))]
        return {
            **self._header_fields("chat.completion"),
            "choices": choices,
            **self._usage_fields(),
        }

    def _header_fields(self, kind: str) -> dict[str, Any]:
        return self._response_header.common_fields(kind, ID_PREFIX)

    def _usage_fields(self) -> dict[str, Any]:
        counts = usage(self._records, len(self._records))
        return {"usage": counts, **speculation_metrics(self._records, self._server_info)}

    def _parse_token(
        self, index: int, number: int
    ) -> tuple[str | None, OutputDelta, list[dict[str, Any]]]:
        """The finish reason, what the token adds, and the log-probabilities of its content."""
        record, content = self._records[index], self._contents[index]
        token, reason = record.tokens[number - 1], finish_reason(record, number)
        delta, numbers = content.push(
            token.text, last=reason is not None, hidden=logprobs.is_hidden(record, token)
        )
        entries = logprobs.token_logprobs(record, numbers if self._body.logprobs else ())
        return "tool_calls" if reason == "stop" and content.has_calls else reason, delta, entries

    def _choice(self, index: int) -> dict[str, Any]:
        numbers = range(1, len(self._records[index].tokens) + 1)
        parsed = [self._parse_token(index, number) for number in numbers]
        return {
            "index": index,
            "message": assistant_message([delta for _, delta, _ in parsed]),
            "logprobs": logprobs.chat_logprobs([entry for *_, part in parsed for entry in part]),
            "finish_reason": parsed[-1][0],
        }


def assistant_message(deltas: Sequence[OutputDelta]) -> dict[str, Any]:
    """The assistant's message, joined from its deltas."""
    content = "".join(delta.content for delta in deltas)
    reasoning = "".join(delta.reasoning for delta in deltas)
    calls = merge_call_deltas(call for delta in deltas for call in delta.calls)
    message: dict[str, Any] = {"role": "assistant"}
    message["content"] = None if calls and not content else content
    if reasoning:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in calls
        ]
    return message


def merge_call_deltas(parts: Iterable[ToolCallDelta]) -> list[ToolCallDelta]:
    """The calls, each joined from its deltas."""
    calls: dict[int, ToolCallDelta] = {}
    for part in parts:
        call = calls.get(part.index)
        joined = call and replace(call, arguments=call.arguments + part.arguments)
        calls[part.index] = joined or part
    return list(calls.values())


def _delta_fields(output_delta: OutputDelta) -> dict[str, Any]:
    delta: dict[str, Any] = {}
    if output_delta.content or not (output_delta.calls or output_delta.reasoning):
        delta["content"] = output_delta.content
    if output_delta.reasoning:
        delta["reasoning_content"] = output_delta.reasoning
    if output_delta.calls:
        delta["tool_calls"] = list(map(_call_fields, output_delta.calls))
    return delta


def _call_fields(part: ToolCallDelta) -> dict[str, Any]:
    if part.id is None:
        return {"index": part.index, "function": {"arguments": part.arguments}}
    function = {"name": part.name, "arguments": part.arguments}
    return {"index": part.index, "id": part.id, "type": "function", "function": function}
