"""Replay a live run in virtual time: what its Steps cost, and what its answers were.

Rule: decides how a router's step log becomes Steps and costs of the simulator, and its answers
become traces. The relative costs are fitted to the device seconds, with each Step replaced by the
mean of its kind: a fit of relative errors to single Steps would favour the fast ones. Then they are
scaled to the total time during which the server had Steps in flight, so that the time between Steps
counts, which a busy server spends too. Single completion times are not usable, since two Steps
often complete at once.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from transformers.utils import logging

from benchmark.demo.engine import DEMO
from benchmark.demo.models import load_model
from benchmark.server.server import MAX_NEW, ClientResponse
from benchmark.simulation import step_costs
from benchmark.simulation.device import NORMAL_LAG
from benchmark.simulation.simulator import SimulatedRequest, SimulatedRun, simulate
from benchmark.simulation.step_costs import StepCosts, StepWork
from benchmark.simulation.traces import Trace
from router.scheduler import build
from router.scheduler.api import DeviceCapacity
from router.scheduler.config import SchedulerConfig


@dataclass(frozen=True, slots=True)
class StepLogData:
    """The content of one router's step log."""

    capacity: DeviceCapacity
    """The capacity its scheduler had."""
    samples: tuple[tuple[StepWork, float], ...]
    """Every Step with its device seconds."""
    busy: float
    """Seconds during which Steps were in flight."""


def read(log: Path) -> StepLogData:
    """Read the step log in `log`."""
    head, *steps = map(json.loads, log.read_text().splitlines())
    tables = {name: tuple(map(tuple, head["capacity"][name])) for name in ("costs", "suffix_costs")}
    capacity = {**head["capacity"], **tables}
    lags: dict[int, int] = defaultdict(int)
    landed = [0.0, *(step["landed"] for step in steps)]
    return StepLogData(
        capacity=DeviceCapacity(**capacity),
        samples=tuple((_step_work(step["rows"], lags), step["seconds"]) for step in steps),
        busy=sum(
            step["landed"] - max(before, step["sent"])
            for before, step in zip(landed, steps, strict=False)
        ),
    )


def _step_work(rows: Sequence[Sequence[int]], lags: dict[int, int]) -> StepWork:
    """`lags`: tokens emitted by each row since it last drafted; they go on to the next Step."""
    decoding = [row for row in rows if not row[2]]
    work = StepWork(
        rows=len(decoding),
        drafts=sum(drafted for _, _, _, drafted, _, _ in decoding),
        longest_draft=max((drafted for _, _, _, drafted, _, _ in decoding), default=0),
        context=sum(known for _, known, *_ in decoding),
        prefill=sum(prefilled for _, _, prefilled, *_ in rows),
        prefilling=len(rows) - len(decoding),
        missed_tokens=sum(lags[row[0]] for row in decoding if row[3] and lags[row[0]] > NORMAL_LAG),
    )
    for id, _, _, drafted, _, emitted in rows:
        lags[id] = 0 if drafted else lags[id] + emitted
    return work


def fit(log: StepLogData) -> StepCosts:
    """Costs by which the Steps of `log` take as long as they took in all."""
    kinds: dict[tuple[int, ...], list[float]] = defaultdict(list)
    for work, seconds in log.samples:
        kinds[_step_kind(work)].append(seconds)
    means = {kind: fmean(seconds) for kind, seconds in kinds.items()}
    costs = step_costs.fit([(work, means[_step_kind(work)]) for work, _ in log.samples])
    scale = log.busy / sum(costs.seconds(work) for work, _ in log.samples)
    return StepCosts(**{name: scale * value for name, value in asdict(costs).items()})


def _step_kind(work: StepWork) -> tuple[int, ...]:
    """Steps of one kind cost alike; lengths of prompts by their powers of two."""
    return work.rows, work.drafts, work.longest_draft, work.prefilling, work.prefill.bit_length()


def answer_traces(
    families: Sequence[str], prompts: Sequence[Sequence[int]], answers: Sequence[ClientResponse]
) -> tuple[list[Trace], bool]:
    """What the simulator needs of each answer, and whether all are the target's greedy choice."""
    logging.disable_progress_bar()
    target, draft = (load_model(DEMO / part) for part in ("target", "draft"))
    found, greedy = list[Trace](), True
    for family, prompt, answer in zip(families, prompts, answers, strict=True):
        greedy &= all(_agrees(target, prompt, answer.ids))
        bits = bytes(_agrees(draft, prompt, answer.ids))
        found.append(Trace(family, len(prompt), MAX_NEW, bits))
    return found, greedy


def replay(policy: str, log: StepLogData, requests: Sequence[SimulatedRequest]) -> SimulatedRun:
    """The same requests under the same policy in virtual time, by the costs of `log`."""
    scheduler = build(SchedulerConfig(scheduler=policy), log.capacity)
    return simulate(scheduler, requests, fit(log), log.capacity.depth)


@torch.inference_mode()
def _agrees(model: Any, prompt: Sequence[int], answer: Sequence[int]) -> list[int]:
    """For each token of `answer`: 1 if the model would have chosen it there, else 0."""
    known = torch.tensor([[*prompt, *answer]])
    choices = model(known).logits[0, len(prompt) - 1 : -1].argmax(-1)
    agrees: list[int] = choices.eq(torch.tensor(answer)).int().tolist()
    return agrees
