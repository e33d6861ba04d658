"""The scheduler on a real server: LAPS-SD against FCFS, and the simulator against both.

A rush of requests for the bundled pair: 40 prompts arrive at random, about four times as fast as
one answer after the other comes from a busy server, so that many wait at once. Nearer to what a
server can do, its speed at the moment decides whether anybody waits, and no two runs are alike. The
same prompts come at the same times under `fcfs` and `laps-sd`, in turn, each time to a fresh server
with two rows a Step. The client names each answer's length, wrong by a factor whose logarithm has
standard deviation 0.3, as in the simulator. A first run, all at once under `fcfs`, tells how fast
the server is and what the answers are.

Then each run's requests are served in virtual time, by costs fitted to the Steps that its server
logged. Figures: `live.laps_over_fcfs`, the ratio of mean latencies; `live.simulated_over_live`, the
ratio of simulated to measured mean of the policy where it is farther from 1;
`live.tokens_identical`, 1 if every answer of every run is the target's own greedy choice, token by
token, else 0.

In the file of `--json`, besides `figures`: `policies` with both means of each, and `requests`, one
object per policy and request: `policy`, `arrival` and `live` and `simulated` latency (seconds; live
is the mean over rounds), `prompt`, `length` and `expected` (tokens).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from tokenizers import Tokenizer

from benchmark.demo.engine import DEMO
from benchmark.demo.prompts import Prompt, prompts
from benchmark.server import replay, server
from benchmark.server.replay import StepLogData
from benchmark.server.server import ClientRequest, ClientResponse
from benchmark.simulation import workloads
from benchmark.simulation.simulator import SimulatedRequest

POLICIES = ("fcfs", "laps-sd")
SIGMA = 0.3
ARRIVALS_PER_ANSWER = 4.0
"""Arrivals in the time of one answer of a busy server."""


@dataclass(frozen=True, slots=True)
class LiveRun:
    """One server's life under one policy."""

    policy: str
    answers: list[ClientResponse]
    log: StepLogData

    @property
    def mean(self) -> float:
        """Mean latency in seconds."""
        return fmean(answer.latency for answer in self.answers)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Where to write, and how much to ask."""
    parser.add_argument("--json", type=Path, help="file for figures and requests")
    parser.add_argument("--requests", type=int, default=40, help="requests of a run")
    parser.add_argument("--rows", type=int, default=2, help="--max-batch-size of the server")
    parser.add_argument("--rounds", type=int, default=4, help="runs of each policy, at most")
    parser.add_argument("--seconds", type=float, default=200.0, help="for all rounds together")
    parser.add_argument(
        "--load", type=float, default=ARRIVALS_PER_ANSWER, help="arrivals per answer's time"
    )
    parser.add_argument("--seed", type=int, default=1, help="of prompts, arrivals and hints")


def run(args: argparse.Namespace) -> int:
    """Measure, simulate, print, and write what was asked for; the exit status."""
    torch.set_num_threads(1)
    asked = prompts(None, args.requests, args.seed)
    end = time.monotonic() + args.seconds
    at_once = [ClientRequest(prompt.text, 0.0) for prompt in asked]
    first = _serve("fcfs", args.rows, at_once, "measuring speed")
    requests, greedy = _requests(asked, first.answers, args)
    asks = [
        ClientRequest(prompt.text, request.arrival, round(request.expected or 0) or 1)
        for prompt, request in zip(asked, requests, strict=True)
    ]
    runs = _run_rounds(args, asks, end)
    ids = [answer.ids for answer in first.answers]
    identical = greedy and all([a.ids for a in each.answers] == ids for each in runs)
    found = report(runs, requests, identical)
    for name, value in found["figures"].items():
        print(f"{name:28} {value:8.4f}")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")
    return 0


def _run_rounds(
    args: argparse.Namespace, asks: Sequence[ClientRequest], end: float
) -> list[LiveRun]:
    """At least one, and no further one that would last beyond `end` if it took as long."""
    runs, longest = list[LiveRun](), 0.0
    for number in range(1, max(1, args.rounds) + 1):
        begun = time.monotonic()
        if number > 1 and begun + longest > end:
            break
        runs += [_serve(policy, args.rows, asks, f"round {number}") for policy in POLICIES]
        longest = max(longest, time.monotonic() - begun)
    return runs


def report(
    runs: Sequence[LiveRun], requests: Sequence[SimulatedRequest], identical: bool
) -> dict[str, Any]:
    """What `--json` gets; see the head of this file."""
    rows, means = list[dict[str, Any]](), dict[str, dict[str, float]]()
    for policy in POLICIES:
        own = [each for each in runs if each.policy == policy]
        live = _mean_per_request([[answer.latency for answer in each.answers] for each in own])
        replayed = [replay.replay(policy, each.log, requests) for each in own]
        simulated = _mean_per_request([result.latencies for result in replayed])
        means[policy] = {"live": fmean(live), "simulated": fmean(simulated)}
        for request, *latencies in zip(requests, live, simulated, strict=True):
            rows.append(_row(policy, request, *latencies))
    ratios = [mean["simulated"] / mean["live"] for mean in means.values()]
    figures = {
        "live.laps_over_fcfs": means["laps-sd"]["live"] / means["fcfs"]["live"],
        "live.simulated_over_live": max(ratios, key=lambda ratio: abs(ratio - 1)),
        "live.tokens_identical": int(identical),
    }
    return {"figures": figures, "rounds": len(runs) // 2, "policies": means, "requests": rows}


def _row(policy: str, request: SimulatedRequest, live: float, simulated: float) -> dict[str, Any]:
    return {
        "policy": policy,
        "arrival": request.arrival,
        "prompt": request.trace.prompt_tokens,
        "length": request.trace.length,
        "expected": request.expected,
        "live": live,
        "simulated": simulated,
    }


def _mean_per_request(rounds: Sequence[Sequence[float]]) -> list[float]:
    """Of each request over the rounds."""
    return [fmean(each) for each in zip(*rounds, strict=True)]


def _serve(policy: str, rows: int, asks: Sequence[ClientRequest], what: str) -> LiveRun:
    print(f"{what}: {policy} ...", end=" ", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "steps.jsonl")
        with server.serving(policy, rows, log) as url:
            answers = server.send_all(url, asks)
        served = LiveRun(policy, answers, replay.read(log))
    print(f"mean latency {served.mean:.3f} s", file=sys.stderr)
    return served


def _requests(
    asked: Sequence[Prompt], answers: Sequence[ClientResponse], args: argparse.Namespace
) -> tuple[list[SimulatedRequest], bool]:
    """The trace of arrivals, and whether all `answers` are greedy ones."""
    tokenizer = Tokenizer.from_file(str(DEMO / "target" / "tokenizer.json"))
    ids = [tokenizer.encode(prompt.text).ids for prompt in asked]
    families = [prompt.family for prompt in asked]
    traces, greedy = replay.answer_traces(families, ids, answers)
    rate = args.load * len(answers) / max(answer.latency for answer in answers)
    hints = workloads.predictions(traces, SIGMA, args.seed)
    return workloads.poisson(traces, hints, rate, args.seed), greedy
