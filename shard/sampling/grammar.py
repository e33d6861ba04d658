"""Which tokens a grammar allows, at any position and after any draft.

A matcher answers for an output, not for a sequence of calls: it keeps a cursor in llguidance's
parser, rolls it back to the common prefix of two outputs and continues from there. So callers need
no bookkeeping for an output that was rejected, drafted, or resumed after an eviction; and a parser
that fails after a draft is replaced, so that no draft decides how a row ends. A grammar is
compiled once, by whichever thread comes first: `prepare` runs concurrently with Steps, so that no
row waits for another row's grammar.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from threading import Lock

import torch
from llguidance import LLMatcher, LLParserLimits, LLTokenizer
from torch import Tensor

from shard.bounded_cache import BoundedCache
from shard.wire.protocol import MAX_GRAMMAR_ITEMS, MAX_GRAMMAR_STATES

_log = logging.getLogger(__name__)
_MAX_CACHED_STATES = 65
"""Number of positions that are cached per row: the longest draft and the token after it."""
MAX_CACHED_BYTES = 128 << 20
"""Maximum estimated size of the compiled grammars that are cached, in addition to live rows'."""
_GRAMMAR_BYTES, _BYTES_PER_CHARACTER = 1 << 20, 64
"""Estimated size of a compiled grammar: a part that each one has, and one that grows with it."""
_LIMITS = LLParserLimits(step_max_items=MAX_GRAMMAR_ITEMS, max_lexer_states=MAX_GRAMMAR_STATES)
_UNUSABLE = (ValueError, TypeError, KeyError, AttributeError)
"""What a tokenizer.json of another form raises."""
DEAD_END = "the grammar allows none of the model's tokens here"
LIMIT_EXCEEDED = "the grammar exceeds the limits of its parser"


@dataclass(frozen=True, slots=True)
class _State:
    """What the parser says of one position."""

    mask: bytes
    """One bit per token."""
    can_end: bool
    """Whether the output is a complete text."""
    is_complete: bool
    """Whether nothing but an end can follow."""
    fault: str = ""
    """Why no token can follow, for the client."""


@dataclass(frozen=True, slots=True)
class EndTokens:
    """The ids that end a text, as the model and as the parser have it; below the vocabulary."""

    eos: list[int]
    """The model's end-of-sequence ids."""
    foreign: list[int]
    """Ids that only the parser takes for an end."""
    added: list[int]
    """The model's ids if the parser takes all of them for text."""


