"""The truth of one request: what was asked, what was emitted, how it ended.

Shards are caches of this. `new` makes a row from the Record alone, so a first start, a return
after an eviction and a refill of fresh shards are one path. The dispatcher writes, one stream
reads. Unread tokens are bounded by the request's own budget, `max_new`, and kept in any case for
the final details; a slow reader costs nothing beyond them.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, replace

from router.errors import IncompleteGeneration, RouterError
from router.requests.request import Request
from router.text.detokenizer import Detokenizer
from router.text.stop_strings import ExclusiveStops, InclusiveStops
from router.text.tokenizer import Tokenizer
from shard.wire.protocol import End, NewRow, ReportOptions, RowResult, TopTokens


@dataclass(frozen=True, slots=True)
class Timing:
    """Where a request's seconds went."""

    total: float
    validation: float
    queue: float
    inference: float
    per_token: float


def timing(record: LiveRequest) -> Timing:
    """The times of a finished `record`."""
    inference = record.ended - record.started
    return Timing(
        total=record.ended - record.arrived,
        validation=record.queued - record.arrived,
        queue=record.started - record.queued,
        inference=inference,
        per_token=inference / len(record.tokens),
    )


_NO_TOP_TOKENS = TopTokens((), ())


@dataclass(frozen=True, slots=True)
class GeneratedToken:
    """One generated token. `text` may be empty; `logprob` is a natural logarithm."""

    id: int
    text: str
    logprob: float
    special: bool
    top: tuple[GeneratedToken, ...] = ()
    """The likeliest tokens at its place, if asked for, each with its text alone."""


@dataclass(frozen=True, slots=True)
class PromptToken:
    """One token of the prompt. `logprob` is the model's own; the first token has none."""

    id: int
    text: str
    logprob: float | None
    top: tuple[GeneratedToken, ...] = ()
    """The likeliest tokens at its place, if asked for."""


