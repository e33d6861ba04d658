"""The scheduler on a real server: LAPS-SD against FCFS, and the simulator against both.

Overload for the bundled pair: 40 prompts arrive at random (Poisson), about four times as fast as a
busy server answers one after the other, so that many wait at once. Closer to the server's capacity,
its speed at the moment would decide whether requests queue at all, and runs would differ. `fcfs`
and `laps-sd` take turns; each gets the same prompts at the same times and a fresh server with two
rows per Step. The client gives each answer's length, wrong by a factor whose logarithm has standard
deviation 0.3, as in the simulator. A first run under `fcfs`, with all requests at once, measures
the server's speed and the answers.

Then each run's requests are served in virtual time, with costs fitted to the Steps that its server
logged. Metrics: `live.laps_over_fcfs`, the ratio of mean latencies; `live.simulated_over_live`, the
ratio of simulated to measured mean latency of the policy where it is farther from 1;
`live.tokens_identical`, 1 if every answer of every run is the target's greedy output, token by
token, else 0.

The file of `--json` also has `policies` with both means of each, and `requests`, one object per
policy and request: `policy`, `arrival`, and `live` and `simulated` latency (seconds; live is the
mean over rounds), `prompt`, `length` and `expected` (tokens).
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
"""Arrivals per answer of a busy server."""


@dataclass(frozen=True, slots=True)
class LiveRun:
    """One run of a server under one policy."""

    policy: str
    answers: list[ClientResponse]
    log: StepLogData

    @property
    def mean(self) -> float:
        """Mean latency in seconds."""
        return fmean(answer.latency for answer in self.answers)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `live`."""
    parser.add_argument("--json", type=Path, help="file for metrics and requests")
    parser.add_argument("--requests", type=int, default=40, help="requests per run")
    parser.add_argument("--rows", type=int, default=2, help="--max-batch-size of the server")
    parser.add_argument(
        "--rounds", type=int, default=4, help="maximum number of runs of each policy"
    )
    parser.add_argument(
        "--seconds", type=float, default=200.0, help="time limit of all rounds together"
    )
    parser.add_argument(
        "--load",
        type=float,
        default=ARRIVALS_PER_ANSWER,
        help="arrivals per answer of a busy server",
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of prompts, arrivals and hints")


def run(args: argparse.Namespace) -> int:
    """Measure, simulate, print and write the results. Return the exit status."""
    torch.set_num_threads(1)
    sampled = prompts(None, args.requests, args.seed)
    end = time.monotonic() + args.seconds
    at_once = [ClientRequest(prompt.text, 0.0) for prompt in sampled]
    first = _serve("fcfs", args.rows, at_once, "measuring speed")
    requests, greedy = _requests(sampled, first.answers, args)
    client_requests = [
        ClientRequest(prompt.text, request.arrival, round(request.expected or 0) or 1)
        for prompt, request in zip(sampled, requests, strict=True)
    ]
    runs = _run_rounds(args, client_requests, end)
    ids = [answer.ids for answer in first.answers]
    identical = greedy and all([a.ids for a in each.answers] == ids for each in runs)
    results = report(runs, requests, identical)
    for name, value in results["figures"].items():
        print(f"{name:28} {value:8.4f}")
    if args.json:
        args.json.write_text(json.dumps(results, indent=1) + "\n")
    return 0


def _run_rounds(
    args: argparse.Namespace, client_requests: Sequence[ClientRequest], end: float
) -> list[LiveRun]:
    """Run at least one round, and no other that would end after `end` if it took as long."""
    runs, longest = list[LiveRun](), 0.0
    for number in range(1, max(1, args.rounds) + 1):
        started = time.monotonic()
        if number > 1 and started + longest > end:
            break
        runs += [
            _serve(policy, args.rows, client_requests, f"round {number}") for policy in POLICIES
        ]
        longest = max(longest, time.monotonic() - started)
    return runs


def report(
    runs: Sequence[LiveRun], requests: Sequence[SimulatedRequest], identical: bool
) -> dict[str, Any]:
    """The content of the `--json` file; see the head of this file."""
    rows, means = list[dict[str, Any]](), dict[str, dict[str, float]]()
    for policy in POLICIES:
        policy_runs = [run for run in runs if run.policy == policy]
        live = _mean_per_request(
            [[answer.latency for answer in run.answers] for run in policy_runs]
        )
        replayed = [replay.replay(policy, run.log, requests) for run in policy_runs]
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
    """The mean of each request over the rounds."""
    return [fmean(each) for each in zip(*rounds, strict=True)]


def _serve(policy: str, rows: int, client_requests: Sequence[ClientRequest], what: str) -> LiveRun:
    print(f"{what}: {policy} ...", end=" ", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder, "steps.jsonl")
        flags = ("--scheduler", policy, "--max-batch-size", str(rows), "--step-log", str(log))
        with server.serving(*flags) as url:
            answers = server.send_all(url, client_requests)
        served = LiveRun(policy, answers, replay.read(log))
    print(f"mean latency {served.mean:.3f} s", file=sys.stderr)
    return served


def _requests(
    sampled: Sequence[Prompt], answers: Sequence[ClientResponse], args: argparse.Namespace
) -> tuple[list[SimulatedRequest], bool]:
    """The trace of arrivals, and whether all `answers` are greedy outputs."""
    tokenizer = Tokenizer.from_file(str(DEMO / "target" / "tokenizer.json"))
    ids = [tokenizer.encode(prompt.text).ids for prompt in sampled]
    families = [prompt.family for prompt in sampled]
    traces, greedy = replay.answer_traces(families, ids, answers)
    rate = args.load * len(answers) / max(answer.latency for answer in answers)
    hints = workloads.predictions(traces, SIGMA, args.seed)
    return workloads.poisson(traces, hints, rate, args.seed), greedy
