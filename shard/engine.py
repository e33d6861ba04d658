"""The engine of one rank: live rows, their models, Steps executed one after the other.

It decides nothing: rows, pages and draft lengths come with the Step. Ranks that execute the same
Steps hold the same table and sample the same tokens. It knows no text, no priority, no client.
`start_engine` makes one: parts first, then measurements, then the engine.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from shard.attention.kv_cache import PAGE_SIZE
from shard.batch.rows import RowTable, digest
from shard.config import ShardConfig
from shard.engine_parts import EngineParts, Progress, make_parts
from shard.errors import StartupError
from shard.rounds.host_round import RowTask
from shard.rounds.oom_retry import is_out_of_memory, run_splitting_on_oom
from shard.rounds.round_result import AsyncResultCopy
from shard.step_handle import StartedStep
from shard.warmup.acceptance import MeasuredAcceptance, measure_acceptance
from shard.warmup.preemption_costs import measure_preemption_costs
from shard.warmup.sample_prompts import NoSamplePrompts, sample_prompts
from shard.warmup.step_costs import WarmupLimits, ZeroDrafter, measure_step_costs
from shard.warmup.threads import StepThreads, ThreadRule, measure_threads
from shard.wire.protocol import GRAMMAR, MeasuredStep, Ready, RowResult, Step, StepResult

_log = logging.getLogger(__name__)


def start_engine(config: ShardConfig, progress: Progress) -> Engine:
    """Load the models of `config`, measure what Steps cost, and return an engine that serves.

    Raises StartupError, one line, for anything that prevents serving.
    """
    return warm_up(make_parts(config, progress), progress)


def warm_up(parts: EngineParts, progress: Progress) -> Engine:
    """Measure what Steps cost with `parts`, and return an engine that serves. Raises OSError."""
    progress("warming up", 80)
    threads = choose_threads(parts)
    ready = _measure_costs(parts, threads)
    _log_expected_acceptance(parts, ready)
    parts.keep_measurements()
    return Engine(parts, ready, threads)


class Engine:
    """Executes Steps with `parts`; `ready` is what it announces of them."""

    def __init__(self, parts: EngineParts, ready: Ready, threads: ThreadRule | None = None) -> None:
        """`threads`: None to leave torch's number of threads as it is."""
        self._ready = ready
        self._threads = StepThreads(threads) if threads else None
        self._world = parts.config.world
        self._target, self._drafter = parts.target, parts.drafter
        self._matchers, self._host_pool = parts.matchers, parts.host_pool
        self._device_rounds, self._attempt = parts.device_rounds, parts.attempt
        self._adapters = parts.adapters
        self._rows = RowTable(
            parts.matchers.matcher, None if self._adapters is None else self._adapters.get
        )
        self._last_started: StartedStep | None = None
        self._last_completed_at = 0.0

    def ready(self) -> Ready:
        """What this rank serves, what it can hold, and what its work costs."""
        return self._ready

    @property
    def max_length(self) -> int:
        """Maximum number of tokens of a row."""
        return self._ready.max_length

    def prepare(self, grammar: str) -> None:
        """Compile `grammar` for future rows; may be called by another thread while Steps run."""
        self._matchers.prepare(grammar)

    def load_adapter(self, number: int, path: str) -> int:
        """Load an adapter for future rows; return its bytes. May be called while Steps run.

        Raises StartupError.
        """
        if self._adapters is None:
            raise StartupError(2, "this server was started without adapters")
        return self._adapters.load(number, Path(path)).nbytes

    def unload_adapter(self, number: int) -> None:
        """Forget an adapter that no further row will have."""
        if self._adapters is not None:
            self._adapters.remove(number)

    def execute(self, step: Step) -> StepResult:
        """`start`, then wait for the result."""
        return self.start(step).result()

    def start(self, step: Step) -> StartedStep:
        """Apply `step` and start its rows, whether or not earlier Steps have finished.

        Raises ProtocolError for a Step that does not fit the rows.
        """
        started_at = time.perf_counter()
        self._apply(step)
        tokens = sum(max(run.prefill, 1 + run.draft) for run in step.run)
        if self._threads is not None and tokens:
            self._threads.apply(tokens, started_at)
        tasks = [
            RowTask(self._rows.get(run.id), run.prefill, run.draft, run.forced, run.suffix)
            for run in step.run
        ]
        copy = self._launch_on_device(tasks)
        results = () if copy else self._run_on_host(tasks)
        if self._threads is not None and tokens:
            now = time.perf_counter()
            tokens += sum(item.drafted for item in results if item.drafter == GRAMMAR)
            self._threads.record(tokens, now - started_at, now)

        def finish() -> StepResult:
            row_results = copy.finish() if copy else results
            seconds = self._seconds_since(started_at)
            return StepResult(step.number, seconds, row_results, digest(t.row for t in tasks))

        is_ready = copy.is_complete if copy else lambda: True
        self._last_started = StartedStep(finish, is_ready, self._last_started)
        return self._last_started

    def reset(self) -> None:
        """Forget every row; weights and pools stay."""
        self._last_started = None
        self._rows.clear()
        self._host_pool.clear()
        if self._device_rounds is not None:
            self._device_rounds.clear()
        if self._drafter is not None:
            self._drafter.clear()

    def _apply(self, step: Step) -> None:
        self._rows.apply(step)
        if self._device_rounds is not None:
            self._device_rounds.remove(step.release)
        if self._drafter is not None:
            self._drafter.remove(step.release)
        self._host_pool.apply(step)

    def _launch_on_device(self, tasks: Sequence[RowTask]) -> AsyncResultCopy | None:
        """Start a device round; None where the host must do `tasks`."""
        rounds = self._device_rounds
        if rounds is None or not tasks or rounds.why_not_on_device(tasks) is not None:
            return None
        try:
            return rounds.launch(tasks, self._complete_all)
        except RuntimeError as fault:
            if self._world > 1 or not is_out_of_memory(fault):
                raise
        return None

    def _run_on_host(self, tasks: Sequence[RowTask]) -> tuple[RowResult, ...]:
        """Do `tasks`; the host's rows must be up to date, so earlier Steps finish before."""
        if not tasks:
            return ()
        self._complete_all()
        live = [task for task in tasks if not task.row.done]
        results = run_splitting_on_oom(self._attempt, self._target, self._drafter, live)
        if self._device_rounds is not None:
            self._device_rounds.mark_stale(tasks)
        return results

    def _complete_all(self) -> None:
        if self._last_started is not None:
            self._last_started.result()

    def _seconds_since(self, started_at: float) -> float:
        """Time that a Step, which completes now, has kept the device busy."""
        now = time.perf_counter()
        seconds = now - max(started_at, self._last_completed_at)
        self._last_completed_at = now
        return seconds


