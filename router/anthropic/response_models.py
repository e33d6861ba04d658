"""Response bodies of the Messages API, for the OpenAPI document.

A default of None marks what only some blocks and events have.
"""

from __future__ import annotations

from typing import Any, Literal

from router.http.json_response import ResponseModel

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]


class AnthropicErrorObject(ResponseModel):
    """Description of an error."""

    type: str
    """Kind of error, such as `invalid_request_error` or `overloaded_error`."""
    message: str
    """Description of the error."""


class AnthropicErrorResponse(ResponseModel):
    """An error on the routes of the Messages API, and the event of one in a stream."""

    type: Literal["error"]
    """Always `error`."""
    error: AnthropicErrorObject
    """Description of the error."""


class AnthropicUsage(ResponseModel):
    """Token counts; the three of the input add up to the length of the prompt."""

    input_tokens: int
    """Tokens of the prompt that were not in the KV cache."""
    cache_creation_input_tokens: int
    """Always 0."""
    cache_read_input_tokens: int
    """Tokens of the prompt that were in the KV cache."""
    output_tokens: int
    """Generated tokens so far."""


class OutputBlock(ResponseModel):
    """A block of the message."""

    type: Literal["text", "thinking", "tool_use"]
    """Kind of block."""
    text: str | None = None
    """Text of a `text` block."""
    thinking: str | None = None
    """Reasoning of a `thinking` block."""
    signature: str | None = None
    """Always empty."""
    id: str | None = None
    """Id of a `tool_use` block."""
    name: str | None = None
    """Name of the tool that is called."""
    input: dict[str, Any] | None = None
    """Arguments of the call; empty if `max_tokens` cut them off."""


class AnthropicMessageObject(ResponseModel):
    """A message of the assistant."""

    id: str
    """Id of the message: `msg_` and the request's id."""
    type: Literal["message"]
    """Always `message`."""
    role: Literal["assistant"]
    """Always `assistant`."""
    model: str
    """The request's `model`, or the served model."""
    content: list[OutputBlock]
    """Blocks of the message."""
    stop_reason: StopReason | None
    """Why the message ended; null at the start of a stream."""
    stop_sequence: str | None
    """The stop sequence that ended the message."""
    usage: AnthropicUsage
    """Token counts."""


class EventDelta(ResponseModel):
    """What an event adds to a block, or to the message."""

    type: Literal["text_delta", "thinking_delta", "input_json_delta"] | None = None
    """Kind of delta of a block."""
    text: str | None = None
    """Text to append."""
    thinking: str | None = None
    """Reasoning to append."""
    partial_json: str | None = None
    """JSON of the arguments to append."""
    stop_reason: StopReason | None = None
    """Why the message ended."""
    stop_sequence: str | None = None
    """The stop sequence that ended the message."""


class AnthropicEvent(ResponseModel):
    """One event of a stream, whose `event:` line is its `type`."""

    type: Literal[
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "message_stop",
    ]
    """Kind of event."""
    message: AnthropicMessageObject | None = None
    """The message without content, in `message_start`."""
    index: int | None = None
    """Index of the block."""
    content_block: OutputBlock | None = None
    """The empty block, in `content_block_start`."""
    delta: EventDelta | None = None
    """What is added."""
    usage: AnthropicUsage | None = None
    """Token counts of the whole message, in `message_delta`."""


class InputTokens(ResponseModel):
    """The length of a prompt."""

    input_tokens: int
    """Number of tokens of the prompt."""
