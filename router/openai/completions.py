"""`/v1/completions`: several prompts, as text or token ids, with echo and log-probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from router.errors import Invalid, RouterError, SuffixGiven, TooManyPrompts
from router.openai import validation
from router.openai.logprobs import Columns
from router.openai.request_models import CompletionBody
from router.openai.shape import Envelope, failure_event, finish, speculation, usage
from router.requests.record import Record
from router.requests.request import Bounds, Request, sequences
from router.server_info import About

PREFIX = "cmpl"
Text = str | tuple[int, ...]


def prompts(body: CompletionBody, bounds: Bounds) -> Sequence[Text]:
    """The prompts in `body`. Raises SuffixGiven, TooManyPrompts or Invalid."""
    if body.suffix:
        raise SuffixGiven
    given = body.prompt
    if isinstance(given, str):
        return [given]
    if not given or [] in given:
        raise Invalid("Empty array detected. Do not use an empty array for the prompt.")
    if isinstance(given[0], int):
        return [tuple(given)]
    if len(given) > bounds.max_client_batch_size:
        raise TooManyPrompts(str(bounds.max_client_batch_size))
    return [entry if isinstance(entry, str) else tuple(entry) for entry in given]


def requests(
    body: CompletionBody,
    bounds: Bounds,
    vocabulary: int,
    decode: Callable[[Sequence[int]], str],
) -> list[Request]:
    """`n` Requests for each prompt, prompt by prompt. Raises RouterError."""
    told = validation.Told(
        logprobs=body.logprobs is not None,
        top=body.logprobs or 0,
        prompt=body.echo and body.logprobs is not None,
    )
    texts, count = prompts(body, bounds), validation.check_count(body, bounds)
    if body.best_of not in (None, 1, count):
        raise Invalid("`best_of` must be 1 or `n`")
    silent = _silent(body)
    asked = body.model_copy(update={"max_tokens": 1}) if silent else body
    plain = validation.validate(asked, bounds, vocabulary, told)
    single = [_with(plain, text, vocabulary, decode) for text in texts]
    return [request for each in single for request in sequences(each, count)]


def _silent(body: CompletionBody) -> bool:
    """Whether only the prompt is wanted."""
    return body.max_tokens == 0 and body.echo


def _with(
    request: Request, text: Text, vocabulary: int, decode: Callable[[Sequence[int]], str]
) -> Request:
    if not text:
        raise Invalid("`inputs` cannot be empty")
    if isinstance(text, str):
        return replace(request, inputs=text)
    if max(text) >= vocabulary:
        raise Invalid(f"token ids must be below {vocabulary}. Given: {max(text)}")
    return replace(request, inputs=decode(text), tokens=text)


class Completion:
    """The Shape of a completion."""

    done = True

    def __init__(
        self, body: CompletionBody, records: Sequence[Record], envelope: Envelope, about: About
    ) -> None:
        self._body, self._records, self._about = body, records, about
        self._head = envelope.head("text_completion", PREFIX)
        self._columns = [Columns() for _ in records]
        self._silent = _silent(body)

    def begin(self) -> Iterable[dict[str, Any]]:
        """Nothing."""
        return ()

    def token(self, index: int, number: int) -> Iterable[dict[str, Any]]:
        """One chunk."""
        record = self._records[index]
        choice = {
            "index": index,
            "text": self._text(record, number),
            "logprobs": self._logprobs(index, number),
            "finish_reason": self._finish(record, number),
        }
        running = self._body.stream_options.continuous_usage_stats
        counts = self._usage([record]) if running else None
        yield {**self._head, "choices": [choice], "usage": counts}

    def end(self) -> Iterable[dict[str, Any]]:
        """Usage, if asked for."""
        if self._body.stream_options.include_usage:
            counts = self._usage(self._records)
            more = speculation(self._records, self._about)
            yield {**self._head, "choices": [], "usage": counts, **more}

    def failed(self, error: RouterError) -> dict[str, Any]:
        """The event of an error."""
        return failure_event(error)

    def answer(self) -> dict[str, Any]:
        """All choices, in order."""
        choices = [self._choice(index, record) for index, record in enumerate(self._records)]
        more = speculation(self._records, self._about)
        return {**self._head, "choices": choices, "usage": self._usage(self._records), **more}

    def _choice(self, index: int, record: Record) -> dict[str, Any]:
        told = [self._logprobs(index, number + 1) for number in range(len(record.tokens))]
        own = "" if self._silent else record.text
        return {
            "index": index,
            "text": f"{record.request.inputs}{own}" if self._body.echo else own,
            "logprobs": _joined([part for part in told if part is not None]),
            "finish_reason": self._finish(record, len(record.tokens)),
        }

    def _text(self, record: Record, number: int) -> str:
        own = "" if self._silent else record.tokens[number - 1].text
        return f"{record.request.inputs}{own}" if self._body.echo and number == 1 else own

    def _logprobs(self, index: int, number: int) -> dict[str, Any] | None:
        if self._body.logprobs is None:
            return None
        record, columns = self._records[index], self._columns[index]
        if number == 1:
            for told in record.prefill:
                columns.add(told, told.text, len(told.text))
        if not self._silent:
            token = record.tokens[number - 1]
            columns.add(token, record.alone(token.id), len(token.text))
        return columns.take()

    def _finish(self, record: Record, number: int) -> str | None:
        reason = finish(record, number)
        return "length" if self._silent and reason else reason

    def _usage(self, records: Sequence[Record]) -> dict[str, Any]:
        return usage(records, self._body.n or 1, self._silent)


def _joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    if not parts:
        return None
    return {name: [entry for part in parts for entry in part[name]] for name in parts[0]}
