"""Which tokens a grammar lets a row emit, at any position and after any draft.

A matcher answers for an output, not for a sequence of calls: it keeps a cursor in llguidance's
parser, rolls it back to what two outputs share and goes on from there. So an output that was
rejected, resumed after an eviction or only drafted needs no bookkeeping by anyone. A grammar is
compiled once, by whichever thread comes first: `prepare` does it beside the Steps, so that no row
waits for another's grammar.
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
"""Masks of so many last positions are kept: the longest draft and the token after it."""
_MAX_CACHED_GRAMMARS = 512
"""Compiled grammars that are kept, beside those of live rows."""


class Matcher:
    """One row's grammar. `mask` is a function of the output alone."""

    def __init__(self, matcher: LLMatcher) -> None:
        self._matcher = matcher
        self._output: list[int] = []
        """What the parser has consumed."""
        self._masks: dict[int, bytes] = {}

    @property
    def broken(self) -> bool:
        """Whether the grammar cannot be compiled, or grew beyond llguidance's limits."""
        return bool(self._matcher.is_error())

    def mask(self, output: Sequence[int], vocabulary: int) -> Tensor:
        """Tokens that may follow `output`, bool [vocabulary], on the CPU.

        A whole text admits the end alone. After tokens that the grammar refuses, which only a
        draft can bring, the answer has no meaning.
        """
        place = self._seek(output)
        if place not in self._masks:
            self._masks.pop(place - _MAX_CACHED_MASKS, None)
            self._masks[place] = self._matcher.compute_bitmask()
        packed = torch.frombuffer(bytearray(self._masks[place]), dtype=torch.uint8)
        bits = packed[:, None] >> torch.arange(8, dtype=torch.uint8) & 1
        return bits.flatten()[:vocabulary].bool()

    def _seek(self, output: Sequence[int]) -> int:
        """Move the cursor behind `output`, or to where it leaves the grammar."""
        shared = _common_prefix_length(self._output, output)
        if shared == len(output) and shared in self._masks:
            return shared
        self._matcher.rollback(len(self._output) - shared)
        for place in range(shared + 1, len(self._output) + 1):
            self._masks.pop(place, None)
        more = list(output[shared:])
        self._output = [*output[:shared], *more[: self._matcher.try_consume_tokens(more)]]
        return len(self._output)


class GrammarMatchers:
    """Makes matchers for a model of `vocabulary` tokens that ends its texts with `eos`."""

    def __init__(self, folder: str, vocabulary: int, eos: frozenset[int]) -> None:
        """Reads the vocabulary, which takes a while, if the model has one."""
        self._path = Path(folder, "tokenizer.json")
        self._vocabulary, self._eos = vocabulary, eos
        self._compiled: OrderedDict[str, LLMatcher] = OrderedDict()
        self._lock = Lock()
        """Held for moments only, never while something is compiled."""
        if self._path.exists():
            try:
                _ = self._tokenizer
            except ValueError as fault:  # the router refuses grammars then, for the same reason
                _log.warning("no grammars with %s: %s", self._path.name, fault)

    def prepare(self, grammar: str) -> None:
        """Compile llguidance's `grammar`, unless that is done; for any thread."""
        with self._lock:
            if grammar in self._compiled:
                self._compiled.move_to_end(grammar)
                return
        made = LLMatcher(self._tokenizer, grammar, log_level=0)  # gives the interpreter's lock back
        if not made.is_error():
            made.compute_bitmask()
        with self._lock:
            self._compiled[grammar] = made
            if len(self._compiled) > _MAX_CACHED_GRAMMARS:
                self._compiled.popitem(last=False)

    def matcher(self, grammar: str) -> Matcher:
        """A matcher at the start of `grammar`; `broken` where it is none. Waits if unprepared."""
        self.prepare(grammar)
        with self._lock:
            return Matcher(self._compiled[grammar].deep_copy())

    @cached_property
    def _tokenizer(self) -> LLTokenizer:
        text = self._path.read_text(encoding="utf-8")
        return LLTokenizer(text, n_vocab=self._vocabulary, eos_token=sorted(self._eos) or None)


def _common_prefix_length(left: Sequence[int], right: Sequence[int]) -> int:
    """Length of the common start."""
    most = min(len(left), len(right))
    if list(left[:most]) == list(right[:most]):
        return most
    return next(place for place in range(most) if left[place] != right[place])
