"""`/v1/completions`: from a body to Requests, and from live requests to events and a response.

There may be several prompts, as text or as token ids, with echo and log-probabilities. Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from router.errors import RouterError, SuffixNotSupported, TooManyPrompts, ValidationError
from router.openai import validation
from router.openai.logprobs import LogprobColumns
from router.openai.request_models import CompletionRequest
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

ID_PREFIX = "cmpl"
DEFAULT_MAX_TOKENS = 16
"""OpenAI's default of `max_tokens`, as far as the context has room."""
TextOrIds = str | tuple[int, ...]


def parse_prompts(body: CompletionRequest, bounds: ResolvedLimits) -> Sequence[TextOrIds]:
    """The prompts in `body`. Raises SuffixNotSupported, TooManyPrompts or ValidationError."""
    if body.suffix:
        raise SuffixNotSupported
    prompt = body.prompt
    if isinstance(prompt, str):
        return [prompt]
    if not prompt or [] in prompt:
        raise ValidationError("Empty array detected. Do not use an empty array for the prompt.")
    if isinstance(prompt[0], int):
        return [tuple(prompt)]
    if len(prompt) > bounds.max_client_batch_size:
        raise TooManyPrompts(str(bounds.max_client_batch_size))
    return [entry if isinstance(entry, str) else tuple(entry) for entry in prompt]


def build_requests(
    body: CompletionRequest,
    bounds: ResolvedLimits,
    vocabulary_size: int,
    decode: Callable[[Sequence[int]], str],
) -> list[Request]:
    """`n` Requests for each prompt, prompt by prompt. Raises RouterError."""
    options = validation.LogprobOptions(
        logprobs=body.logprobs is not None,
        top_n=body.logprobs or 0,
        max_top_n=bounds.max_top_n_tokens,
        top_n_field="logprobs",
        include_prompt=body.echo and body.logprobs is not None,
    )
    texts, count = parse_prompts(body, bounds), validation.validated_choice_count(body, bounds)
    require(body.best_of in (None, 1, count), "`best_of` must be 1 or `n`")
    prompt_only = _is_prompt_only(body)
    if prompt_only:
        body = body.model_copy(update={body.token_limit_field: 1})
    base = validation.validate(body, bounds, vocabulary_size, options)
    base = replace(base, default_new_tokens=DEFAULT_MAX_TOKENS, prompt_only=prompt_only)
    requests = [_with_prompt(base, text, decode) for text in texts]
    return [choice for request in requests for choice in expand_best_of(request, count)]


def _is_prompt_only(body: CompletionRequest) -> bool:
    """Whether only the prompt is to be returned, and no output."""
    return body.token_limit == 0 and body.echo


def _with_prompt(
    request: Request, text: TextOrIds, decode: Callable[[Sequence[int]], str]
) -> Request:
    require(bool(text), "`prompt` cannot be empty")
    if isinstance(text, str):
        return replace(request, inputs=text)
    return replace(request, inputs=decode(text), prompt_token_ids=text)


class CompletionFormatter:
    """Formats the response of a completion."""

    ends_with_done, names_events = True, False

    def __init__(
        self,
        body: CompletionRequest,
        records: Sequence[LiveRequest],
        response_header: ResponseHeader,
        server_info: ServerInfo,
    ) -> None:
        self._body, self._records, self._server_info = body, records, server_info
        self._header_fields = response_header.common_fields("text_completion", ID_PREFIX)
        self._columns = [LogprobColumns(record) for record in records]
        self._prompt_only = _is_prompt_only(body)

    def start_events(self) -> Iterable[dict[str, Any]]:
        """None."""
        return ()

    def token_events(self, index: int, number: int) -> Iterable[dict[str, Any]]:
        """One event."""
        record = self._records[index]
        choice = {
            "index": index,
            "text": self._token_text(record, number),
            "logprobs": self._logprobs(index, number),
            "finish_reason": self._finish_reason(record, number),
        }
        with_usage = self._body.stream_options.continuous_usage_stats
        counts = self._usage([record]) if with_usage else None
        yield {**self._header_fields, "choices": [choice], "usage": counts}

    def final_events(self) -> Iterable[dict[str, Any]]:
        """One event with the usage, if requested."""
        if self._body.stream_options.include_usage:
            counts = self._usage(self._records)
            metrics = speculation_metrics(self._records, self._server_info)
            yield {**self._header_fields, "choices": [], "usage": counts, **metrics}

    def error_event(self, error: RouterError) -> dict[str, Any]:
        """The event of an error."""
        return error_event_body(error)

    def full_response(self) -> dict[str, Any]:
        """The response with all choices, prompt by prompt."""
        choices = [self._choice(index, record) for index, record in enumerate(self._records)]
        metrics = speculation_metrics(self._records, self._server_info)
        return {
            **self._header_fields,
            "choices": choices,
            "usage": self._usage(self._records),
            **metrics,
        }

    def _choice(self, index: int, record: LiveRequest) -> dict[str, Any]:
        parts = [self._logprobs(index, number + 1) for number in range(len(record.tokens))]
        output = "" if self._prompt_only else record.text
        return {
            "index": index,
            "text": f"{record.request.inputs}{output}" if self._body.echo else output,
            "logprobs": _merge_columns([part for part in parts if part is not None]),
            "finish_reason": self._finish_reason(record, len(record.tokens)),
        }

    def _token_text(self, record: LiveRequest, number: int) -> str:
        output = "" if self._prompt_only else record.tokens[number - 1].text
        return f"{record.request.inputs}{output}" if self._body.echo and number == 1 else output

    def _logprobs(self, index: int, number: int) -> dict[str, Any] | None:
        if self._body.logprobs is None:
            return None
        columns = self._columns[index]
        if number == 1 and self._body.echo:
            columns.add_prompt()
        if not self._prompt_only:
            columns.add(self._records[index].tokens[number - 1])
        return columns.drain()

    def _finish_reason(self, record: LiveRequest, number: int) -> str | None:
        reason = finish_reason(record, number)
        return "length" if self._prompt_only and reason else reason

    def _usage(self, records: Sequence[LiveRequest]) -> dict[str, Any]:
        return usage(records, self._body.n or 1, self._prompt_only)


def _merge_columns(parts: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    if not parts:
        return None
    return {name: [entry for part in parts for entry in part[name]] for name in parts[0]}
