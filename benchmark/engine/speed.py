"""Compare the engine's speed with transformers' generation methods: same models, same prompts.

Rule: decides what is timed against what; must not know how a contender works. All contenders run
in this process, greedily, in float32, on one thread. They take turns in each of several rounds, so
that other load on the machine affects them equally. A metric is the median over rounds of a ratio
of tokens per second. The metrics: engine over assisted generation for prompts one by one (b1),
engine over continuous batching for eight at once (b8), drafting over plain decoding for both, and
the fraction of a Step's time that is spent outside the models. Outputs are compared token by token
with `generate`. Before, and on all cores, `small_steps` times Steps of a few tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from benchmark.engine import baselines, pairs, small_steps
from benchmark.engine.baselines import Answers, Prompts
from benchmark.engine.driver import drive, start
from benchmark.engine.pairs import ModelPair
from shard.engine import Engine
from shard.model.fused_llama import FusedLlama

ROWS = 8
"""Rows of the metrics called b8."""
MAX_PROMPT_TOKENS = 200

Contender = Callable[[Prompts], Answers]


@dataclass(frozen=True)
class RunSize:
    """How many rounds to run, and tokens per answer."""

    rounds: int
    max_new: int


@dataclass
class Timings:
    """Results of the rounds, by contender."""

    speeds: dict[str, list[float]] = field(default_factory=dict)
    """Tokens per second, one per round."""
    equal: dict[str, float] = field(default_factory=dict)
    """Fraction of prompts answered with the same tokens as `generate`."""

    def ratio(self, contender: str, *baselines: str) -> float:
        """The median over rounds of `contender`'s speed over that of the fastest baseline."""
        best = map(max, zip(*(self.speeds[name] for name in baselines), strict=True))
        median: float = statistics.median(
            a / b for a, b in zip(self.speeds[contender], best, strict=True)
        )
        return median


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `engine`."""
    parser.add_argument("--json", type=Path, required=True, help="file for the metrics")
    parser.add_argument("--quick", action="store_true", help="one short round")


def run(args: argparse.Namespace) -> int:
    """Measure both pairs, print and write the metrics. Return the exit status."""
    size = RunSize(1, 24) if args.quick else RunSize(7, 96)
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
    report: dict[str, Any] = {"load": [os.getloadavg()[0]], "figures": {}}
    with tempfile.TemporaryDirectory() as folder:
        report["figures"] |= small_steps.measure(Path(folder), 1 if args.quick else size.rounds)
        os.environ["OMP_NUM_THREADS"] = "1"  # engines take it as the number of cores
        torch.set_num_threads(1)
        for pair in (pairs.demo_pair(ROWS, MAX_PROMPT_TOKENS), pairs.wide_pair(Path(folder), ROWS)):
            prefix = "engine" if pair.name == "demo" else f"engine.{pair.name}"
            timings, overhead = _compare(pair, size)
            report["figures"] |= _metrics(prefix, timings, overhead)
            report[pair.name] = _table(timings)
    report["load"].append(os.getloadavg()[0])
    args.json.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))
    return 0


def _compare(pair: ModelPair, size: RunSize) -> tuple[Timings, float]:
    """Run all rounds of one pair. Return the timings and the engine's overhead."""
    tokens = MAX_PROMPT_TOKENS + size.max_new
    engine = start(pair.target, pair.draft, pair.draft_length, tokens, ROWS)
    torch.set_num_threads(1)  # the engine has set another number
    with baselines.continuous(pair.target, tokens, ROWS) as continuous:
        contenders = {
            **_engine_contenders(engine, pair.draft_length, size),
            **_baseline_contenders(pair, size),
        }
        contenders["continuous batching b8"] = lambda prompts: continuous(prompts, size.max_new)
        timings = _time_rounds(contenders, pair.prompts, size)
    return timings, _overhead(contenders["engine b1 drafting"], pair.prompts, engine)


