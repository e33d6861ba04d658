"""`/v1/chat/completions`: its Requests, its chunks and its answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from router.errors import Invalid, RouterError
from router.openai import logprobs, validation
from router.openai.chat_prompt import Prompt
from router.openai.parsing.output import Delta
from router.openai.parsing.tool_calls import CallDelta
from router.openai.request_models import ChatBody
from router.openai.shape import Envelope, failure_event, finish, speculation, usage
from router.requests.record import Record
from router.requests.request import Bounds, Request, sequences
from router.server_info import About

PREFIX = "chatcmpl"
CHAT = 1
"""Of chats, as the scheduler tells kinds of text apart."""


def requests(body: ChatBody, prompt: Prompt, bounds: Bounds, vocabulary: int) -> list[Request]:
    """The `n` Requests of `body`, but for their grammar. Raises Invalid."""
    count = validation.check_count(body, bounds)
    top = body.top_logprobs or 0
    if top and not body.logprobs:
        raise Invalid("`top_logprobs` needs `logprobs`")
    plain = validation.validate(body, bounds, vocabulary, validation.Told(body.logprobs, top))
    if not prompt.text:
        raise Invalid("`inputs` cannot be empty")
    request = replace(plain, inputs=prompt.text, add_special_tokens=False, shown=prompt.shown)
    return list(sequences(replace(request, route=CHAT), count))


class Chat:
    """The Shape of a chat."""

    done = True

    def __init__(
        self,
        body: ChatBody,
        prompt: Prompt,
        records: Sequence[Record],
        envelope: Envelope,
        about: About,
    ) -> None:
        self._body, self._records, self._about = body, records, about
        self._envelope = envelope
        self._replies = [prompt.reply() for _ in records]

    def begin(self) -> Iterable[dict[str, Any]]:
        """Nothing."""
        return ()

    def token(self, index: int, number: int) -> Iterable[dict[str, Any]]:
        """One chunk."""
        reason, told = self._read(index, number)
        first = {"role": "assistant"} if number == 1 else {}
        choice = {
            "index": index,
            "delta": {**first, **_delta(told)},
            "logprobs": self._logprobs(index, number),
            "finish_reason": reason,
        }
        running = self._body.stream_options.continuous_usage_stats
        counts = usage([self._records[index]]) if running else None
        yield {**self._head("chat.completion.chunk"), "choices": [choice], "usage": counts}

    def end(self) -> Iterable[dict[str, Any]]:
        """Usage, if asked for."""
        if self._body.stream_options.include_usage:
            yield {**self._head("chat.completion.chunk"), "choices": [], **self._sums()}

    def failed(self, error: RouterError) -> dict[str, Any]:
        """The event of an error."""
        return failure_event(error)

    def answer(self) -> dict[str, Any]:
        """All choices."""
        choices = [self._choice(index) for index in range(len(self._records))]
        return {**self._head("chat.completion"), "choices": choices, **self._sums()}

    def _head(self, kind: str) -> dict[str, Any]:
        return self._envelope.head(kind, PREFIX)

    def _sums(self) -> dict[str, Any]:
        counts = usage(self._records, len(self._records))
        return {"usage": counts, **speculation(self._records, self._about)}

    def _read(self, index: int, number: int) -> tuple[str | None, Delta]:
        record, reply = self._records[index], self._replies[index]
        reason = finish(record, number)
        told = reply.push(record.tokens[number - 1].text, last=reason is not None)
        return "tool_calls" if reason == "stop" and reply.called else reason, told

    def _logprobs(self, index: int, number: int) -> dict[str, Any] | None:
        if not self._body.logprobs:
            return None
        record = self._records[index]
        return logprobs.chat(record, record.tokens[number - 1])

    def _choice(self, index: int) -> dict[str, Any]:
        numbers = range(1, len(self._records[index].tokens) + 1)
        read = [self._read(index, number) for number in numbers]
        told = [self._logprobs(index, number) for number in numbers]
        return {
            "index": index,
            "message": message([delta for _, delta in read]),
            "logprobs": logprobs.joined(told),
            "finish_reason": read[-1][0],
        }


def message(deltas: Sequence[Delta]) -> dict[str, Any]:
    """The assistant's whole message."""
    content = "".join(delta.content for delta in deltas)
    reasoning = "".join(delta.reasoning for delta in deltas)
    calls = merged(call for delta in deltas for call in delta.calls)
    told: dict[str, Any] = {"role": "assistant"}
    told["content"] = None if calls and not content else content
    if reasoning:
        told["reasoning_content"] = reasoning
    if calls:
        told["tool_calls"] = [
            {
                "id": call.id,
                "type": "function",
                "function": {"name": call.name, "arguments": call.arguments},
            }
            for call in calls
        ]
    return told


def merged(parts: Iterable[CallDelta]) -> list[CallDelta]:
    """Whole calls from their parts."""
    calls: dict[int, CallDelta] = {}
    for part in parts:
        before = calls.get(part.index)
        whole = before and replace(before, arguments=before.arguments + part.arguments)
        calls[part.index] = whole or part
    return list(calls.values())


def _delta(told: Delta) -> dict[str, Any]:
    delta: dict[str, Any] = {}
    if told.content or not (told.calls or told.reasoning):
        delta["content"] = told.content
    if told.reasoning:
        delta["reasoning_content"] = told.reasoning
    if told.calls:
        delta["tool_calls"] = list(map(_call, told.calls))
    return delta


def _call(part: CallDelta) -> dict[str, Any]:
    if part.id is None:
        return {"index": part.index, "function": {"arguments": part.arguments}}
    function = {"name": part.name, "arguments": part.arguments}
    return {"index": part.index, "id": part.id, "type": "function", "function": function}
