"""`/v1/messages`: from a live request to the events of a stream and to a message.

The content is a sequence of blocks (thinking, text, calls of tools), one of which is open at a
time. The events of a stream describe how it grows, and the message is its last state. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from router import exact_json
from router.anthropic.error_form import anthropic_error
from router.errors import RouterError
from router.openai.logprobs import is_hidden
from router.openai.parsing.content_tokens import ContentTokens
from router.openai.parsing.output import OutputParser
from router.openai.parsing.tool_calls import ToolCallDelta
from router.openai.shape import ResponseHeader, finish_reason
from router.requests.record import LiveRequest

ID_PREFIX = "msg"
_STOP_REASONS = {"eos_token": "end_turn", "stop_sequence": "stop_sequence", "length": "max_tokens"}
_EMPTY_BLOCKS: dict[str, dict[str, Any]] = {
    "text": {"type": "text", "text": ""},
    "thinking": {"type": "thinking", "thinking": "", "signature": ""},
}


class MessageFormatter:
    """Formats a message."""

    ends_with_done, names_events = False, True

    def __init__(
        self, parser: OutputParser, record: LiveRequest, response_header: ResponseHeader
    ) -> None:
        self._record, self._content = record, ContentTokens(parser)
        self._response_header = response_header
        self._blocks: list[dict[str, Any]] = []
        """Blocks; the last one is open if `_open_kind` is set. The `input` of a call is text."""
        self._open_kind: str | None = None
        """Type of the open block, with the index of its call if it has one."""

    def start_events(self) -> Iterable[dict[str, Any]]:
        """`message_start`."""
        yield {"type": "message_start", "message": self._message([])}

    def token_events(self, index: int, number: int) -> Iterable[dict[str, Any]]:
        """What the token adds to the open block, and the blocks that it closes and opens."""
        record, token = self._record, self._record.tokens[number - 1]
        last = finish_reason(record, number) is not None
        delta, _ = self._content.push(token.text, last=last, hidden=is_hidden(record, token))
        if delta.reasoning:
            yield from self._append("thinking", "thinking", "thinking_delta", delta.reasoning)
        if delta.content:
            yield from self._append("text", "text", "text_delta", delta.content)
        for call in delta.calls:
            yield from self._append_call(call)

    def final_events(self) -> Iterable[dict[str, Any]]:
        """The end of the last block, and of the message."""
        yield from self._close_block()
        end = {"stop_reason": self._stop_reason(), "stop_sequence": self._stop_sequence()}
        yield {"type": "message_delta", "delta": end, "usage": self._usage()}
        yield {"type": "message_stop"}

    def error_event(self, error: RouterError) -> dict[str, Any]:
        """The event of an error."""
        return anthropic_error(error)

    def full_response(self) -> dict[str, Any]:
        """The message."""
        for number in range(1, len(self._record.tokens) + 1):
            for _ in self.token_events(0, number):
                pass
        return self._message([_complete(block) for block in self._blocks])

    def _append(self, kind: str, field: str, delta: str, text: str) -> Iterator[dict[str, Any]]:
        if self._open_kind != kind:
            yield from self._open_block(kind, dict(_EMPTY_BLOCKS[kind]))
        yield self._append_text(field, delta, field, text)

    def _append_call(self, part: ToolCallDelta) -> Iterator[dict[str, Any]]:
        kind = f"tool_use {part.index}"
        if self._open_kind != kind:
            call = {"type": "tool_use", "id": part.id, "name": part.name}
            yield from self._open_block(kind, {**call, "input": {}})
            self._blocks[-1]["input"] = ""
        if part.arguments:
            yield self._append_text("input", "input_json_delta", "partial_json", part.arguments)

    def _append_text(self, field: str, kind: str, name: str, text: str) -> dict[str, Any]:
        self._blocks[-1][field] += text
        return self._block_event("content_block_delta", delta={"type": kind, name: text})

    def _open_block(self, kind: str, block: dict[str, Any]) -> Iterator[dict[str, Any]]:
        yield from self._close_block()
        self._open_kind = kind
        self._blocks.append(block)
        yield self._block_event("content_block_start", content_block=dict(block))

    def _close_block(self) -> Iterator[dict[str, Any]]:
        if self._open_kind is not None:
            self._open_kind = None
            yield self._block_event("content_block_stop")

    def _block_event(self, kind: str, **more: Any) -> dict[str, Any]:
        return {"type": kind, "index": len(self._blocks) - 1, **more}

    def _stop_reason(self) -> str | None:
        """None before the last token."""
        if self._record.finish_reason is None:
            return None
        reason = _STOP_REASONS[self._record.finish_reason]
        return "tool_use" if reason == "end_turn" and self._content.has_calls else reason

    def _stop_sequence(self) -> str | None:
        return self._record.stop_string if self._stop_reason() == "stop_sequence" else None

    def _message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {
            "id": f"{ID_PREFIX}_{self._response_header.request_id}",
            "type": "message",
            "role": "assistant",
            "model": self._response_header.model,
            "content": content,
            "stop_reason": self._stop_reason(),
            "stop_sequence": self._stop_sequence(),
            "usage": self._usage(),
        }

    def _usage(self) -> dict[str, Any]:
        """Token counts; cached tokens of the prompt are not `input_tokens`, as at Anthropic."""
        cached = self._record.cached_tokens
        return {
            "input_tokens": len(self._record.prompt) - cached,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": cached,
            "output_tokens": len(self._record.tokens),
        }


def _complete(block: dict[str, Any]) -> dict[str, Any]:
    """The block with its `input` as an object; {} if the call was cut off, as at Anthropic."""
    if block["type"] != "tool_use":
        return block
    try:
        value = exact_json.loads(block["input"].encode())
    except ValueError:
        value = {}
    return {**block, "input": value}