class LiveRequest:
    """One live or ended request; times are readings of the dispatcher's clock, in seconds."""

    def __init__(
        self,
        id: int,
        request_id: str,
        request: Request,
        prompt: Sequence[int],
        max_new: int,
        tokenizer: Tokenizer,
        arrived: float,
    ) -> None:
        self.id = id
        self.request_id = request_id
        self.request = request
        self.prompt = tuple(prompt)
        self.max_new = max_new
        """Most tokens to emit, at least 1."""
        self.tokens: list[GeneratedToken] = []
        self.drafted = 0
        self.accepted = 0
        self.accepted_by_round: list[int] = []
        """Accepted drafts of every round that had some."""
        self.longest_draft = 0
        self.steps = 0
        """Steps that worked on this request, prefill included."""
        self.cached_tokens = 0
        """Tokens of the prompt that came from the prefix cache."""
        self.device_seconds = 0.0
        """Device seconds of those Steps, each shared equally among its rows."""
        self.preemptions: Mapping[str, int] = {}
        """By kind; told at the end."""
        self.finish_reason: str | None = None
        """`length`, `eos_token` or `stop_sequence`; set together with the last token."""
        self.error: RouterError | None = None
        self.arrived = arrived
        self.queued = self.started = self.ended = arrived
        """Given to the scheduler, first planned, ended."""
        self.first_token = self.last_token = arrived
        self._tokenizer = tokenizer
        self._prompt_logprobs: list[float | None] = [None] * len(self.prompt)
        self._prompt_tops: list[TopTokens] = [_NO_TOP_TOKENS] * len(self.prompt)
        self._detokenizer = Detokenizer(tokenizer, self.prompt, _make_stops(request))
        self._changed = asyncio.Event()

    @property
    def seed(self) -> int | None:
        """The seed to report; None where no noise is used."""
        return self.request.seed

    @property
    def output_ids(self) -> list[int]:
        """Ids of the generated tokens."""
        return [token.id for token in self.tokens]

    @property
    def text(self) -> str:
        """The generated text, without special tokens; stop strings as the request has it."""
        return self._detokenizer.text

    @property
    def prompt_tokens(self) -> list[PromptToken]:
        """The prompt as the model sees it, if the request asks for it; complete at the end."""
        if not self.request.decoder_input_details:
            return []
        told = zip(self.prompt, self._prompt_logprobs, self._prompt_tops, strict=True)
        return [
            PromptToken(id, self.token_text(id), value, self._top_tokens(top))
            for id, value, top in told
        ]

    def token_text(self, id: int) -> str:
        """The text of one token by itself, special ones by name."""
        return self._tokenizer.decode([id])

    @property
    def mean_logprob(self) -> float:
        """By which sequences are compared; -inf where none came."""
        if not self.tokens:
            return -math.inf
        return sum(token.logprob for token in self.tokens) / len(self.tokens)

    @property
    def is_live(self) -> bool:
        """Whether the end is still to come."""
        return self.finish_reason is None and self.error is None

    def mark_scheduled(self, now: float, cached: int) -> None:
        """Note that the shards are about to get the row, which holds the KV of `cached` tokens.

        The first time counts.
        """
        if not self.steps:
            self.started, self.cached_tokens = now, cached

    def to_row(self) -> NewRow:
        """The row that goes on from here, for shards that do not hold it."""
        return NewRow(
            id=self.id,
            tokens=(*self.prompt, *self.output_ids),
            prompt=len(self.prompt),
            max_new=self.max_new,
            ignore_eos=self.request.ignore_eos,
            sampling=self.request.sampling,
            report=self._remaining_report(),
            grammar=self.request.grammar,
        )

    def apply(self, item: RowResult, now: float) -> int:
        """Add what a Step did; the number of tokens kept: those behind a stop string are not.

        An end without a token is a bad one, since the last token is what carries it.
        """
        had = len(self.tokens)
        self.drafted += item.drafted
        self.accepted += item.accepted
        self.steps += 1
        if item.drafted:
            self.accepted_by_round.append(item.accepted)
            self.longest_draft = max(self.longest_draft, item.drafted)
        told = slice(item.prompt_start, item.prompt_start + len(item.prompt_logprobs))
        self._prompt_logprobs[told] = item.prompt_logprobs
        self._prompt_tops[told] = item.prompt_top or [_NO_TOP_TOKENS] * len(item.prompt_logprobs)
        left = len(item.tokens)
        tops = item.top or (_NO_TOP_TOKENS,) * left
        for id, logprob, top in zip(item.tokens, item.logprobs, tops, strict=True):
            left -= 1
            if self.is_live:
                self._append_token(id, logprob, top, None if left else item.end)
        self._update_times(had, now)
        if item.end is not None:
            self.fail(IncompleteGeneration(), now)
        return len(self.tokens) - had

    def fail(self, error: RouterError, now: float) -> None:
        """End badly, unless it has ended: its readers get `error` after the tokens so far."""
        if self.is_live:
            self.error, self.ended = error, now
            self._changed.set()

    async def wait(self) -> None:
        """Return once the request has ended well. Raises the RouterError of a bad end."""
        while self.is_live:
            await self._next_change()
        if self.error:
            raise self.error

    async def numbers(self) -> AsyncIterator[int]:
        """1, 2, ... as tokens arrive; number n is `tokens[n - 1]`.

        Raises the RouterError of a bad end, after the tokens that came before it.
        """
        number = 0
        while self.is_live or number < len(self.tokens):
            if number < len(self.tokens):
                number += 1
                yield number
            else:
                await self._next_change()
        if self.error:
            raise self.error

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _remaining_report(self) -> ReportOptions:
        """What is still to be told: a whole prompt is not told twice."""
        report = self.request.report
        return replace(
            report, prompt_logprobs=report.prompt_logprobs and None in self._prompt_logprobs[1:]
        )

    def _update_times(self, tokens_before: int, now: float) -> None:
        if len(self.tokens) > tokens_before:
            self.last_token = now
            self.first_token = self.first_token if tokens_before else now
        if not self.is_live:
            self.ended = now
        self._changed.set()

    def _append_token(self, id: int, logprob: float, top: TopTokens, end: End | None) -> None:
        piece = self._detokenizer.push(id, last=end is not None)
        self.tokens.append(
            GeneratedToken(id, piece.text, logprob, piece.special, self._top_tokens(top))
        )
        if end is not None:
            self.finish_reason = end.value
        elif piece.stopped:
            self.finish_reason = "stop_sequence"

    def _top_tokens(self, top: TopTokens) -> tuple[GeneratedToken, ...]:
        return tuple(map(self._top_token, top.ids, top.logprobs))

    def _top_token(self, id: int, logprob: float) -> GeneratedToken:
        return GeneratedToken(
            id, self.token_text(id), logprob, self._tokenizer.special_name(id) is not None
        )


def by_likelihood(record: LiveRequest) -> float:
    """Sorts the most likely record first."""
    return -record.mean_logprob


def _make_stops(request: Request) -> InclusiveStops | ExclusiveStops:
    return (
        ExclusiveStops(request.stop, request.visible_specials)
        if request.hide_stops_and_specials
        else InclusiveStops(request.stop)
    )
