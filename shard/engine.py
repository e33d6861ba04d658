"""The engine of one rank: live rows, two models, Steps executed one after the other.

It decides nothing: rows, pages and draft lengths come with the Step. Ranks that execute the same
Steps hold the same table and sample the same tokens. It knows no text, no priority, no client.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import torch

from shard.attention.kv_cache import PAGE_SIZE
from shard.attention.swap_pool import HostPool
from shard.batch.rows import RowTable, digest
from shard.config import ShardConfig
from shard.errors import StartupError
from shard.loading import checkpoint
from shard.loading.collectives import all_agree, join_process_group, max_over_ranks
from shard.loading.load import load
from shard.loading.partition import TensorParallelRank
from shard.loading.weights import ProgressCallback
from shard.model import memory
from shard.model.packed_model import LoadedModel, PackedModel
from shard.rounds.choose import DeviceRounds
from shard.rounds.drafters import Drafter, ModelDrafter
from shard.rounds.host_round import RowTask
from shard.rounds.ngram import NgramDrafter
from shard.rounds.oom_retry import (
    RoundAttempt,
    RunWithAgreement,
    is_out_of_memory,
    run_alone,
    run_splitting_on_oom,
)
from shard.rounds.vocabulary_map import VocabularyMap
from shard.sampling.grammar import GrammarMatchers
from shard.step_handle import CompletedRound, PendingRound, RunningStep, StepHandle
from shard.warmup import preemption_costs, step_costs
from shard.wire.protocol import Ready, Step, StepResult

Progress = Callable[[str, int], None]
"""Called with a text and a percentage while a rank starts."""


class Engine:
    """Loads the models of `config` and executes Steps on them.

    Raises Fault, one line, for anything that prevents serving.
    """

    def __init__(self, config: ShardConfig, progress: Progress) -> None:
        self._config = config
        device = _device(config)
        ranks = TensorParallelRank(config.rank, config.world)
        progress("joining the shards", 0)
        join_process_group(ranks, config.rendezvous, device)
        told = _progress_reporter(progress, "target", 10, 60)
        with memory.oom_as_startup_error("load the target; raise `--num-shard`"):
            target = load(config.model_path, config.dtype, device, ranks, told)
        draft = None
        if config.draft_path is not None and config.speculate:
            told = _progress_reporter(progress, "draft", 60, 80)
            with memory.oom_as_startup_error(
                "load the draft model beside the target; raise `--num-shard`"
            ):
                draft = load(
                    config.draft_path, config.dtype, device, TensorParallelRank(0, 1), told
                )
        self._attempt: RoundAttempt = run_alone
        if ranks.world > 1:
            agree = partial(all_agree, device=device)
            self._attempt = RunWithAgreement(
                memory.ForwardWorkspace.from_model(target), device, agree
            )
        self._pages = memory.pool_pages(config, target, draft)
        room = self._pages, config.max_rows, config.speculate + 1
        self._target = PackedModel(target, *room)
        self._grammar_matchers = GrammarMatchers(config.model_path, target.vocab_size, target.eos)
        self._rows = RowTable(self._grammar_matchers.matcher)
        drafter = _make_drafter(config, target, draft, room)
        page_bytes = target.page_bytes + (draft.page_bytes if draft else 0)
        self._host_pages = preemption_costs.host_pool_pages(config, self._pages, page_bytes, device)
        caches = self._target.cache, *(drafter.caches if drafter else ())
        self._host_pool = HostPool(caches, self._host_pages)
        progress("warming up", 80)
        self._running_steps: deque[RunningStep] = deque()
        self._last_completed_at = 0.0
        self._device_rounds: DeviceRounds | None = None
        if device.type == "cuda" if config.resident is None else config.resident:
            bounds = config.max_rows, self.max_length, config.speculate
            self._device_rounds = DeviceRounds(self._target, drafter, *bounds)
        self._drafter: Drafter | None = None
        self._choose_threads()
        self._step_costs = self._warm_up(
            drafter, partial(max_over_ranks, ranks=ranks, device=device)
        )
        self._drafter = drafter
        self._preemption_costs = preemption_costs.measure_preemption_costs(
            self, self.max_length, self._host_pages
        )
        progress("ready", 100)

    def ready(self) -> Ready:
        """What this rank serves and can hold."""
        facts = self._target.facts
        return Ready(
            rank=self._config.rank,
            model=self._config.model_id,
            device=facts.device.type,
            dtype=str(facts.dtype).removeprefix("torch."),
            page_size=PAGE_SIZE,
            pages=self._pages,
            max_rows=self._config.max_rows,
            max_length=self.max_length,
            vocab_size=facts.vocab_size,
            speculate=self._config.speculate if self._drafter else 0,
            draft_token_seconds=self._step_costs.draft_token_seconds,
            verify_seconds=self._step_costs.verify_seconds,
            drafter=self._drafter.name if self._drafter else "",
            costs=self._step_costs.table,
            catch_up_seconds=self._step_costs.catch_up_seconds,
            host_pages=self._host_pages,
            swap_token_seconds=self._preemption_costs.swap_token_seconds,
            prefill_token_seconds=self._preemption_costs.prefill_token_seconds,
        )

    @property
    def max_length(self) -> int:
        """Most tokens of one row: the model's context, the flag, the pool."""
        limits = self._target.facts.max_length, self._pages * PAGE_SIZE
        return min(*limits, self._config.max_total_tokens or limits[0])

    def prepare(self, grammar: str) -> None:
        """Have `grammar` ready for rows to come; may be called while Steps run."""
        self._grammar_matchers.prepare(grammar)

    def execute(self, step: Step) -> StepResult:
        """`start`, and wait for the end."""
        return self.start(step).result()

    def start(self, step: Step) -> StepHandle:
        """Apply `step` and start its rows, whether or not earlier Steps have landed.

        Raises ProtocolError for a Step that does not fit.
        """
        began = time.perf_counter()
        self._rows.apply(step)
        if self._device_rounds is not None:
            self._device_rounds.remove(step.release)
        self._host_pool.apply(step)
        works = [
            RowTask(self._rows.get(id), prefill, draft) for id, prefill, draft in _row_work(step)
        ]
        rows = [work.row for work in works]
        flight = RunningStep(self._complete_oldest, step.number, rows, self._launch(works), began)
        self._running_steps.append(flight)
        return flight

    def reset(self) -> None:
        """Forget every row; weights and pools stay."""
        self._running_steps.clear()
        self._rows.clear()
        self._host_pool.clear()
        if self._device_rounds is not None:
            self._device_rounds.clear()

    def _launch(self, tasks: Sequence[RowTask]) -> PendingRound:
        resident = self._device_rounds
        if not tasks:
            return CompletedRound(())
        if resident is not None and resident.why_not_on_device(tasks) is None:
            try:
                return resident.launch(tasks, self._complete_all)
            except RuntimeError as fault:
                if self._config.world > 1 or not is_out_of_memory(fault):
                    raise
        self._complete_all()
        live = [work for work in tasks if not work.row.done]
        items = run_splitting_on_oom(self._attempt, self._target, self._drafter, live)
        if resident is not None:
            resident.mark_stale(tasks)
        return CompletedRound(items)

    def _complete_all(self) -> None:
        while self._running_steps:
            self._complete_oldest()

    def _complete_oldest(self) -> None:
        """Let the oldest flight end."""
        flight = self._running_steps.popleft()
        items = flight.pending_round.finish()
        now = time.perf_counter()
        seconds, self._last_completed_at = (
            now - max(flight.started_at, self._last_completed_at),
            now,
        )
        flight.step_result = StepResult(flight.number, seconds, items, digest(flight.rows))

    def _warm_up(
        self, drafter: Drafter | None, across_ranks: step_costs.AcrossRanks
    ) -> step_costs.MeasuredStepCosts:
        """Time Steps with `drafter`, or with one that stands in for prompt lookup."""
        lags = isinstance(drafter, ModelDrafter)
        self._drafter = drafter if lags or drafter is None else step_costs.ZeroDrafter()
        limits = step_costs.WarmupLimits(self._config.max_rows, self.max_length, self._pages)
        return step_costs.measure_step_costs(
            self, limits, self._config.speculate if drafter else 0, lags, across_ranks
        )

    def _choose_threads(self) -> None:
        """Keep the number of threads that decodes faster here: small models want one.

        Only where this rank is alone: ranks must compute the same bits.
        """
        threads = torch.get_num_threads()
        if threads == 1 or self._config.world > 1 or self._target.facts.device.type != "cpu":
            return
        many = step_costs.decode_seconds(self)
        torch.set_num_threads(1)
        if step_costs.decode_seconds(self) > many:
            torch.set_num_threads(threads)


