"""EchoEngine: the real engine's semantics without a model, for tests, demos and router benchmarks.

It replies with tokens of the prompt, chosen by a pure function of (prompt, seed, position), so any
tokenizer can decode it, and no batch, draft length, eviction or restart may change it. It checks
what the real engine trusts: a row runs on pages that it owns, shared and swapped-in pages hold the
tokens that the row claims, no page is written while it is shared, and a prefill feeds known tokens
only. A Step that breaks this is a ProtocolError. That makes it the oracle for the scheduler and the
dispatcher.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from zlib import crc32

from shard import progress
from shard.config import ShardConfig
from shard.echo.echo_cache import PAGE_SIZE, EchoCache, prefix_checksums
from shard.echo.echo_cache import require as _require
from shard.echo.echo_row import EchoRow
from shard.echo.replies import (
    draft_agrees,
    reply_logprob,
    reply_token,
    top_tokens,
    with_prompt_logprobs,
)
from shard.errors import StartupError
from shard.step_handle import StartedStep
from shard.wire.protocol import (
    AppendPages,
    NewRow,
    Ready,
    RowResult,
    RowWork,
    Step,
    StepResult,
)

DEFAULT_CAPACITY_TOKENS = 1 << 15
"""Tokens that the pages hold if not configured."""
DEFAULT_MAX_LENGTH = 4096
"""Maximum number of tokens of a row if not configured."""
LAYER_SECONDS = 0.1
"""Seconds of a Step, about, after each of which there is progress."""


class EchoEngine:
    """The row table of one rank; only `execute` and `reset` change it."""

    def __init__(self, config: ShardConfig) -> None:
        self._config = config
        self._pages = (config.max_batch_total_tokens or DEFAULT_CAPACITY_TOKENS) // PAGE_SIZE
        self._host_slots = (config.max_swap_tokens or 0) // PAGE_SIZE
        self._rows: dict[int, EchoRow] = {}
        self._cache = EchoCache(self._pages, self._host_slots)
        self._adapters = set(range(1, 1 + len(config.adapter_paths)))

    def ready(self) -> Ready:
        """What this rank can hold; the costs are nominal."""
        return Ready(
            rank=self._config.rank,
            model=self._config.model_id,
            device="cpu",
            dtype="float32",
            page_size=PAGE_SIZE,
            pages=self._pages,
            max_rows=self._config.max_rows,
            max_length=min(
                self._config.max_total_tokens or DEFAULT_MAX_LENGTH, self._pages * PAGE_SIZE
            ),
            vocab_size=2**31 - 1,
            speculate=self._config.speculate,
            draft_token_seconds=0.001,
            verify_seconds=0.01,
            host_pages=self._host_slots,
            swap_token_seconds=0.0001,
            prefill_token_seconds=0.001,
        )

    def prepare(self, grammar: str) -> None:
        """Do nothing: an echo follows no grammar."""

    def load_adapter(self, number: int, path: str) -> int:
        """Count an adapter as loaded, if `path` has its configuration; return its bytes."""
        if not (Path(path) / "adapter_config.json").is_file():
            raise StartupError(4, f"{Path(path) / 'adapter_config.json'} is missing")
        self._adapters.add(number)
        return sum(file.stat().st_size for file in Path(path).iterdir())

    def unload_adapter(self, number: int) -> None:
        """Forget an adapter."""
        self._adapters.discard(number)

    def start(self, step: Step) -> StartedStep:
        """Execute `step` at once."""
        result = self.execute(step)
        return StartedStep(lambda: result)

    def execute(self, step: Step) -> StepResult:
        """Execute `step`. Raises ProtocolError for a Step that breaks a rule."""
        for id in step.release:
            self._release(id)
        for new in step.new:
            self._add(new)
        for grow in step.grow:
            self._append_pages(grow)
        self._cache.copy_pages(step)
        self._check_swap_in(step)
        for new in step.new:
            self._check_cached(self._rows[new.id])
        items = tuple(self._run_rows(step.run))
        self._compute()
        return StepResult(step.number, self._config.echo_seconds, items, self.digest())

    def _compute(self) -> None:
        """Take as long as the configuration says, with progress like that of a model's layers."""
        seconds = self._config.echo_seconds
        layers = max(1, round(seconds / LAYER_SECONDS))
        for _ in range(layers):
            time.sleep(seconds / layers)
            progress.advance()

    def reset(self) -> None:
        """Forget every row."""
        self._rows.clear()
        self._cache.clear()

    def digest(self) -> int:
        """zlib.crc32 of every row's id, token count and pages."""
        table = [(id, len(row.tokens), row.cached, row.pages) for id, row in self._rows.items()]
        return crc32(repr(table).encode())

    def _release(self, id: int) -> None:
        self._cache.release(self._row(id).pages)
        del self._rows[id]

    def _add(self, new: NewRow) -> None:
        _require(new.id not in self._rows, f"row {new.id} is not new")
        known = new.adapter == 0 or new.adapter in self._adapters
        _require(known, f"adapter {new.adapter} is not loaded")
        _require(0 < new.prompt <= len(new.tokens), f"row {new.id} has a prompt of {new.prompt}")
        _require(0 <= new.draft_cached <= new.cached, f"the draft of row {new.id} is ahead")
        _require(new.cached < len(new.tokens), f"row {new.id} does not feed its last token")
        row = EchoRow(new, list(new.tokens), new.cached, new.draft_cached)
        _require(row.remaining > 0, f"row {new.id} has no token left to emit")
        limit = self.ready().max_length
        _require(new.prompt + new.max_new - 1 <= limit, f"row {new.id} may exceed {limit} tokens")
        self._rows[new.id] = row

    def _append_pages(self, grow: AppendPages) -> None:
        row = self._row(grow.id)
        shared_pages = row.new.cached // PAGE_SIZE
        for page in grow.pages:
            self._cache.acquire(page, shared=len(row.pages) < shared_pages)
            row.pages.append(page)

    def _check_swap_in(self, step: Step) -> None:
        """No row runs while its pages may still be in transfer from the host."""
        arriving = set(step.swap_in.targets)
        for run in step.run:
            _require(arriving.isdisjoint(self._row(run.id).pages), f"row {run.id} runs too soon")

    def _check_cached(self, row: EchoRow) -> None:
        """The pages must hold what the row counts as cached."""
        held = len(row.pages) * PAGE_SIZE
        _require(
            row.cached <= held, f"row {row.new.id} claims {row.cached} tokens in pages for {held}"
        )
        row.checksums = prefix_checksums(row.tokens, salt=row.new.adapter)
        self._cache.verify(row.pages, False, row.checksums[: row.cached])
        self._cache.verify(row.pages, True, row.checksums[: row.draft_cached])

    def _run_rows(self, runs: Sequence[RowWork]) -> Iterator[RowResult]:
        _require(len(runs) <= self._config.max_rows, f"{len(runs)} rows in a Step")
        _require(len({run.id for run in runs}) == len(runs), "a row is named twice")
        for run in runs:
            row = self._row(run.id)
            if row.end is None:
                yield self._prefill(row, run) if run.prefill else self._decode(row, run)

    def _prefill(self, row: EchoRow, run: RowWork) -> RowResult:
        _require(run.draft == 0, f"row {run.id} drafts during its prefill")
        _require(row.cached + run.prefill <= len(row.tokens), f"row {run.id} is fed unknown tokens")
        start, stop = row.cached, row.cached + run.prefill
        follows = row.draft_cached == start
        self._write_cache(row, stop, stop if follows else row.draft_cached, row.tokens)
        row.draft_cached = row.cached if follows else row.draft_cached
        if row.cached < len(row.tokens):
            item = RowResult(run.id, (), (), 0, 0, None, draft_cached=row.draft_cached)
        else:
            item = self._emit(row, drafted=0, accepted=0)
        return with_prompt_logprobs(item, row.new, start, stop)

    def _decode(self, row: EchoRow, run: RowWork) -> RowResult:
        _require(
            row.cached == len(row.tokens) - 1, f"row {run.id} decodes before its prefill is done"
        )
        _require(0 <= run.draft <= self._config.speculate, f"row {run.id} drafts {run.draft}")
        start, seed = len(row.tokens), row.seed
        drafted = min(run.draft, row.remaining - 1)
        agreed = (draft_agrees(seed, position) for position in range(start, start + drafted))
        accepted = next((count for count, agrees in enumerate(agreed) if not agrees), drafted)
        right = [reply_token(row.prompt, seed, start + index) for index in range(accepted)]
        follows = not self._config.speculate
        draft = start if follows else start + drafted - 1 if drafted else row.draft_cached
        self._write_cache(row, start + drafted, draft, row.tokens + right)
        row.draft_cached = min(draft, start + accepted)
        return self._emit(row, drafted, accepted)

    def _write_cache(
        self, row: EchoRow, cached: int, draft_cached: int, tokens: Sequence[int]
    ) -> None:
        """Cache the first `cached` positions, and `draft_cached` for the draft.

        Positions beyond `tokens` are drafts that will be rejected.
        """
        held = len(row.pages) * PAGE_SIZE
        _require(cached <= held, f"row {row.new.id} feeds {cached} tokens into pages for {held}")
        row.checksums = prefix_checksums(tokens, row.checksums, row.new.adapter)
        self._cache.write(row.pages, False, range(row.cached, cached), row.checksums)
        self._cache.write(row.pages, True, range(row.draft_cached, draft_cached), row.checksums)
        row.cached = min(cached, len(row.tokens))

    def _emit(self, row: EchoRow, drafted: int, accepted: int) -> RowResult:
        """Emit the accepted drafts and one more token, or fewer if the row ends before."""
        first, seed = len(row.tokens), row.seed
        while row.end is None and len(row.tokens) <= first + accepted:
            row.tokens.append(reply_token(row.prompt, seed, len(row.tokens)))
            row.end = row.end_reason()
        row.cached = len(row.tokens) - 1
        tokens = tuple(row.tokens[first:])
        logprobs = tuple(reply_logprob(seed, first + index) for index in range(len(tokens)))
        kept, count = min(accepted, len(tokens)), row.new.report.top_n
        tops = tuple(
            top_tokens(token, logprob, count)
            for token, logprob in zip(tokens, logprobs, strict=True)
            if count
        )
        return RowResult(
            id=row.new.id,
            tokens=tokens,
            logprobs=logprobs,
            drafted=drafted,
            accepted=kept,
            end=row.end,
            top=tops,
            draft_cached=row.draft_cached,
        )

    def _row(self, id: int) -> EchoRow:
        _require(id in self._rows, f"there is no row {id}")
        return self._rows[id]
