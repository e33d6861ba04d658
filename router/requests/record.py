"""The authoritative state of one request: what was requested, what was emitted, how it ended.

Shards are caches of this. `to_row` builds a row from the record alone, so that a first start and a
return after an eviction are one path. The dispatcher writes, the handler of the HTTP request reads.
It is known how many tokens of a stream its client has not read, so that the dispatcher can pause a
request whose client is too far behind.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import replace

from router.errors import IncompleteGeneration, RouterError
from router.requests.request import Request
from router.requests.tokens import (
    NO_TOP_TOKENS,
    GeneratedToken,
    PromptReport,
    PromptToken,
    decode_top,
)
from router.text.detokenizer import Detokenizer
from router.text.stop_strings import ExclusiveStops, InclusiveStops
from router.text.tokenizer import Tokenizer
from shard.wire.protocol import End, NewRow, ReportOptions, RowResult

MASK_SECONDS = 2.0
MASK_SECONDS_PER_TOKEN = 0.02
"""CPU seconds that the masks of a request's grammar may take: once, and per generated token."""


class LiveRequest:
    """A live or ended request; times are readings of the dispatcher's clock, in seconds."""

    def __init__(
        self,
        id: int,
        request_id: str,
        request: Request,
        prompt: Sequence[int],
        max_new: int,
        tokenizer: Tokenizer,
        arrived: float,
        call: int = 0,
        caller: str = "",
        scope: str = "",
    ) -> None:
        self.id = id
        self.request_id = request_id
        self.call = call
        """Number of the HTTP request that it belongs to; later ones have larger numbers."""
        self.caller = caller
        """Who sent it: only the same caller may ask for it by its id."""
        self.scope = scope
        """Requests of equal scope may learn from each other's answers."""
        self.request = request
        self.prompt = tuple(prompt)
        self.max_new = max_new
        """Maximum number of tokens to emit, at least 1."""
        self.tokens: list[GeneratedToken] = []
        self.drafted = 0
        self.accepted = 0
        self.accepted_by_round: list[int] = []
        """Accepted draft tokens of every round that drafted."""
        self.longest_draft = 0
        self.steps = 0
        """Steps that included this request, prefill included."""
        self.cached_tokens = 0
        """Prompt tokens that came from the prefix cache."""
        self.device_seconds = 0.0
        """Device seconds of those Steps, each shared equally among its rows."""
        self.mask_seconds = 0.0
        """CPU seconds that the grammar has taken."""
        self.preemptions: Mapping[str, int] = {}
        """By kind; set when the request ends."""
        self.is_scheduled = False
        """Whether it was in a Step; its response may have begun."""
        self.finish_reason: str | None = None
        """`length`, `eos_token` or `stop_sequence`; set together with the last token."""
        self.error: RouterError | None = None
        self.arrived = arrived
        self.queued = self.started = self.ended = arrived
        """When it was submitted to the scheduler, first scheduled, and ended."""
        self.first_token = self.last_token = arrived
        self._tokenizer = tokenizer
        self._prompt_report = PromptReport(self.prompt)
        self._detokenizer = Detokenizer(tokenizer, self.prompt, _make_stops(request))
        self._changed = asyncio.Event()
        self._read: int | None = None
        """Number of the last token that a stream's client has taken; None without a stream."""
        self._notified_at = 0
        self._on_read: Callable[[], None] | None = None

    @property
    def seed(self) -> int | None:
        """The seed to report; None for greedy decoding."""
        return self.request.seed

    @property
    def output_ids(self) -> list[int]:
        """Ids of the generated tokens."""
        return [token.id for token in self.tokens]

    @property
    def text(self) -> str:
        """The generated text, without special tokens; the request decides about stop strings."""
        return self._detokenizer.text

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the text; None if none did."""
        return self._detokenizer.stop_string

    @property
    def prompt_tokens(self) -> list[PromptToken]:
        """The prompt as the model sees it, if requested; complete once the request has ended."""
        if not self.request.decoder_input_details:
            return []
        return self._prompt_report.tokens(self._tokenizer)

    def top_tokens(self, token: GeneratedToken) -> Sequence[GeneratedToken]:
        """The most likely tokens at the place of `token`, each with its own text."""
        return decode_top(self._tokenizer, token.top)

    def token_text(self, id: int) -> str:
        """The text of a single token; special tokens by name."""
        return self._tokenizer.decode([id])

    def token_bytes(self, id: int) -> bytes:
        """The bytes that a token adds to the UTF-8 of a text; special tokens by name."""
        return self._tokenizer.token_bytes(id)

    @property
    def mean_logprob(self) -> float:
        """Mean log-probability of the generated tokens; -inf without any."""
        if not self.tokens:
            return -math.inf
        return sum(token.logprob for token in self.tokens) / len(self.tokens)

    @property
    def mask_budget(self) -> float:
        """Maximum of `mask_seconds`, which grows with the output."""
        return MASK_SECONDS + MASK_SECONDS_PER_TOKEN * len(self.tokens)

    @property
    def unread(self) -> int:
        """How many tokens of a stream its client has not taken; 0 if the answer is not streamed."""
        return 0 if self._read is None else len(self.tokens) - self._read

    @property
    def is_live(self) -> bool:
        """Whether the request has not ended."""
        return self.finish_reason is None and self.error is None

    def mark_scheduled(self, now: float, cached: int) -> None:
        """The row is about to be sent to the shards, with `cached` tokens in the KV cache.

        Only the first call counts.
        """
        self.is_scheduled = True
        self._changed.set()
        if not self.steps:
            self.started, self.cached_tokens = now, cached

    def to_row(self) -> NewRow:
        """The row that continues from here, for shards that do not hold it."""
        return NewRow(
            id=self.id,
            tokens=(*self.prompt, *self.output_ids),
            prompt=len(self.prompt),
            max_new=self.max_new,
            ignore_eos=self.request.ignore_eos,
            sampling=self.request.sampling,
            report=self._remaining_report(),
            grammar=self.request.grammar,
            scope=self.scope,
            adapter=self.request.adapter,
        )

    def apply(self, item: RowResult, now: float) -> int:
        """Add a Step's result; return the number of tokens kept, which excludes those after a stop
        string.

        An end without a token is an error, since the last token carries the finish reason.
        """
        tokens_before = len(self.tokens)
        self.drafted += item.drafted
        self.accepted += item.accepted
        self.steps += 1
        self.mask_seconds += item.mask_seconds
        if item.drafted:
            self.accepted_by_round.append(item.accepted)
            self.longest_draft = max(self.longest_draft, item.drafted)
        self._prompt_report.add(item)
        for place in range(len(item.tokens)):
            if self.is_live:
                self._append_token(item, place)
        self._update_times(tokens_before, now)
        if item.end is not None:
            self.fail(IncompleteGeneration(), now)
        return len(self.tokens) - tokens_before

    def fail(self, error: RouterError, now: float) -> None:
        """End with `error`, unless it has ended; readers get it after the tokens so far."""
        if self.is_live:
            self.error, self.ended = error, now
            self._changed.set()

    async def wait_scheduled(self) -> None:
        """Return once the request is in a Step. Raises its RouterError if it has failed before."""
        while self.is_live and not self.is_scheduled:
            await self._next_change()
        if self.error and not self.is_scheduled:
            raise self.error

    async def wait(self) -> None:
        """Return once the request has finished. Raises its RouterError if it has failed."""
        while self.is_live:
            await self._next_change()
        if self.error:
            raise self.error

    async def numbers(self) -> AsyncIterator[int]:
        """1, 2, ... as tokens arrive; number n is `tokens[n - 1]`.

        Raises the request's RouterError if it has failed, after the tokens that came before.
        """
        self._read = number = 0
        while self.is_live or number < len(self.tokens):
            if number < len(self.tokens):
                number += 1
                self._note_read(number)
                yield number
            else:
                await self._next_change()
        if self.error:
            raise self.error

    def notify_when_read(self, unread: int, notify: Callable[[], None]) -> None:
        """Call `notify` from now on whenever the client has read all tokens but `unread`."""
        self._notified_at, self._on_read = unread, notify

    def _note_read(self, number: int) -> None:
        self._read = number
        if self._on_read and self.unread == self._notified_at:
            self._on_read()

    async def _next_change(self) -> None:
        self._changed.clear()
        await self._changed.wait()

    def _remaining_report(self) -> ReportOptions:
        """What the shards still have to report: a prompt is not reported twice."""
        report = self.request.report
        wanted = report.prompt_logprobs and not self._prompt_report.is_complete
        return replace(report, prompt_logprobs=wanted)

    def _update_times(self, tokens_before: int, now: float) -> None:
        if len(self.tokens) > tokens_before:
            self.last_token = now
            self.first_token = self.first_token if tokens_before else now
        if not self.is_live:
            self.ended = now
        self._changed.set()

    def _append_token(self, item: RowResult, place: int) -> None:
        """Add token number `place` of the Step's: the accepted drafts come before the target's."""
        id, end = item.tokens[place], item.end if place == len(item.tokens) - 1 else None
        piece = self._detokenizer.push(id, last=end is not None, hidden=end is End.EOS)
        token = GeneratedToken(
            id,
            piece.text,
            item.logprobs[place],
            piece.special,
            item.top[place] if item.top else NO_TOP_TOKENS,
            drafted=place < item.accepted,
            rejected=item.drafted - item.accepted if place == item.accepted else 0,
        )
        self.tokens.append(token)
        if end is not None:
            self.finish_reason = (End.EOS if end is End.COMPLETE else end).value
        elif piece.stopped:
            self.finish_reason = "stop_sequence"


def by_likelihood(record: LiveRequest) -> float:
    """Sorts the most likely record first."""
    return -record.mean_logprob


def _make_stops(request: Request) -> InclusiveStops | ExclusiveStops:
    return (
        ExclusiveStops(request.stop, request.visible_specials)
        if request.hide_stops_and_specials
        else InclusiveStops(request.stop)
    )
