"""Which tokens a grammar allows, at any position and after any draft.

A matcher answers for an output, not for a sequence of calls: it keeps a cursor in llguidance's
parser, rolls it back to the common prefix of two outputs and continues from there. So callers need
no bookkeeping for an output that was rejected, drafted, or resumed after an eviction. A grammar is
compiled once, by whichever thread comes first: `prepare` runs concurrently with Steps, so that no
row waits for another row's grammar.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from threading import Lock

import torch
from llguidance import LLMatcher, LLTokenizer
from torch import Tensor

_log = logging.getLogger(__name__)
_MAX_CACHED_MASKS = 65
"""Number of positions whose masks are cached: the longest draft and the token after it."""
_MAX_CACHED_GRAMMARS = 512
"""Number of compiled grammars that are cached, in addition to those of live rows."""


class Matcher:
    """One row's grammar. `mask` is a function of the output alone."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher
        self._output: list[int] = []
        """The tokens that the parser has consumed."""
        self._masks: dict[int, bytes] = {}

    @property
    def broken(self) -> bool:
        """Whether the grammar cannot be compiled, or exceeded llguidance's limits."""
        return bool(self._matcher.is_error())

    def mask(self, output: Sequence[int], vocabulary: int) -> Tensor:
        """Tokens that may follow `output`, bool [vocabulary], on the CPU.

        After a complete text only end-of-sequence is allowed. After tokens that the grammar
        refuses, which only a draft can contain, the mask has no meaning.
        """
        length = self._seek(output)
        if length not in self._masks:
            self._masks.pop(length - _MAX_CACHED_MASKS, None)
            self._masks[length] = self._matcher.compute_bitmask()
        packed = torch.frombuffer(bytearray(self._masks[length]), dtype=torch.uint8)
        bits = packed[:, None] >> torch.arange(8, dtype=torch.uint8) & 1
        return bits.flatten()[:vocabulary].bool()

    def _seek(self, output: Sequence[int]) -> int:
        """Move the cursor to the end of `output`, or to where it leaves the grammar.

        Returns the number of tokens consumed.
        """
        shared = _common_prefix_length(self._output, output)
        if shared == len(output) and shared in self._masks:
            return shared
        self._matcher.rollback(len(self._output) - shared)
        for length in range(shared + 1, len(self._output) + 1):
            self._masks.pop(length, None)
        more = list(output[shared:])
        self._output = [*output[:shared], *more[: self._matcher.try_consume_tokens(more)]]
        return len(self._output)


class GrammarMatchers:
    """Makes matchers for a model with `vocabulary` tokens and end-of-sequence tokens `eos`."""

    def __init__(self, folder: str, vocabulary: int, eos: frozenset[int]) -> None:
        """Reads the tokenizer, which is slow, if the model has one."""
        self._path = Path(folder, "tokenizer.json")
        self._vocabulary, self._eos = vocabulary, eos
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._lock = Lock()
        """Held briefly, never during a compilation."""
        if self._path.exists():
            try:
                _ = self._tokenizer
            except ValueError as fault:  # the router refuses grammars for the same reason
                _log.warning("no grammars with %s: %s", self._path.name, fault)

    def prepare(self, grammar: str) -> None:
        """Compile llguidance's `grammar` unless it is cached; thread-safe."""
        with self._lock:
            if grammar in self._compiled:
                self._compiled.move_to_end(grammar)
                return
        compiled = LLMatcher(self._tokenizer, grammar, log_level=0)  # releases the GIL
        if not compiled.is_error():
            compiled.compute_bitmask()
        with self._lock:
            self._compiled[grammar] = compiled
            if len(self._compiled) > _MAX_CACHED_GRAMMARS:
                self._compiled.popitem(last=False)

    def matcher(self, grammar: str) -> Matcher:
        """A matcher at the start of `grammar`, `broken` if it is invalid; compiles it if needed."""
        self.prepare(grammar)
        with self._lock:
            return Matcher(self._compiled[grammar].deep_copy())

    @cached_property
    def _tokenizer(self) -> LLTokenizer:
        text = self._path.read_text(encoding="utf-8")
        return LLTokenizer(text, n_vocab=self._vocabulary, eos_token=sorted(self._eos) or None)


def _common_prefix_length(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common prefix."""
    limit = min(len(left), len(right))
    if list(left[:limit]) == list(right[:limit]):
        return limit
    return next(index for index in range(limit) if left[index] != right[index])
