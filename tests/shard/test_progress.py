"""A Step that computes is never called hung, however long it takes: it progresses by layers."""

from __future__ import annotations

import pytest
from transformers import AutoConfig

from router.shards.watchdog import Watchdog
from shard import progress
from shard.wire.protocol import AppendPages, NewRow, RowWork, Sampling, Step
from tests.support import tiny
from tests.support.pairs import Model

TIMEOUT = 5.0
PROMPT = tuple(range(1, 61))
PREFILL = Step(
    1,
    (),
    (NewRow(1, PROMPT, len(PROMPT), 9, True, Sampling()),),
    (AppendPages(1, tuple(range(1, 6))),),
    (RowWork(1, len(PROMPT), 0),),
)


class SlowRank:
    """Computes a Step in virtual time: each part takes almost as long as a hang."""

    def __init__(self, watchdog: Watchdog) -> None:
        self.watchdog, self.now, self.parts = watchdog, 0.0, 0
        self.reasons: list[str | None] = []

    def advance(self) -> None:
        """Complete a part, while the router checks the rank several times a second."""
        until = self.now + 0.9 * TIMEOUT
        while self.now < until:
            self.now += 0.1
            self.reasons.append(self.watchdog.hang(self.now))
            for rank in self.watchdog.ranks_to_ping(self.now):
                self.watchdog.ponged(rank, self.parts)
        self.parts += 1


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "mixtral", "deepseek-v2", "bloom"])
def test_a_step_that_progresses_by_layers_is_never_called_hung(
    model: Model, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = model(name)
    engine = tiny.engine(path)
    rank = SlowRank(Watchdog(1, TIMEOUT))
    monkeypatch.setattr(progress, "advance", rank.advance)
    rank.watchdog.step_sent(0.0, 0.0)
    engine.execute(PREFILL)
    assert rank.parts >= AutoConfig.from_pretrained(path).num_hidden_layers
    assert set(rank.reasons) == {None}
    assert rank.now > 2 * TIMEOUT
    engine.reset()


def test_a_layer_that_does_not_end_is_called_hung() -> None:
    rank = SlowRank(Watchdog(1, TIMEOUT))
    rank.watchdog.step_sent(0.0, 0.0)
    rank.advance()
    while not any(rank.reasons):
        rank.now += 0.1
        for number in rank.watchdog.ranks_to_ping(rank.now):
            rank.watchdog.ponged(number, rank.parts)
        rank.reasons.append(rank.watchdog.hang(rank.now))
        assert rank.now < 3 * TIMEOUT
    assert rank.reasons[-1] == "no rank has made progress in a Step for 5 s"
