"""Measure what the Steps of an engine cost, and fit the simulator's coefficients to them.

Rule: decides which Steps are timed. Rows, draft lengths and tokens held vary independently;
prefills run alone and together with decoding rows. Each kind of Step is timed in several passes
over all kinds, so that slow moments of the machine affect all kinds equally; the median of a kind
counts. The seconds to copy a token's KV are those that the engine measures itself.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Sequence
from pathlib import Path

from benchmark.demo import engine as demo_engine
from benchmark.simulation import step_costs
from benchmark.simulation.step_costs import StepWork
from shard.attention.kv_cache import PAGE_SIZE
from shard.engine import Engine
from shard.wire.protocol import AppendPages, NewRow, RowWork, Sampling, Step

ROWS = (1, 2, 4, 8, 16)
DRAFTS = (0, 1, 3, 5)
HELD = (32, 256, 640)
"""Tokens that each decoding row holds."""
CHUNKS = (16, 64, 256, 512)
SWAPPED = 256
MISSED_ROUNDS = 16
"""Rounds without drafts before the draft model has to catch up."""

Sample = tuple[StepWork, float]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `record-costs`."""
    parser.add_argument(
        "--json", type=Path, default=step_costs.RECORDED_COSTS, help="file for the costs"
    )
    parser.add_argument("--passes", type=int, default=9, help="measurements of each Step")
    parser.add_argument("--target", help="folder of another target model")
    parser.add_argument("--draft", help="folder of its draft")


def run(args: argparse.Namespace) -> int:
    """Measure, fit, print and write. Return the exit status."""
    load = os.getloadavg()[0]
    engine = demo_engine.load(
        args.target, args.draft, max_rows=max(ROWS), max_swap_tokens=4 * SWAPPED
    )
    ready, samples = engine.ready(), measure(engine, args.passes)
    costs = step_costs.fit(samples, swap=ready.swap_token_seconds)
    about: dict[str, object] = {
        "model": ready.model,
        "device": ready.device,
        "load_before": load,
        "passes": args.passes,
        "mean_relative_error": round(step_costs.error(costs, samples), 4),
        "steps": [" ".join(map(str, (*work, round(seconds, 6)))) for work, seconds in samples],
    }
    step_costs.save(args.json, costs, about)
    print(costs)
    print(f"mean relative error over {len(samples)} kinds of Step: {about['mean_relative_error']}")
    return 0


def measure(engine: Engine, passes: int) -> list[Sample]:
    """Measure every kind of Step; return its median seconds."""
    seconds_of_kind: dict[StepWork, list[float]] = {}
    for _ in range(passes + 1):  # the first Step of a shape allocates memory
        for work, seconds in _measure_pass(engine):
            seconds_of_kind.setdefault(work, []).append(seconds)
    return [(work, statistics.median(seconds[1:])) for work, seconds in seconds_of_kind.items()]


def _measure_pass(engine: Engine) -> list[Sample]:
    samples = [s for rows in ROWS for held in HELD for s in _time_decoding(engine, rows, held)]
    for chunk in CHUNKS:
        samples.append(_time_prefilling(engine, chunk, decoding=0))
        samples.append(_time_prefilling(engine, chunk, decoding=4))
    return samples


def _time_decoding(engine: Engine, rows: int, held: int) -> list[Sample]:
    """Time rounds of every draft length; rows start with `held` tokens and grow every round."""
    ids, samples = _add_rows(engine, range(rows), held), list[Sample]()
    for draft in DRAFTS:
        for counts in (False, True):  # the first round also lets the drafter catch up
            seconds = _timed_step(engine, [RowWork(id, 0, draft) for id in ids])
            if counts:
                samples.append((StepWork(rows, rows * draft, draft, rows * held), seconds))
    for _ in range(MISSED_ROUNDS):
        _timed_step(engine, [RowWork(id, 0, 0) for id in ids])
    seconds = _timed_step(engine, [RowWork(id, 0, 1) for id in ids])
    samples.append(
        (StepWork(rows, rows, 1, rows * held, missed_tokens=rows * MISSED_ROUNDS), seconds)
    )
    engine.reset()
    return samples


def _time_prefilling(engine: Engine, chunk: int, decoding: int) -> Sample:
    """Time the prefill of `chunk` tokens with `decoding` other rows, which decode undrafted."""
    held = HELD[0]
    ids = _add_rows(engine, range(decoding), held)
    new, grow = _new_row(decoding, chunk)
    runs = [*(RowWork(id, 0, 0) for id in ids), RowWork(decoding, chunk, 0)]
    seconds = _timed_step(engine, runs, (new,), (grow,))
    engine.reset()
    return StepWork(decoding, 0, 0, decoding * held, chunk, 1), seconds


def _add_rows(engine: Engine, ids: Sequence[int], held: int) -> Sequence[int]:
    """Add rows of `held` prompt tokens that have emitted one token each."""
    for id in ids:
        new, grow = _new_row(id, held)
        engine.execute(Step(0, (), (new,), (grow,), (RowWork(id, held, 0),)))
    return ids


def _new_row(id: int, tokens: int) -> tuple[NewRow, AppendPages]:
    room = max(CHUNKS) + max(HELD)
    pages = -(-room // PAGE_SIZE)
    known = tuple(1 + (7 * id + place) % 97 for place in range(tokens))
    new = NewRow(id, known, tokens, room - tokens, True, Sampling())
    return new, AppendPages(id, tuple(range(1 + id * pages, 1 + (id + 1) * pages)))


def _timed_step(
    engine: Engine,
    runs: Sequence[RowWork],
    new: tuple[NewRow, ...] = (),
    grow: tuple[AppendPages, ...] = (),
) -> float:
    return engine.execute(Step(0, (), new, grow, tuple(runs))).seconds
