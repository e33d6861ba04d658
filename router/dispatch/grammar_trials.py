"""Which grammars are suspected of making the shards fail while they are prepared, or given up.

A failure makes every grammar that was being prepared a suspect. The next shards prepare suspects,
and the grammars of live requests, one after the other before they serve, so that a failure then
has one cause. One during which the shards have failed three times in a row is given up: no shard
gets it again. Which requests that ends, and how shards are started, is not known here.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager

from router.dispatch.quarantine import Quarantine
from router.shards.group import ShardGroup

MAX_GIVEN_UP = 16
"""Maximum number of grammars that are remembered as given up; the oldest are forgotten."""


class GrammarTrials:
    """The suspects among grammars, and the callers that wait for one."""

    def __init__(self) -> None:
        self._quarantine: Quarantine[str] = Quarantine()
        self._given_up: deque[str] = deque(maxlen=MAX_GIVEN_UP)
        self._waiting: Counter[str] = Counter()
        """Number of callers that wait for each grammar."""

    @contextmanager
    def waiting(self, grammar: str) -> Iterator[None]:
        """A caller needs `grammar` for the length of a `with`."""
        self._waiting[grammar] += 1
        try:
            yield
        finally:
            self._waiting[grammar] -= 1
            self._waiting += Counter()  # drops the zeros

    def is_given_up(self, grammar: str) -> bool:
        """Whether no shard may prepare `grammar` again."""
        return grammar in self._given_up

    def note_failure(self, preparing: Collection[str]) -> None:
        """The shards have failed while they prepared the grammars `preparing`."""
        failed = self._quarantine.after_failure(preparing)
        self._given_up.extend(failed.given_up)
        self._quarantine = failed.without(failed.given_up)

    async def run(self, shards: ShardGroup, live: Sequence[str]) -> None:
        """Let `shards`, which do not serve yet, prepare suspects and the grammars `live`.

        Suspects that no caller waits for are cleared. Returns early if the shards fail.
        """
        unused = self._quarantine.failures.keys() - self._waiting.keys() - set(live)
        self._quarantine = self._quarantine.without(unused)
        for grammar in dict.fromkeys((*self._quarantine.by_failures(), *live)):
            await shards.prepare_grammar(grammar)
            if shards.failure:
                return
            self._quarantine = self._quarantine.without((grammar,))
