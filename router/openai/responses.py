"""`/v1/responses`, without stored responses: from a live request to events and a response.

The output is a sequence of items (reasoning, messages, calls), one of which is open at a time. The
events of a stream describe how it grows, and the complete response is its last state. Pure but for
ids.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any

from router.errors import RouterError
from router.openai.logprobs import is_hidden, token_logprobs
from router.openai.parsing.content_tokens import ContentTokens
from router.openai.parsing.output import OutputParser
from router.openai.parsing.tool_calls import ToolCallDelta
from router.openai.request_models import NamedTool
from router.openai.responses_request import ResponsesRequest
from router.openai.shape import ResponseHeader, error_event_body, finish_reason, usage
from router.requests.record import LiveRequest

ID_PREFIX = "resp"


class ResponsesApiFormatter:
    """Formats a response."""

    ends_with_done, names_events = False, True

    def __init__(
        self,
        body: ResponsesRequest,
        parser: OutputParser,
        record: LiveRequest,
        response_header: ResponseHeader,
    ) -> None:
        self._body, self._record = body, record
        self._content = ContentTokens(parser)
        self._response_header = response_header
        self._output: list[dict[str, Any]] = []
        """Items; the last one is open if `_open_kind` is set."""
        self._open_kind: str | None = None
        self._open_call_index = -1
        """Index of the open call."""
        self._reasoning_tokens = 0
        """Number of tokens that were reasoning."""
        self._sequence_number = 0

    def start_events(self) -> Iterable[dict[str, Any]]:
        """`response.created` and `response.in_progress`."""
        yield self._event("response.created", response=self._response_object("in_progress"))
        yield self._event("response.in_progress", response=self._response_object("in_progress"))

    def token_events(self, index: int, number: int) -> Iterable[dict[str, Any]]:
        """What the token adds to the open item, and the items that it closes and opens."""
        record, token = self._record, self._record.tokens[number - 1]
        last = finish_reason(record, number) is not None
        delta, numbers = self._content.push(token.text, last=last, hidden=is_hidden(record, token))
        logprobs = token_logprobs(record, numbers if self._body.returns_logprobs else ())
        if delta.reasoning:
            self._reasoning_tokens += 1
            yield from self._append_text("reasoning", delta.reasoning)
        if delta.content:
            yield from self._append_text("message", delta.content, logprobs)
        for call in delta.calls:
            yield from self._append_call(call)

    def final_events(self) -> Iterable[dict[str, Any]]:
        """The end of the last item, and the complete response."""
        yield from self._close_item()
        status = self._status()
        yield self._event(f"response.{status}", response=self._response_object(status))

    def error_event(self, error: RouterError) -> dict[str, Any]:
        """The event of an error."""
        event = self._event("error", code=error.error_type, message=str(error), param=None)
        return {**event, **error_event_body(error)}

    def full_response(self) -> dict[str, Any]:
        """The complete response."""
        for number in range(1, len(self._record.tokens) + 1):
            for _ in self.token_events(0, number):
                pass
        *_, last = self.final_events()
        response: dict[str, Any] = last["response"]
        return response

    def _status(self) -> str:
        return "incomplete" if self._record.finish_reason == "length" else "completed"

    def _append_text(
        self, kind: str, text: str, logprobs: Sequence[dict[str, Any]] = ()
    ) -> Iterator[dict[str, Any]]:
        if self._open_kind != kind:
            yield from self._close_item()
            yield from self._open_item(kind, _NEW_ITEM_BY_KIND[kind]())
        part = self._output[-1]["content"][0]
        part["text"] += text
        more = {}
        if kind == "message":
            part["logprobs"] += logprobs
            more = {"logprobs": list(logprobs)}
        yield self._item_event(
            _TEXT_EVENT_BY_KIND[kind] + ".delta", content_index=0, delta=text, **more
        )

    def _append_call(self, part: ToolCallDelta) -> Iterator[dict[str, Any]]:
        if self._open_kind != "function_call" or part.index != self._open_call_index:
            yield from self._close_item()
            self._open_call_index = part.index
            yield from self._open_item("function_call", _call_item(part))
        if part.arguments:
            self._output[-1]["arguments"] += part.arguments
            yield self._item_event("function_call_arguments.delta", delta=part.arguments)

    def _open_item(self, kind: str, item: dict[str, Any]) -> Iterator[dict[str, Any]]:
        self._open_kind = kind
        self._output.append(item)
        yield self._indexed_event(
            "output_item.added", item={**item, "content": []} if _has_parts(item) else item
        )
        if _has_parts(item):
            yield self._item_event(
                "content_part.added", content_index=0, part=dict(_first_part(item))
            )

    def _close_item(self) -> Iterator[dict[str, Any]]:
        if self._open_kind is None:
            return
        kind, item, self._open_kind = self._open_kind, self._output[-1], None
        item["status"] = self._status() if self._record.finish_reason else "completed"
        if kind == "function_call":
            yield self._item_event(
                "function_call_arguments.done", name=item["name"], arguments=item["arguments"]
            )
        else:
            part = dict(_first_part(item))
            name = _TEXT_EVENT_BY_KIND[kind] + ".done"
            more = {"logprobs": part["logprobs"]} if kind == "message" else {}
            yield self._item_event(name, content_index=0, text=part["text"], **more)
            yield self._item_event("content_part.done", content_index=0, part=part)
        yield self._indexed_event("output_item.done", item=item)

    def _indexed_event(self, kind: str, **more: Any) -> dict[str, Any]:
        return self._event(f"response.{kind}", output_index=len(self._output) - 1, **more)

    def _item_event(self, kind: str, **more: Any) -> dict[str, Any]:
        return self._indexed_event(kind, item_id=self._output[-1]["id"], **more)

    def _event(self, kind: str, **more: Any) -> dict[str, Any]:
        self._sequence_number += 1
        return {"type": kind, "sequence_number": self._sequence_number - 1, **more}

    def _response_object(self, status: str) -> dict[str, Any]:
        body, echoed = self._body, self._echoed_fields
        incomplete = {"reason": "max_output_tokens"} if status == "incomplete" else None
        return {
            "id": f"{ID_PREFIX}_{self._response_header.request_id}",
            "object": "response",
            "created_at": self._response_header.created,
            "status": status,
            "error": None,
            "incomplete_details": incomplete,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": self._response_header.model,
            "output": list(self._output) if status != "in_progress" else [],
            "parallel_tool_calls": body.parallel_tool_calls,
            "previous_response_id": None,
            "reasoning": {**echoed["reasoning"], "summary": None},
            "store": False,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": echoed["text"],
            "tool_choice": _tool_choice(body.tool_choice),
            "tools": echoed["tools"] or [],
            "top_logprobs": body.top_logprobs or 0,
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": "disabled",
            "usage": self._usage() if status != "in_progress" else None,
            "user": body.user,
            "metadata": body.metadata or {},
        }

    @cached_property
    def _echoed_fields(self) -> dict[str, Any]:
        """Fields of the request that every response object repeats."""
        names = {"reasoning", "text", "tools"}
        return self._body.model_dump(by_alias=True, include=names)

    def _usage(self) -> dict[str, Any]:
        counts = usage([self._record])
        return {
            "input_tokens": counts["prompt_tokens"],
            "input_tokens_details": counts["prompt_tokens_details"],
            "output_tokens": counts["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": self._reasoning_tokens},
            "total_tokens": counts["total_tokens"],
        }


def _new_id(prefix: str) -> str:
    return f"{prefix}_{secrets.token_hex(12)}"


def _message_item() -> dict[str, Any]:
    part = {"type": "output_text", "text": "", "annotations": [], "logprobs": []}
    item = {"type": "message", "id": _new_id("msg"), "status": "in_progress", "role": "assistant"}
    return {**item, "content": [part]}


def _reasoning_item() -> dict[str, Any]:
    part = {"type": "reasoning_text", "text": ""}
    item = {"type": "reasoning", "id": _new_id("rs"), "status": "in_progress", "summary": []}
    return {**item, "content": [part]}


def _call_item(part: ToolCallDelta) -> dict[str, Any]:
    return {
        "type": "function_call",
        "id": _new_id("fc"),
        "status": "in_progress",
        "call_id": part.id,
        "name": part.name,
        "arguments": "",
    }


_NEW_ITEM_BY_KIND = {"message": _message_item, "reasoning": _reasoning_item}
_TEXT_EVENT_BY_KIND = {"message": "output_text", "reasoning": "reasoning_text"}


def _has_parts(item: dict[str, Any]) -> bool:
    return "content" in item


def _first_part(item: dict[str, Any]) -> dict[str, Any]:
    part: dict[str, Any] = item["content"][0]
    return part


def _tool_choice(choice: str | NamedTool | None) -> Any:
    if isinstance(choice, NamedTool):
        return {"type": "function", "name": choice.function.name}
    return choice or "auto"
