"""What one preemption costs: keep in place, swap to the host, or drop and recompute.

overhead(g) = (seconds to preempt + seconds to resume) / seconds to serve the request alone until
it holds g tokens, prompt included. One request decodes; at each g every rung is climbed several
times in turn, each time serving another request in between, and the median counts. For `keep` the
cost is what the first round after the pause takes beyond an ordinary one, so it may fall a little
below zero. The engine is the shipped one, driven by Steps as the router sends them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from benchmark.demo import engine as demo_engine
from shard.attention.kv_cache import PAGE_SIZE
from shard.engine import Engine
from shard.wire.protocol import AppendPages, NewRow, PageCopy, RowWork, Sampling, Step

HELD_TOKENS = (100, 200, 300, 400, 500)
"""Tokens held at the preemption."""
METHODS = ("keep", "swap", "recompute")
_PROMPT = 32
_ID, _OTHER = 1, 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to write, and how often to measure."""
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--plot", type=Path, help="file for a plot; needs matplotlib")
    parser.add_argument("--rounds", type=int, default=5, help="times that each case is measured")
    parser.add_argument("--target", help="folder of another target model")
    parser.add_argument("--draft", help="folder of its draft")


def run(args: argparse.Namespace) -> int:
    """Measure, print, and write what was asked for; the exit status."""
    engine = demo_engine.load(args.target, args.draft, max_swap_tokens=4 * max(HELD_TOKENS))
    figures = measure(engine, args.rounds)
    for name, value in figures.items():
        print(f"{name:28} {value:8.4f}")
    if args.json:
        args.json.write_text(json.dumps({"figures": figures}, indent=2) + "\n")
    if args.plot:
        _plot(figures, args.plot)
    return 0


def measure(engine: Engine, rounds: int) -> dict[str, float]:
    """Overhead of every rung at every length, as a share of uninterrupted time."""
    life = PreemptedRequest(engine, rounds)
    life.begin(_PROMPT)
    found: dict[tuple[str, int], float] = {}
    for held in HELD_TOKENS:
        life.decode_until(held)
        for rung in METHODS:
            costs = [life.preempt(rung) for _ in range(rounds + 1)]  # the first allocates
            found[rung, held] = statistics.median(costs[1:]) / life.seconds
    return {
        f"preemption.{rung}.{held}": found[rung, held] for rung in METHODS for held in HELD_TOKENS
    }


class PreemptedRequest:
    """One request that holds at least the most tokens that are measured; times in seconds."""

    def __init__(self, engine: Engine, rounds: int) -> None:
        self._engine, self._draft = engine, engine.ready().speculate
        self._tokens = [1 + index % 97 for index in range(_PROMPT)]
        # At each length the rung `keep` decodes once a round, which must not fill the room.
        spare = (len(HELD_TOKENS) * (rounds + 2) + 1) * (self._draft + 1)
        self._max_tokens = max(HELD_TOKENS) + spare
        self._pages = tuple(range(1, 1 + -(-self._max_tokens // PAGE_SIZE)))
        self._draft_cached = 0
        self._round_seconds: list[float] = []
        self.seconds = 0.0
        """Spent on the request itself."""

    def decode_until(self, held: int) -> None:
        """Go on until `held` tokens are known."""
        while len(self._tokens) < held:
            self._round_seconds.append(self._decode())
            self.seconds += self._round_seconds[-1]

    def preempt(self, method: str) -> float:
        """Give way to another request and come back; the seconds that this costs."""
        before = self._preempt(method)
        self._serve_another()
        return before + self._resume(method)

    def begin(self, prefill: int) -> None:
        """The request's first Step."""
        self.seconds += self._step(self._entry_step(prefill, PageCopy()))

    def _preempt(self, method: str) -> float:
        match method:
            case "swap":
                pages, slots = self._pages_and_slots()
                return self._step(Step(0, (_ID,), (), (), (), swap_out=PageCopy(pages, slots)))
            case "recompute":
                return self._step(Step(0, (_ID,), (), (), ()))
        return 0.0

    def _resume(self, method: str) -> float:
        match method:
            case "swap":
                pages, slots = self._pages_and_slots()
                return self._step(self._entry_step(0, PageCopy(slots, pages)))
            case "recompute":  # all but the last token, which the next round feeds anyway
                return self._step(self._entry_step(len(self._tokens) - 1, PageCopy()))
        return self._decode() - statistics.median(self._round_seconds[-9:])

    def _pages_and_slots(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        count = -(-len(self._tokens) // PAGE_SIZE)
        return self._pages[:count], tuple(range(count))

    def _entry_step(self, prefill: int, swap_in: PageCopy) -> Step:
        """The row comes in with tokens to feed, or with its KV from the host."""
        cached = 0 if prefill else len(self._tokens) - 1
        new = NewRow(
            id=_ID,
            tokens=tuple(self._tokens),
            prompt=_PROMPT,
            max_new=self._max_tokens - _PROMPT,
            ignore_eos=True,
            sampling=Sampling(),
            cached=cached,
            draft_cached=min(cached, self._draft_cached),
        )
        run = (RowWork(_ID, prefill, 0),) if prefill else ()
        return Step(0, (), (new,), (AppendPages(_ID, self._pages),), run, swap_in=swap_in)

    def _decode(self) -> float:
        return self._step(Step(0, (), (), (), (RowWork(_ID, 0, self._draft),)))

    def _serve_another(self) -> None:
        """What the request gives way to; it is not counted."""
        first = 1 + len(self._pages)
        new = NewRow(_OTHER, (5,) * _PROMPT, _PROMPT, 8, True, Sampling())
        grow = AppendPages(_OTHER, tuple(range(first, first + 1 + (_PROMPT + 8) // PAGE_SIZE)))
        self._engine.execute(Step(0, (), (new,), (grow,), (RowWork(_OTHER, _PROMPT, 0),)))
        self._engine.execute(Step(0, (), (), (), (RowWork(_OTHER, 0, 0),)))
        self._engine.execute(Step(0, (_OTHER,), (), (), ()))

    def _step(self, step: Step) -> float:
        start = time.perf_counter()
        result = self._engine.execute(step)
        if torch.cuda.is_available():
            torch.cuda.synchronize()  # a Step that only moves pages waits for nothing
        for item in result.items:
            self._tokens.extend(item.tokens)
            self._draft_cached = item.draft_cached
        return time.perf_counter() - start


def _plot(figures: dict[str, float], path: Path) -> None:
    from matplotlib import pyplot  # an extra: only who wants the plot needs it

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for rung in METHODS:
        shares = [100 * figures[f"preemption.{rung}.{held}"] for held in HELD_TOKENS]
        axes.plot(HELD_TOKENS, shares, marker="o", label=rung)
    axes.set_xlabel("tokens held")
    axes.set_ylabel("% of uninterrupted time")
    axes.set_title("overhead of one preemption")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
