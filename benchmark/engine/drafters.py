"""Compare the drafters: tokens per second over plain decoding, on five kinds of work.

Rule: decides who competes and what is timed. All contenders share one set of weights, scheduler and
engine as shipped, and differ in the drafter alone. A run serves a batch of greedy requests that
start together; its rate is that of the tokens after the first of each row. Contenders take turns;
a figure is the ratio of the fastest runs over all rounds, since other load only makes runs slower.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from tokenizers import Tokenizer

from benchmark.demo.engine import DEMO
from benchmark.engine.driver import cpu_config
from benchmark.engine.in_process import InProcessLoop, InProcessRequest, device_capacity
from benchmark.engine.kinds_of_work import KINDS, grammar
from benchmark.engine.small_steps import REAL_MODEL
from benchmark.figures import publish
from router.scheduler.api import DeviceCapacity
from router.scheduler.planner import Planner
from router.scheduler.policies.baselines import Fcfs
from shard.engine import Engine, warm_up
from shard.engine_parts import EngineParts, make_parts
from shard.rounds.ngram import NgramDrafter
from shard.rounds.suffix import SuffixDrafter
from shard.wire.protocol import MAX_FORCED_TOKENS

_ROW_TOKENS = 640
_CHAT = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
Figures = dict[str, float]


@dataclass(frozen=True)
class Contender:
    """A drafter as one server would run it."""

    name: str
    engine: Engine
    capacity: DeviceCapacity
    forced: int = 0
    """Tokens that a grammar may force in one Step."""


@dataclass(frozen=True)
class Pair:
    """Models, the batches on which they are compared, and how a prompt becomes text."""

    name: str
    target: Path
    draft: Path | None
    batches: tuple[int, ...]
    template: str
    max_new: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `drafters`."""
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--quick", action="store_true", help="one round, no batch of 32")
    parser.add_argument("--rounds", type=int, default=3, help="times that each case is measured")
    parser.add_argument("--pair", choices=("smollm2", "demo"), help="measure these models only")


def run(args: argparse.Namespace) -> int:
    """Measure, print and write the figures. Return the exit status."""
    figures: Figures = {}
    for pair in _pairs(args.quick):
        if args.pair in (None, pair.name):
            figures |= measure(pair, 1 if args.quick else args.rounds)
    publish({**summarise(figures), **figures}, args.json)
    return 0


def _pairs(quick: bool) -> Iterator[Pair]:
    """The demo pair, and SmolLM2 without a draft model where it is in `.models`."""
    batches = (1, 8) if quick else (1, 8, 32)
    yield Pair("demo", DEMO / "target", DEMO / "draft", batches, "{}", 32 if quick else 96)
    if REAL_MODEL.is_dir():
        yield Pair("smollm2", REAL_MODEL, None, batches[:1], _CHAT, 24 if quick else 64)


def measure(pair: Pair, rounds: int) -> Figures:
    """Ratios to plain decoding, by pair, kind, contender and batch."""
    rivals = contenders(pair)
    tokenizer = Tokenizer.from_file(str(pair.target / "tokenizer.json"))
    figures: Figures = {}
    for kind, batch in product(KINDS, pair.batches):
        taking_part = [each for each in rivals if kind == "json" or each.name != "forced"]
        prompts = [
            tuple(tokenizer.encode(pair.template.format(KINDS[kind](number))).ids)
            for number in range(batch)
        ]
        rates: dict[str, list[float]] = {each.name: [] for each in taking_part}
        for _ in range(rounds):
            for each in taking_part:
                rates[each.name].append(tokens_per_second(each, prompts, pair.max_new, kind))
        for name in rates.keys() - {"plain"}:
            case = f"{pair.name}_{kind}_{name}_batch{batch}"
            figures[f"drafter_cases.{case}"] = max(rates[name]) / max(rates["plain"])
    return dict(sorted(figures.items()))


def contenders(pair: Pair) -> list[Contender]:
    """Every drafter of `pair`, by the same weights."""
    rows = max(pair.batches)
    draft = str(pair.draft) if pair.draft else None
    longest = 5 if draft else 16
    config = cpu_config(str(pair.target), draft, longest, _ROW_TOKENS, rows)
    parts = make_parts(replace(config, drafter="auto"), lambda text, percent: None)
    auto = warm_up(parts, lambda text, percent: None)
    ready = auto.ready()
    costs = tuple((cell.rows, cell.draft, cell.seconds) for cell in ready.costs)
    mixed = device_capacity(ready, costs=costs, catch_up_seconds=ready.catch_up_seconds)
    plain = replace(mixed, speculate=0, suffix=0)
    alone = mixed
    if draft:
        alone = replace(plain, speculate=ready.suffix, costs=mixed.suffix_costs, catch_up_seconds=0)
    found = [
        Contender("plain", auto, plain),
        Contender("forced", auto, plain, MAX_FORCED_TOKENS),
        Contender("suffix", _with(parts, auto, SuffixDrafter()), alone),
        Contender("ngram", _with(parts, auto, NgramDrafter()), alone),
        Contender("auto", auto, mixed, MAX_FORCED_TOKENS),
    ]
    return [*found, Contender("model", auto, replace(mixed, suffix=0))] if draft else found


def _with(parts: EngineParts, auto: Engine, drafter: SuffixDrafter | NgramDrafter) -> Engine:
    return Engine(replace(parts, drafter=drafter), auto.ready())


def tokens_per_second(
    contender: Contender, prompts: list[tuple[int, ...]], max_new: int, kind: str
) -> float:
    """The rate of one run, from when every row has its first token."""
    contender.engine.reset()
    text = grammar(kind)
    if text is not None:
        contender.engine.prepare(text)
    capacity = replace(contender.capacity, max_rows=len(prompts))
    loop = InProcessLoop(contender.engine, Planner(capacity, Fcfs()))
    calls = [
        InProcessRequest(id, prompt, max_new, grammar=text, forced=contender.forced if text else 0)
        for id, prompt in enumerate(prompts)
    ]
    for call in calls:
        loop.submit(call)
    while not all(call.first_token for call in calls):
        loop.advance()
    before, started_at = sum(len(call.emitted) for call in calls), time.perf_counter()
    loop.run()
    emitted = sum(len(call.emitted) for call in calls) - before
    return emitted / (time.perf_counter() - started_at)


def summarise(figures: Figures) -> Figures:
    """What the drafters are judged by."""
    cases: dict[str, dict[str, float]] = {}
    for name, ratio in figures.items():
        pair, kind, drafter, batch = name.removeprefix("drafter_cases.").split("_")
        cases.setdefault(f"{pair}_{kind}_{batch}", {"plain": 1.0})[drafter] = ratio
    over_best = [
        case["auto"] / max(ratio for drafter, ratio in case.items() if drafter != "auto")
        for case in cases.values()
    ]
    alone = {name: case for name, case in cases.items() if name.endswith("batch1")}
    return {
        "drafters.auto_over_best": min(over_best),
        "drafters.auto_over_best_median": statistics.median(over_best),
        "drafters.auto_over_plain_worst": min(case["auto"] for case in cases.values()),
        "drafters.forced_over_plain": _worst(alone, "_json_", "forced"),
        "drafters.suffix_over_plain_on_edits": _worst(alone, "_edit_", "suffix"),
    }


def _worst(cases: dict[str, dict[str, float]], kind: str, drafter: str) -> float:
    return min(case[drafter] for name, case in cases.items() if kind in name)