def _row_work(step: Step) -> list[tuple[int, int, int]]:
    return [(run.id, run.prefill, run.draft) for run in step.run]


def _progress_reporter(
    progress: Progress, model_role: str, start: int, stop: int
) -> ProgressCallback:
    """Bytes of `model` as progress from `start` to `stop` percent, told once a percent."""
    told = [-1]

    def report(done: int, total: int) -> None:
        percent = start + (stop - start) * done // max(1, total)
        if percent > told[0]:
            told[0] = percent
            progress(f"loading the {model_role}: {done >> 20} of {total >> 20} MB", percent)

    return report


def _device(config: ShardConfig) -> torch.device:
    """One CUDA device per rank where there are enough, else the CPU with its cores shared."""
    if torch.cuda.is_available():
        if torch.cuda.device_count() < config.world:
            found = torch.cuda.device_count()
            raise StartupError(
                2, f"--num-shard {config.world} needs as many GPUs; {found} are visible"
            )
        torch.cuda.set_device(config.rank)
        return torch.device("cuda", config.rank)
    torch.set_num_threads(max(1, memory.available_cores() // config.world))
    return torch.device("cpu")


def _make_drafter(
    config: ShardConfig,
    target: LoadedModel,
    draft: LoadedModel | None,
    capacity: tuple[int, int, int],
) -> Drafter | None:
    """The draft model if there is one, else prompt lookup, unless nothing is to be drafted.

    Raises Fault 4 for a draft whose vocabulary cannot be led to the target's.
    """
    if not config.speculate:
        return None
    if draft is None or config.draft_path is None:
        return NgramDrafter()
    pairs = checkpoint.draft_token_ids(Path(config.model_path), Path(config.draft_path))
    bridge = VocabularyMap(target.vocab_size, draft.vocab_size, pairs, target.device)
    return ModelDrafter(PackedModel(draft, *capacity), target.eos, bridge)