class Matcher:
    """One row's grammar. What it returns is a function of the output alone."""

    def __init__(
        self, new_parser: Callable[[], LLMatcher], vocabulary: int, ends: EndTokens
    ) -> None:
        """`new_parser` makes a parser at the start of the grammar; ids are below `vocabulary`."""
        self._new_parser, self._parser = new_parser, new_parser()
        self._token_bits, self._ends = (1 << vocabulary) - 1, ends
        self._output: list[int] = []
        """The tokens that the parser has consumed."""
        self._states: dict[int, _State] = {}
        self._seconds = 0.0

    def mask(self, output: Sequence[int], vocabulary: int) -> Tensor:
        """Tokens that may follow `output`, bool [vocabulary], on the CPU.

        After a complete text only end-of-sequence is allowed, and before one such an id only if
        the grammar allows no other: then it is text. The mask has no meaning where there is a
        fault, or after tokens that the grammar refuses, which only a draft can contain.
        """
        state = self._state(output)
        if state.fault:
            return torch.ones(vocabulary, dtype=torch.bool)
        packed = torch.frombuffer(bytearray(state.mask), dtype=torch.uint8)
        bits = packed[:, None] >> torch.arange(8, dtype=torch.uint8) & 1
        allowed = bits.flatten()[:vocabulary].bool()
        others = allowed.clone()
        others[self._ends.foreign] = False
        others[self._ends.added if state.can_end else self._ends.eos] = state.can_end
        return others if others.any() else allowed

    def fault(self, output: Sequence[int]) -> str:
        """Why no token can follow `output`; empty if one can."""
        return self._state(output).fault

    def can_end(self, output: Sequence[int]) -> bool:
        """Whether `output` is a complete text, so that end-of-sequence may follow."""
        return self._state(output).can_end

    def is_complete(self, output: Sequence[int]) -> bool:
        """Whether nothing but end-of-sequence can follow `output`."""
        return self._state(output).is_complete

    def forced_tokens(self, output: Sequence[int]) -> list[int]:
        """The usual tokens of the text that must follow `output`; none where there is a choice.

        The grammar may allow the same text in other tokens, and the tokenizer is only asked for the
        usual ones, so they are likely but not certain: drafts, to be verified as any other.
        """
        started_at = time.thread_time()
        consumed = self._move(output, _common_prefix_length(self._output, output))
        usable = consumed == len(output) and not self._parser.is_error()
        forced = list(self._parser.compute_ff_tokens()) if usable else []
        self._seconds += time.thread_time() - started_at
        return forced

    def take_seconds(self) -> float:
        """Seconds of CPU time that the grammar has taken since the last call."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds

    def _state(self, output: Sequence[int]) -> _State:
        started_at = time.thread_time()
        length = self._seek(output)
        if length < len(output) and self._parser.is_error():
            state = self._failed_state()
        elif length in self._states:
            state = self._states[length]
        else:
            self._states.pop(length - _MAX_CACHED_STATES, None)
            state = self._states[length] = self._read_state()
        self._seconds += time.thread_time() - started_at
        return state

    def _seek(self, output: Sequence[int]) -> int:
        """Move the cursor to the end of `output`, or to where it leaves the grammar.

        Returns the number of tokens consumed. The cursor stays where the state is cached.
        """
        shared = _common_prefix_length(self._output, output)
        if shared == len(output) and shared in self._states:
            return shared
        return self._move(output, shared)

    def _move(self, output: Sequence[int], shared: int) -> int:
        """Move the cursor to the end of `output`, of which it has consumed `shared` tokens."""
        for length in range(shared + 1, len(self._output) + 1):
            self._states.pop(length, None)
        if self._parser.is_error():
            self._parser, consumed = self._new_parser(), 0
        else:
            self._parser.rollback(len(self._output) - shared)
            consumed = shared
        more = list(output[consumed:])
        count = self._parser.try_consume_tokens(more)
        self._output = list(output[: consumed + count])
        return len(self._output)

    def _read_state(self) -> _State:
        mask = self._parser.compute_bitmask()
        if self._parser.is_error():
            return self._failed_state()
        can_end, is_complete = self._parser.is_accepting(), self._parser.is_stopped()
        has_token = int.from_bytes(mask, "little") & self._token_bits
        if not has_token and not (is_complete and self._output):
            return _State(b"", can_end=False, is_complete=False, fault=DEAD_END)
        return _State(mask, can_end, is_complete)

    def _failed_state(self) -> _State:
        is_dead_end = self._parser.get_error().startswith("NoExtension")
        fault = DEAD_END if is_dead_end else LIMIT_EXCEEDED
        return _State(b"", can_end=False, is_complete=False, fault=fault)


class GrammarMatchers:
    """Makes matchers for a model with `vocabulary` tokens and end-of-sequence tokens `eos`."""

    def __init__(self, folder: str, vocabulary: int, eos: frozenset[int]) -> None:
        """Reads the tokenizer, which is slow, if the model has one."""
        self._path = Path(folder, "tokenizer.json")
        self._vocabulary, self._eos = vocabulary, eos
        self._compiled = BoundedCache[str, LLMatcher](
            MAX_CACHED_BYTES, lambda grammar, _: _estimated_bytes(grammar)
        )
        self._lock = Lock()
        """Held briefly, never during a compilation."""
        if self._path.exists():
            try:
                _ = self._tokenizer
            except _UNUSABLE as fault:  # the router refuses the model or grammars for it
                _log.warning("no grammars with %s: %s", self._path.name, fault)

    @property
    def cached_bytes(self) -> int:
        """Estimated size of the compiled grammars that are cached."""
        return self._compiled.size

    def prepare(self, grammar: str) -> None:
        """Compile llguidance's `grammar` unless it is cached; thread-safe."""
        self._compile(grammar)

    def matcher(self, grammar: str) -> Matcher:
        """A matcher at the start of `grammar`, which compiles it if needed."""
        return Matcher(partial(self._new_parser, grammar), self._vocabulary, self._ends)

    def _new_parser(self, grammar: str) -> LLMatcher:
        compiled = self._compile(grammar)
        with self._lock:
            return compiled.deep_copy()

    def _compile(self, grammar: str) -> LLMatcher:
        with self._lock:
            cached = self._compiled.get(grammar)
        if cached is not None:
            return cached
        compiled = LLMatcher(self._tokenizer, grammar, log_level=0, limits=_LIMITS)  # without GIL
        if not compiled.is_error():
            compiled.compute_bitmask()
        with self._lock:
            self._compiled.put(grammar, compiled)
        return compiled

    @cached_property
    def _ends(self) -> EndTokens:
        parser = set(self._tokenizer.eos_tokens)
        foreign = sorted(id for id in parser - self._eos if id < self._vocabulary)
        added = [] if parser & self._eos else sorted(self._eos)
        return EndTokens(sorted(self._eos), foreign, added)

    @cached_property
    def _tokenizer(self) -> LLTokenizer:
        """The tokenizer, which may have more tokens than the model. Raises ValueError.

        An end-of-sequence id of the plain vocabulary, such as a quotation mark, stays text, since
        a grammar may need it.
        """
        text = self._path.read_text(encoding="utf-8")
        added = {token["id"] for token in json.loads(text).get("added_tokens") or ()}
        eos = sorted(self._eos & added) or None
        try:
            return LLTokenizer(text, n_vocab=self._vocabulary, eos_token=eos)
        except ValueError:
            return LLTokenizer(text, eos_token=eos)


def _estimated_bytes(grammar: str) -> int:
    return _GRAMMAR_BYTES + _BYTES_PER_CHARACTER * len(grammar)


def _common_prefix_length(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common prefix."""
    limit = min(len(left), len(right))
    if list(left[:limit]) == list(right[:limit]):
        return limit
    return next(index for index in range(limit) if left[index] != right[index])
