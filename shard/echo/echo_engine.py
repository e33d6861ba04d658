"""EchoEngine: the real engine's semantics without a model, for tests, demos and router benchmarks.

It answers with tokens of the prompt, chosen by a pure function of (prompt, seed, position), so any
vocabulary can read it and no batch, draft length, eviction or restart may change it. It is strict
where the real engine only trusts: a row runs on pages that it owns, shared pages and those from
the host hold the tokens that the row claims, no page is written while it is shared, a prefill feeds
no more than is known, and a Step that breaks this is a ProtocolError. That makes it the oracle for
the scheduler and the dispatcher.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from zlib import crc32

from shard.config import ShardConfig
from shard.echo.echo_cache import PAGE_SIZE, EchoCache, prefixes
from shard.echo.echo_cache import require as _require
from shard.step_handle import Landed
from shard.wire.protocol import End, Grow, Item, New, Ready, Run, Step, StepResult, Top

EOS = 0
"""Token id that ends a reply."""
DEFAULT_TOKENS = 1 << 15
"""Tokens that the pages hold where the configuration does not say."""
MAX_LENGTH = 4096
"""Most tokens of a row where the configuration does not say."""


def reply_token(prompt: Sequence[int], seed: int, position: int) -> int:
    """The token at absolute `position`: one of the prompt's, or in about one of 64 cases EOS."""
    noise = _noise(array("i", prompt).tobytes(), seed, position)
    return EOS if noise % 64 == 0 else prompt[noise // 64 % len(prompt)]


def draft_agrees(seed: int, position: int) -> bool:
    """Whether the draft for absolute `position` equals the target's token: in 3 of 4 cases."""
    return _noise(b"draft", seed, position) % 4 != 0


def reply_logprob(seed: int, position: int) -> float:
    """A log-probability that float32 holds exactly."""
    return -(_noise(b"logprob", seed, position) % 1024) / 256


def reply(
    prompt: Sequence[int], seed: int, max_new: int, ignore_eos: bool = False
) -> tuple[tuple[int, ...], End]:
    """The whole answer to `prompt`, and why it ends."""
    tokens = []
    for position in range(len(prompt), len(prompt) + max_new):
        tokens.append(reply_token(prompt, seed, position))
        if len(tokens) < max_new and tokens[-1] == EOS and not ignore_eos:
            return tuple(tokens), End.EOS
    return tuple(tokens), End.LENGTH


def _top(token: int, logprob: float, count: int) -> Top:
    """The chosen token, then as many others as are asked for."""
    others = [id for id in range(count) if id != token][: count - 1]
    return Top((token, *others), tuple(logprob - rank for rank in range(1 + len(others))))


def _with_prompt(item: Item, new: New, start: int, stop: int) -> Item:
    """`item` with what positions `start` to `stop` say of the prompt, if it is asked for."""
    places = range(start + 1, min(stop + 1, new.prompt))
    if not new.report.prompt or not places:
        return item
    logprobs = tuple(reply_logprob(new.sampling.seed, place) for place in places)
    told = [(new.tokens[place], value) for place, value in zip(places, logprobs, strict=True)]
    tops = tuple(_top(*pair, new.report.top_n) for pair in told if new.report.top_n)
    return replace(item, prompt_start=places.start, prompt_logprobs=logprobs, prompt_top=tops)


def _noise(salt: bytes, seed: int, position: int) -> int:
    return crc32(f"{seed} {position}".encode(), crc32(salt))


@dataclass(slots=True)
class _Row:
    """`fed` of the `tokens` are in the cache; the last token never is while the row decodes."""

    new: New
    tokens: list[int]
    fed: int = 0
    draft: int = 0
    """Leading tokens that the draft has been fed."""
    sums: list[int] = field(default_factory=list)
    """Of as many leading tokens as were needed yet."""
    pages: list[int] = field(default_factory=list)
    end: End | None = None

    @property
    def prompt(self) -> tuple[int, ...]:
        return self.new.tokens[: self.new.prompt]

    @property
    def left(self) -> int:
        """Tokens that may still be emitted."""
        return self.new.prompt + self.new.max_new - len(self.tokens)


class EchoEngine:
    """Holds the row table of one rank; `execute` is its only mutator besides `reset`."""

    def __init__(self, config: ShardConfig) -> None:
        self._config = config
        self._pages = (config.max_batch_total_tokens or DEFAULT_TOKENS) // PAGE_SIZE
        self._slots = (config.max_swap_tokens or 0) // PAGE_SIZE
        self._rows: dict[int, _Row] = {}
        self._cache = EchoCache(self._pages, self._slots)

    def ready(self) -> Ready:
        """What this rank holds; the costs are nominal."""
        return Ready(
            rank=self._config.rank,
            model=self._config.model_id,
            device="cpu",
            dtype="float32",
            page_size=PAGE_SIZE,
            pages=self._pages,
            max_rows=self._config.max_rows,
            max_length=min(self._config.max_total_tokens or MAX_LENGTH, self._pages * PAGE_SIZE),
            vocab_size=2**31 - 1,
            speculate=self._config.speculate,
            draft_token_seconds=0.001,
            verify_seconds=0.01,
            host_pages=self._slots,
            swap_token_seconds=0.0001,
            prefill_token_seconds=0.001,
        )

    def prepare(self, grammar: str) -> None:
        """Nothing: an echo follows no grammar."""

    def start(self, step: Step) -> Landed:
        """Do `execute` at once."""
        return Landed(self.execute(step))

    def execute(self, step: Step) -> StepResult:
        """Do as `step` says. Raises ProtocolError for a Step against the rules."""
        for id in step.release:
            self._release(id)
        for new in step.new:
            self._add(new)
        for grow in step.grow:
            self._grow(grow)
        self._cache.move(step)
        self._check_returns(step)
        for new in step.new:
            self._check(self._rows[new.id])
        items = tuple(self._run(step.run))
        time.sleep(self._config.echo_seconds)
        return StepResult(step.number, self._config.echo_seconds, items, self.digest())

    def reset(self) -> None:
        """Forget every row."""
        self._rows.clear()
        self._cache.clear()

    def digest(self) -> int:
        """zlib.crc32 of every row's id, token count and pages."""
        table = [(id, len(row.tokens), row.fed, row.pages) for id, row in self._rows.items()]
        return crc32(repr(table).encode())

    def _release(self, id: int) -> None:
        self._cache.disown(self._row(id).pages)
        del self._rows[id]

    def _add(self, new: New) -> None:
        _require(new.id not in self._rows, f"row {new.id} is not new")
        _require(0 < new.prompt <= len(new.tokens), f"row {new.id} has a prompt of {new.prompt}")
        _require(0 <= new.draft_cached <= new.cached, f"the draft of row {new.id} is ahead")
        _require(new.cached < len(new.tokens), f"row {new.id} does not feed its last token")
        row = _Row(new, list(new.tokens), new.cached, new.draft_cached)
        _require(row.left > 0, f"row {new.id} has no token left to emit")
        limit = self.ready().max_length
        _require(new.prompt + new.max_new <= limit, f"row {new.id} may exceed {limit} tokens")
        self._rows[new.id] = row

    def _grow(self, grow: Grow) -> None:
        row = self._row(grow.id)
        settled = row.new.cached // PAGE_SIZE
        for page in grow.pages:
            self._cache.own(page, shared=len(row.pages) < settled)
            row.pages.append(page)

    def _check_returns(self, step: Step) -> None:
        """No row runs while its pages may still be on their way back."""
        coming = set(step.swap_in.targets)
        for run in step.run:
            _require(coming.isdisjoint(self._row(run.id).pages), f"row {run.id} runs too soon")

    def _check(self, row: _Row) -> None:
        """What the row counts as fed is in its pages."""
        held = len(row.pages) * PAGE_SIZE
        _require(row.fed <= held, f"row {row.new.id} claims {row.fed} tokens in pages for {held}")
        row.sums = prefixes(row.tokens)
        self._cache.check(row.pages, False, row.sums[: row.fed])
        self._cache.check(row.pages, True, row.sums[: row.draft])

    def _run(self, runs: Sequence[Run]) -> Iterator[Item]:
        _require(len(runs) <= self._config.max_rows, f"{len(runs)} rows in a Step")
        _require(len({run.id for run in runs}) == len(runs), "a row is named twice")
        for run in runs:
            row = self._row(run.id)
            if row.end is None:
                yield self._prefill(row, run) if run.prefill else self._decode(row, run)

    def _prefill(self, row: _Row, run: Run) -> Item:
        _require(run.draft == 0, f"row {run.id} drafts during its prefill")
        _require(row.fed + run.prefill <= len(row.tokens), f"row {run.id} is fed unknown tokens")
        start, stop = row.fed, row.fed + run.prefill
        follows = row.draft == start
        self._feed(row, stop, stop if follows else row.draft, row.tokens)
        row.draft = row.fed if follows else row.draft
        if row.fed < len(row.tokens):
            item = Item(run.id, (), (), 0, 0, None, draft_cached=row.draft)
        else:
            item = self._emit(row, drafted=0, accepted=0)
        return _with_prompt(item, row.new, start, stop)

    def _decode(self, row: _Row, run: Run) -> Item:
        _require(row.fed == len(row.tokens) - 1, f"row {run.id} decodes before its prefill is done")
        _require(0 <= run.draft <= self._config.speculate, f"row {run.id} drafts {run.draft}")
        start, seed = len(row.tokens), row.new.sampling.seed
        drafted = min(run.draft, row.left - 1)
        agreed = (draft_agrees(seed, position) for position in range(start, start + drafted))
        accepted = next((count for count, agrees in enumerate(agreed) if not agrees), drafted)
        right = [reply_token(row.prompt, seed, start + index) for index in range(accepted)]
        follows = not self._config.speculate
        draft = start if follows else start + drafted - 1 if drafted else row.draft
        self._feed(row, start + drafted, draft, row.tokens + right)
        row.draft = min(draft, start + accepted)
        return self._emit(row, drafted, accepted)

    def _feed(self, row: _Row, count: int, draft: int, tokens: Sequence[int]) -> None:
        """Cache the first `count` positions, for the draft the first `draft`.

        Those beyond `tokens` are drafts to be rejected.
        """
        held = len(row.pages) * PAGE_SIZE
        _require(count <= held, f"row {row.new.id} feeds {count} tokens into pages for {held}")
        row.sums = prefixes(tokens, row.sums)
        self._cache.write(row.pages, False, range(row.fed, count), row.sums)
        self._cache.write(row.pages, True, range(row.draft, draft), row.sums)
        row.fed = min(count, len(row.tokens))

    def _emit(self, row: _Row, drafted: int, accepted: int) -> Item:
        """Emit the accepted drafts and one more token, or fewer where the row ends before."""
        first, seed = len(row.tokens), row.new.sampling.seed
        while row.end is None and len(row.tokens) <= first + accepted:
            row.tokens.append(reply_token(row.prompt, seed, len(row.tokens)))
            row.end = self._end(row)
        row.fed = len(row.tokens) - 1
        tokens = tuple(row.tokens[first:])
        logprobs = tuple(reply_logprob(seed, first + index) for index in range(len(tokens)))
        kept, count = min(accepted, len(tokens)), row.new.report.top_n
        tops = tuple(_top(*told, count) for told in zip(tokens, logprobs, strict=True) if count)
        return Item(
            id=row.new.id,
            tokens=tokens,
            logprobs=logprobs,
            drafted=drafted,
            accepted=kept,
            end=row.end,
            top=tops,
            draft_cached=row.draft,
        )

    def _end(self, row: _Row) -> End | None:
        if row.left == 0:
            return End.LENGTH
        return End.EOS if row.tokens[-1] == EOS and not row.new.ignore_eos else None

    def _row(self, id: int) -> _Row:
        _require(id in self._rows, f"there is no row {id}")
        return self._rows[id]
