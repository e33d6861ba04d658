"""What one preemption costs: keep in place, swap to the host, or drop and recompute.

overhead(g) = (seconds to preempt + seconds to resume) / seconds to serve the request alone until
it holds g tokens, prompt included. One request decodes. At each g, every method is measured several
times in turn, each time with another request served in between; the median counts. For `keep`, the
cost is what the first round after the pause takes beyond a normal one, so it may fall slightly
below zero. The engine is the real one, driven by Steps as the router sends them.
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
    """Add the options of `preemption`."""
    parser.add_argument("--json", type=Path, help="file for the metrics")
    parser.add_argument("--plot", type=Path, help="file for a plot; needs matplotlib")
    parser.add_argument("--rounds", type=int, default=5, help="times that each case is measured")
    parser.add_argument("--target", help="folder of another target model")
    parser.add_argument("--draft", help="folder of its draft")


def run(args: argparse.Namespace) -> int:
    """Measure, print and write the results. Return the exit status."""
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
    """Overhead of every method at every length, as a fraction of uninterrupted time."""
    life = PreemptedRequest(engine, rounds)
    life.begin(_PROMPT)
    overheads: dict[tuple[str, int], float] = {}
    for held in HELD_TOKENS:
        life.decode_until(held)
        for method in METHODS:
            costs = [life.preempt(method) for _ in range(rounds + 1)]  # the first allocates
            overheads[method, held] = statistics.median(costs[1:]) / life.seconds
    return {
        f"preemption.{method}.{held}": overheads[method, held]
        for method in METHODS
        for held in HELD_TOKENS
    }


class PreemptedRequest:
    """One request that is long enough for every measured length; times in seconds."""

    def __init__(self, engine: Engine, rounds: int) -> None:
        self._engine, self._draft = engine, engine.ready().speculate
        self._tokens = [1 + index % 97 for index in range(_PROMPT)]
        # At each length, `keep` decodes once per round; the pages must suffice for that.
        spare = (len(HELD_TOKENS) * (rounds + 2) + 1) * (self._draft + 1)
        self._max_tokens = max(HELD_TOKENS) + spare
        self._pages = tuple(range(1, 1 + -(-self._max_tokens // PAGE_SIZE)))
        self._draft_cached = 0
        self._round_seconds: list[float] = []
        self.seconds = 0.0
        """Time spent on the request itself."""

    def decode_until(self, held: int) -> None:
        """Decode until `held` tokens are known."""
        while len(self._tokens) < held:
            self._round_seconds.append(self._decode())
            self.seconds += self._round_seconds[-1]

    def preempt(self, method: str) -> float:
        """Preempt, serve another request and resume. Return the seconds that this costs."""
        before = self._preempt(method)
        self._serve_another()
        return before + self._resume(method)

    def begin(self, prefill: int) -> None:
        """Run the request's first Step."""
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
        """The Step in which the row enters, with tokens to prefill or with its KV from the host."""
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
        """Serve another request; its time does not count."""
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
            torch.cuda.synchronize()  # a Step that only copies pages does not wait for them
        for item in result.items:
            self._tokens.extend(item.tokens)
            self._draft_cached = item.draft_cached
        return time.perf_counter() - start


def _plot(figures: dict[str, float], path: Path) -> None:
    from matplotlib import pyplot  # an optional dependency

    figure, axes = pyplot.subplots(figsize=(6, 4))
    for method in METHODS:
        shares = [100 * figures[f"preemption.{method}.{held}"] for held in HELD_TOKENS]
        axes.plot(HELD_TOKENS, shares, marker="o", label=method)
    axes.set_xlabel("tokens held")
    axes.set_ylabel("% of uninterrupted time")
    axes.set_title("overhead of one preemption")
    axes.legend()
    figure.tight_layout()
    figure.savefig(path)
