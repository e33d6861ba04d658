"""Suffix decoding: what followed the last tokens before, in the row itself and in recent answers.

The places where the longest suffix of the row occurred are found, in its prompt and output and in
answers that other rows of its scope have completed. Their continuations vote, token by token. A
token's probability is its share of the votes times L / (L + 1) after a match of L tokens, so that a
draft of a single place is about as long as its match; the draft ends where the product falls below
`MIN_PROBABILITY`. (Oliaro et al., arXiv 2411.04975, "SuffixDecoding", which keeps suffix trees; an
index of runs of two lengths finds the same places without their nodes.)

Scopes share nothing: the time that an answer takes would disclose what others were told.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence

from shard.batch.packing import TokenSpan
from shard.batch.rows import CachedRow
from shard.rounds.drafter import Drafter, DraftRequest
from shard.wire.protocol import SUFFIX

ANCHORS = (8, 3)
"""Lengths of the runs that are indexed, the longest first; the last is the minimum match."""
MAX_PLACES = 16
"""Number of places of a run that are kept, the latest ones."""
MAX_MATCH_TOKENS = 32
"""Maximum number of tokens that are compared."""
MIN_PROBABILITY = 0.4
"""Probability of a whole draft below which it is not extended."""
MAX_ANSWER_TOKENS = 1 << 15
"""Number of tokens of recent answers that are kept, over all scopes, at about 1 kB each."""

Text = list[int]
Place = tuple[Text, int]
"""A text, and the index after a run in it."""


class SuffixIndex:
    """Where each run of `ANCHORS` tokens ends, in the texts that were added."""

    def __init__(self) -> None:
        self._places: dict[tuple[int, ...], list[Place]] = {}

    def add(self, text: Text, start: int, stop: int) -> None:
        """Add the runs of `text` that end after `start` to `stop` tokens, each with a next one."""
        for end in range(start, stop):
            for run in _runs(text, end):
                places = self._places.setdefault(run, [])
                places.append((text, end))
                del places[:-MAX_PLACES]

    def discard(self, text: Text) -> None:
        """Remove `text`, which was added before all others."""
        for end in range(len(text)):
            for run in _runs(text, end):
                places = self._places.get(run, [])
                if places and places[0][0] is text:
                    del places[0]
                if not places:
                    self._places.pop(run, None)

    def find(self, text: Text) -> list[Place]:
        """The places after the longest run that `text` ends with."""
        runs = _runs(text, len(text))
        return next((self._places[run] for run in runs if run in self._places), [])


class RecentAnswers:
    """Completed answers, in one index for each scope; the oldest leave first."""

    def __init__(self, max_tokens: int = MAX_ANSWER_TOKENS) -> None:
        self._max_tokens, self._tokens = max_tokens, 0
        self._answers: deque[tuple[str, Text]] = deque()
        self._by_scope: dict[str, SuffixIndex] = {}

    def add(self, scope: str, answer: Text) -> None:
        """Keep `answer`, and remove the oldest ones if there are too many tokens."""
        self._by_scope.setdefault(scope, SuffixIndex()).add(answer, 0, len(answer))
        self._answers.append((scope, answer))
        self._tokens += len(answer)
        while self._tokens > self._max_tokens:
            self._remove_oldest()

    def find(self, scope: str, text: Text) -> list[Place]:
        """The places in answers of `scope` after the longest run that `text` ends with."""
        index = self._by_scope.get(scope)
        return [] if index is None else index.find(text)

    def _remove_oldest(self) -> None:
        scope, answer = self._answers.popleft()
        self._tokens -= len(answer)
        if any(other == scope for other, _ in self._answers):
            self._by_scope[scope].discard(answer)
        else:
            del self._by_scope[scope]


class SuffixDrafter(Drafter):
    """Drafts from the row itself and from recent answers."""

    name = SUFFIX
    may_abstain = True
    remembers = True

    def __init__(self) -> None:
        self._answers = RecentAnswers()
        self._rows: dict[int, tuple[CachedRow, SuffixIndex, int]] = {}
        """Rows that have drafted, by id, their indices, and how many runs these have."""

    def propose(self, requests: Sequence[DraftRequest], prefills: Sequence[TokenSpan]) -> None:
        """Fill the requests whose rows end with a run that occurred before."""
        for request in requests:
            row = request.row
            places = self._index(row).find(row.tokens) + self._answers.find(row.scope, row.tokens)
            request.drafts = continuation(row.tokens, places, request.count)

    def remove(self, ids: Iterable[int]) -> None:
        """Keep the answers of rows that have completed."""
        for id in ids:
            if id in self._rows:
                row, _, _ = self._rows.pop(id)
                if row.done:
                    self._answers.add(row.scope, row.tokens[row.prompt_length :])

    def clear(self) -> None:
        """See `Drafter`."""
        self._rows.clear()
        self._answers = RecentAnswers()

    def _index(self, row: CachedRow) -> SuffixIndex:
        _, index, indexed = self._rows.get(row.id, (row, SuffixIndex(), 0))
        index.add(row.tokens, indexed, len(row.tokens))
        self._rows[row.id] = row, index, len(row.tokens)
        return index


def continuation(tokens: Text, places: Sequence[Place], count: int) -> list[int]:
    """At most `count` tokens that the longest matches of the end of `tokens` at `places` expect.

    A copy from `tokens` may run into its own proposal, so that a loop is continued.
    """
    lengths = [_match_length(tokens, *place) for place in places]
    match = max(lengths, default=0)
    own = tokens[:]
    copied = [
        (own if text is tokens else text, end)
        for (text, end), length in zip(places, lengths, strict=True)
        if length == match
    ]
    probability = 1.0
    while copied and len(own) < len(tokens) + count:
        [(token, votes)] = Counter(text[end] for text, end in copied).most_common(1)
        probability *= votes / len(copied) * match / (match + 1)
        if probability < MIN_PROBABILITY:
            break
        own.append(token)
        match += 1
        ahead = [(text, end + 1) for text, end in copied if text[end] == token]
        copied = [(text, end) for text, end in ahead if end < len(text)]
    return own[len(tokens) :]


def _runs(text: Text, end: int) -> list[tuple[int, ...]]:
    """The runs that end after `end` tokens of `text`, the longest first."""
    return [tuple(text[end - length : end]) for length in ANCHORS if length <= end]


def _match_length(tokens: Text, text: Text, end: int) -> int:
    """Number of tokens before `end` in `text` that equal the last ones of `tokens`."""
    limit = min(MAX_MATCH_TOKENS, end, len(tokens))
    length = 0
    while length < limit and text[end - 1 - length] == tokens[-1 - length]:
        length += 1
    return length
