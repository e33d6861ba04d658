"""The row table: what a rank knows of every live request.

A row's tokens are the prompt and everything emitted; `cached` and `draft_cached` count the leading
tokens whose keys and values the target and the drafter hold. A row can decode when all but its last
token are cached. Rejected drafts are rolled back by not counting them. It knows no model.
"""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from shard import progress
from shard.lora.lora_adapter import Adapter
from shard.sampling.grammar import Matcher
from shard.sampling.position import Position
from shard.wire.protocol import (
    AppendPages,
    End,
    NewRow,
    ProtocolError,
    ReportOptions,
    Sampling,
    Step,
)


@dataclass(slots=True)
class CachedRow:
    """One live request. Mutable, owned by the engine's one thread."""

    id: int
    tokens: list[int]
    prompt_length: int
    max_new_tokens: int
    ignore_eos: bool
    sampling: Sampling
    report: ReportOptions = field(default_factory=ReportOptions)
    matcher: Matcher | None = None
    pages: list[int] = field(default_factory=list)
    cached: int = 0
    draft_cached: int = 0
    done: bool = False
    scope: str = ""
    """Rows of equal scope may learn from each other's answers."""
    adapter: Adapter | None = None

    @property
    def remaining(self) -> int:
        """Number of tokens that the row may still emit."""
        return self.prompt_length + self.max_new_tokens - len(self.tokens)

    def position_after(self, drafts: Sequence[int]) -> Position:
        """The position after the row's tokens and `drafts`."""
        return Position(
            self.sampling, self.tokens, drafts, self.prompt_length, self.matcher, self.report
        )

    def append(self, tokens: Sequence[int], eos: frozenset[int]) -> tuple[list[int], End | None]:
        """Append `tokens` up to the first that ends the row; return those kept and the reason.

        The length is tested before EOS, as in TGI. Where a grammar cannot end, such a token is
        text.
        """
        kept: list[int] = []
        for token in tokens:
            is_eos = token in eos and not self.ignore_eos and self._can_end()
            kept.append(token)
            self.tokens.append(token)
            if self.remaining <= 0:
                return self._end(kept, End.LENGTH)
            if is_eos:
                return self._end(kept, End.EOS)
            if (self.ignore_eos or not eos) and self._is_complete():
                return self._end(kept, End.COMPLETE)
        return kept, None

    def _can_end(self) -> bool:
        return self.matcher is None or self.matcher.can_end(self._output)

    def _is_complete(self) -> bool:
        return self.matcher is not None and self.matcher.is_complete(self._output)

    @property
    def _output(self) -> list[int]:
        return self.tokens[self.prompt_length :]

    def _end(self, kept: list[int], end: End) -> tuple[list[int], End]:
        self.done = True
        return kept, end


class RowTable:
    """All rows by id. Applies a Step's changes in order: release, new, grow."""

    def __init__(
        self, matcher: Callable[[str], Matcher], adapter: Callable[[int], Adapter] | None = None
    ) -> None:
        """`adapter`: None if rows have none."""
        self._matcher, self._adapter = matcher, adapter
        self._rows: dict[int, CachedRow] = {}

    def apply(self, step: Step) -> None:
        """Apply the changes of `step`. Raises ProtocolError for rows that do not fit the table."""
        for id in step.release:
            self._rows.pop(id, None)
        for new in step.new:
            self._add(new)
        for grow in step.grow:
            self._append_pages(grow)

    def get(self, id: int) -> CachedRow:
        """The row `id`. Raises ProtocolError if the table has no such row."""
        if id not in self._rows:
            raise ProtocolError(f"row {id} is not in the table")
        return self._rows[id]

    def clear(self) -> None:
        """Forget every row."""
        self._rows.clear()

    def _add(self, new: NewRow) -> None:
        if new.id in self._rows:
            raise ProtocolError(f"row {new.id} is in the table already")
        self._rows[new.id] = CachedRow(
            id=new.id,
            tokens=list(new.tokens),
            prompt_length=new.prompt,
            max_new_tokens=new.max_new,
            ignore_eos=new.ignore_eos,
            sampling=new.sampling,
            report=new.report,
            matcher=None if new.grammar is None else self._matcher(new.grammar),
            cached=new.cached,
            draft_cached=new.draft_cached,
            scope=new.scope,
            adapter=self._find_adapter(new.adapter),
        )
        progress.advance()  # a grammar may have been compiled

    def _find_adapter(self, number: int) -> Adapter | None:
        if not number:
            return None
        if self._adapter is None:
            raise ProtocolError("this shard has no adapters")
        return self._adapter(number)

    def _append_pages(self, growth: AppendPages) -> None:
        self.get(growth.id).pages.extend(growth.pages)


def digest(rows: Iterable[CachedRow]) -> int:
    """A checksum of `rows`, equal on ranks that hold equal rows."""
    value = 0
    for row in rows:
        state = (row.id, row.cached, row.draft_cached, row.done, *row.tokens[-8:])
        value = zlib.crc32(array("q", state).tobytes(), value)
    return value