def choose_threads(parts: EngineParts) -> ThreadRule | None:
    """By how many threads Steps are computed; None if their number is fixed.

    Ranks must compute the same bits, so it is fixed if there are several.
    """
    fixed = torch.get_num_threads() == 1 or parts.config.world > 1
    if fixed or parts.target.facts.device.type != "cpu":
        return None
    trial = Engine(parts, ready_without_costs(parts))
    rows, times = min(parts.config.max_rows, parts.pages), parts.times
    rule = times.recall(lambda: asdict(measure_threads(trial, rows, times.max_over_ranks)))
    return ThreadRule(**rule)


def _measure_costs(parts: EngineParts, threads: ThreadRule | None) -> Ready:
    """What a rank with `parts` announces: its limits, and what Steps cost."""
    ready = ready_without_costs(parts)
    measured = parts.times.recall(lambda: _run_trials(parts, ready, threads))
    tables = {
        name: tuple(MeasuredStep(*cell) for cell in measured[name])
        for name in ("costs", "suffix_costs")
    }
    return replace(ready, **{**measured, **tables})


def _run_trials(parts: EngineParts, ready: Ready, threads: ThreadRule | None) -> dict[str, Any]:
    """The costs as fields of `Ready`, measured on trial engines; equal on all ranks."""
    drafter, across_ranks = parts.drafter, parts.times.max_over_ranks
    limits = WarmupLimits(parts.config.max_rows, parts.max_length, parts.pages)
    free = Engine(replace(parts, drafter=ZeroDrafter()), ready, threads)
    trial = free if drafter and drafter.may_abstain else Engine(parts, ready, threads)
    keeps_cache = drafter is not None and drafter.keeps_cache
    steps = measure_step_costs(trial, limits, ready.speculate, keeps_cache, across_ranks)
    suffix_costs = (
        measure_step_costs(free, limits, ready.suffix, False, across_ranks).table
        if ready.suffix
        else ()
    )
    preemption = measure_preemption_costs(
        Engine(parts, ready, threads), parts.max_length, parts.host_pages
    )
    return {
        "draft_token_seconds": steps.draft_token_seconds,
        "verify_seconds": steps.verify_seconds,
        "costs": _cells(steps.table),
        "suffix_costs": _cells(suffix_costs),
        "catch_up_seconds": steps.catch_up_seconds,
        "swap_token_seconds": across_ranks(preemption.swap_token_seconds),
        "prefill_token_seconds": across_ranks(preemption.prefill_token_seconds),
    }


def _cells(table: Sequence[MeasuredStep]) -> list[list[float]]:
    return [[cell.rows, cell.draft, cell.seconds] for cell in table]


def _log_expected_acceptance(parts: EngineParts, ready: Ready) -> None:
    """Measure how many drafts are accepted, unless the drafter needs a text to find any."""
    drafter = parts.drafter
    if drafter is None or drafter.may_abstain:
        return
    text = parts.times.recall(lambda: _expected_acceptance(parts, ready))
    if parts.config.rank == 0:
        _log.info("drafter `%s`: %s", drafter.name, text)


def _expected_acceptance(parts: EngineParts, ready: Ready) -> str:
    try:
        return str(_measure_acceptance(parts, ready))
    except NoSamplePrompts as reason:
        return f"the expected acceptance cannot be measured: {reason}"


def _measure_acceptance(parts: EngineParts, ready: Ready) -> MeasuredAcceptance:
    """Raises NoSamplePrompts."""
    prompts = sample_prompts(Path(parts.config.model_path), parts.target.facts.vocab_size)
    trial = Engine(parts, ready)
    limits = WarmupLimits(parts.config.max_rows, parts.max_length, parts.pages)
    seconds = max(cell.seconds for cell in ready.costs if cell.rows <= len(prompts))
    measured = measure_acceptance(trial, limits, ready.speculate, prompts, seconds)
    trial.reset()
    return measured


def ready_without_costs(parts: EngineParts) -> Ready:
    """What a rank with `parts` announces before its costs are measured."""
    config, facts = parts.config, parts.target.facts
    return Ready(
        rank=config.rank,
        model=config.model_id,
        device=facts.device.type,
        dtype=str(facts.dtype).removeprefix("torch."),
        page_size=PAGE_SIZE,
        pages=parts.pages,
        max_rows=config.max_rows,
        max_length=parts.max_length,
        vocab_size=facts.vocab_size,
        speculate=config.speculate if parts.drafter else 0,
        draft_token_seconds=0.0,
        verify_seconds=0.0,
        drafter=parts.drafter.name if parts.drafter else "",
        host_pages=parts.host_pages,
        suffix=parts.drafter.suffix_length if parts.drafter else 0,
    )
