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
from shard.wire.protocol import Grow, Move, New, Run, Sampling, Step

HELD = (100, 200, 300, 400, 500)
"""Tokens held at the preemption."""
RUNGS = ("keep", "swap", "recompute")
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
    engine = demo_engine.load(args.target, args.draft, max_swap_tokens=4 * max(HELD))
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
    life = Life(engine, rounds)
    life.enter(_PROMPT)
    found: dict[tuple[str, int], float] = {}
    for held in HELD:
        life.decode_until(held)
        for rung in RUNGS:
            costs = [life.preempt(rung) for _ in range(rounds + 1)]  # the first allocates
            found[rung, held] = statistics.median(costs[1:]) / life.seconds
    return {f"preemption.{rung}.{held}": found[rung, held] for rung in RUNGS for held in HELD}


class Life:
    """One request that holds at least the most tokens that are measured; times in seconds."""

    def __init__(self, engine: Engine, rounds: int) -> None:
        self._engine, self._draft = engine, engine.ready().speculate
        self._tokens = [1 + index % 97 for index in range(_PROMPT)]
        # At each length the rung `keep` decodes once a round, which must not fill the room.
        spare = (len(HELD) * (rounds + 2) + 1) * (self._draft + 1)
        self._most = max(HELD) + spare
        self._pages = tuple(range(1, 1 + -(-self._most // PAGE_SIZE)))
        self._draft_cached = 0
        self._usual: list[float] = []
        self.seconds = 0.0
        """Spent on the request itself."""

    def decode_until(self, held: int) -> None:
        """Go on until `held` tokens are known."""
        while len(self._tokens) < held:
            self._usual.append(self._decode())
            self.seconds += self._usual[-1]

    def preempt(self, rung: str) -> float:
        """Give way to another request and come back; the seconds that this costs."""
        before = self._leave(rung)
        self._serve_another()
        return before + self._return(rung)

    def enter(self, prefill: int) -> None:
        """The request's first Step."""
        self.seconds += self._step(self._entering(prefill, Move()))

    def _leave(self, rung: str) -> float:
        match rung:
            case "swap":
                pages, slots = self._used()
                return self._step(Step(0, (_ID,), (), (), (), swap_out=Move(pages, slots)))
            case "recompute":
                return self._step(Step(0, (_ID,), (), (), ()))
        return 0.0

    def _return(self, rung: str) -> float:
        match rung:
            case "swap":
                pages, slots = self._used()
                return self._step(self._entering(0, Move(slots, pages)))
            case "recompute":  # all but the last token, which the next round feeds anyway
                return self._step(self._entering(len(self._tokens) - 1, Move()))
        return self._decode() - statistics.median(self._usual[-9:])

    def _used(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        count = -(-len(self._tokens) // PAGE_SIZE)
        return self._pages[:count], tuple(range(count))

    def _entering(self, prefill: int, back: Move) -> Step:
        """The row comes in with tokens to feed, or with its KV from the host."""
        cached = 0 if prefill else len(self._tokens) - 1
        new = New(
            id=_ID,
            tokens=tuple(self._tokens),
            prompt=_PROMPT,
            max_new=self._most - _PROMPT,
            ignore_eos=True,
            sampling=Sampling(),
            cached=cached,
            draft_cached=min(cached, self._draft_cached),
        )
        run = (Run(_ID, prefill, 0),) if prefill else ()
        return Step(0, (), (new,), (Grow(_ID, self._pages),), run, swap_in=back)

    def _decode(self) -> float:
        return self._step(Step(0, (), (), (), (Run(_ID, 0, self._draft),)))

    def _serve_another(self) -> None:
        """What the request gives way to; it is not counted."""
        first = 1 + len(self._pages)
        new = New(_OTHER, (5,) * _PROMPT, _PROMPT, 8, True, Sampling())
        grow = Grow(_OTHER, tuple(range(first, first + 1 + (_PROMPT + 8) // PAGE_SIZE)))
        self._engine.execute(Step(0, (), (new,), (grow,), (Run(_OTHER, _PROMPT, 0),)))
        self._engine.execute(Step(0, (), (), (), (Run(_OTHER, 0, 0),)))
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
    for rung in RUNGS:
        shares = [100 * figures[f"preemption.{rung}.{held}"] for held in HELD]
        axes.plot(HELD, shares, marker="o", label=rung)
    axes.set_xlabel("tokens held")
    axes.set_ylabel("% of uninterrupted time")
    axes.set_title("overhead of one preemption")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