def _engine_contenders(engine: Engine, drafts: int, size: RunSize) -> dict[str, Contender]:
    def batches_of(rows: int, draft: int) -> Contender:
        def contender(prompts: Prompts) -> Answers:
            groups = (prompts[at : at + rows] for at in range(0, len(prompts), rows))
            return [row for g in groups for row in drive(engine, g, size.max_new, draft).tokens]

        return contender

    kinds = {"plain": 0, "drafting": drafts}
    return {
        f"engine b{rows} {kind}": batches_of(rows, draft)
        for rows in (1, ROWS)
        for kind, draft in kinds.items()
    }


def _baseline_contenders(pair: ModelPair, size: RunSize) -> dict[str, Contender]:
    target, draft = baselines.load(pair.target), baselines.load(pair.draft)
    return {
        "generate b1": lambda p: baselines.generate(target, p, size.max_new),
        "assisted b1": lambda p: baselines.assisted(target, draft, p, size.max_new, 0),
        "assisted b1 constant": lambda p: baselines.assisted(
            target, draft, p, size.max_new, pair.draft_length
        ),
        "generate b8": lambda p: baselines.static_batch(target, p, size.max_new),
    }


def _time_rounds(contenders: Mapping[str, Contender], prompts: Prompts, size: RunSize) -> Timings:
    """Run every contender once to warm up and compare its answers, then time the rounds."""
    answers = {name: contender(prompts) for name, contender in contenders.items()}
    expected = answers["generate b1"]
    timings = Timings({name: [] for name in contenders})
    for name, rows in answers.items():
        same = sum(a == b for a, b in zip(rows, expected, strict=True))
        timings.equal[name] = same / len(expected)
    for _ in range(size.rounds):
        for name, contender in contenders.items():
            start_time = time.perf_counter()
            count = sum(map(len, contender(prompts)))
            timings.speeds[name].append(count / (time.perf_counter() - start_time))
    return timings


def _overhead(drafting: Contender, prompts: Prompts, engine: Engine) -> float:
    """The fraction of the Steps' time that is spent outside both models' forward passes."""
    with _stopwatch(FusedLlama, "__call__") as model, _stopwatch(Engine, "execute") as steps:
        drafting(prompts)
    if not sum(model):
        raise RuntimeError(f"no model of {engine} is fused; there is nothing to compare")
    return 1 - sum(model) / sum(steps)


@contextmanager
def _stopwatch(owner: type, name: str) -> Iterator[list[float]]:
    """Collect the seconds of every call of a method while the context is open."""
    method = getattr(owner, name)
    seconds: list[float] = []

    def timed(*arguments: Any) -> Any:
        start_time = time.perf_counter()
        result = method(*arguments)
        seconds.append(time.perf_counter() - start_time)
        return result

    setattr(owner, name, timed)
    try:
        yield seconds
    finally:
        setattr(owner, name, method)


def _metrics(prefix: str, timings: Timings, overhead: float) -> dict[str, float]:
    ratios = {
        "b1_over_assisted": timings.ratio(
            "engine b1 drafting", "assisted b1", "assisted b1 constant"
        ),
        "b8_over_continuous_batching": timings.ratio(
            "engine b8 drafting", "continuous batching b8"
        ),
        "spec_over_plain_b1": timings.ratio("engine b1 drafting", "engine b1 plain"),
        "spec_over_plain_b8": timings.ratio("engine b8 drafting", "engine b8 plain"),
        "overhead": overhead,
    }
    return {f"{prefix}.{name}": round(value, 4) for name, value in ratios.items()}


def _table(timings: Timings) -> dict[str, dict[str, float | Sequence[float]]]:
    return {
        name: {
            "tokens_per_second": round(statistics.median(speeds), 1),
            "rounds": [round(speed, 1) for speed in speeds],
            "equal": timings.equal[name],
        }
        for name, speeds in timings.speeds.items()
    }
