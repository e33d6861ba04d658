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
from shard.errors import Fault
from shard.loading import checkpoint
from shard.loading.collectives import connect, slowest, unanimous
from shard.loading.load import load
from shard.loading.partition import Ranks
from shard.loading.weights import Report
from shard.model import memory
from shard.model.packed_model import Loaded, PackedModel
from shard.rounds.choose import ResidentRounds
from shard.rounds.drafters import Drafter, ModelDrafter
from shard.rounds.host_round import Work
from shard.rounds.ngram import NgramDrafter
from shard.rounds.oom_retry import Attempt, Together, alone, out_of_memory, run_in_halves
from shard.rounds.vocabulary_map import Bridge
from shard.sampling.grammar import Grammars
from shard.step_handle import Done, Flight, Pending, Started
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
        ranks = Ranks(config.rank, config.world)
        progress("joining the shards", 0)
        connect(ranks, config.rendezvous, device)
        told = _told(progress, "target", 10, 60)
        with memory.enough("load the target; raise `--num-shard`"):
            target = load(config.model_path, config.dtype, device, ranks, told)
        draft = None
        if config.draft_path is not None and config.speculate:
            told = _told(progress, "draft", 60, 80)
            with memory.enough("load the draft model beside the target; raise `--num-shard`"):
                draft = load(config.draft_path, config.dtype, device, Ranks(0, 1), told)
        self._attempt: Attempt = alone
        if ranks.world > 1:
            agree = partial(unanimous, device=device)
            self._attempt = Together(memory.Workspace.of(target), device, agree)
        self._pages = memory.pages(config, target, draft)
        room = self._pages, config.max_rows, config.speculate + 1
        self._target = PackedModel(target, *room)
        self._grammars = Grammars(config.model_path, target.vocab_size, target.eos)
        self._rows = RowTable(self._grammars.matcher)
        drafter = _drafter(config, target, draft, room)
        page_bytes = target.page_bytes + (draft.page_bytes if draft else 0)
        self._host_pages = preemption_costs.host_pages(config, self._pages, page_bytes, device)
        caches = self._target.cache, *(drafter.caches if drafter else ())
        self._host = HostPool(caches, self._host_pages)
        progress("warming up", 80)
        self._flights: deque[Started] = deque()
        self._landed = 0.0
        self._resident: ResidentRounds | None = None
        if device.type == "cuda" if config.resident is None else config.resident:
            bounds = config.max_rows, self.max_length, config.speculate
            self._resident = ResidentRounds(self._target, drafter, *bounds)
        self._drafter: Drafter | None = None
        self._choose_threads()
        self._costs = self._warm_up(drafter, partial(slowest, ranks=ranks, device=device))
        self._drafter = drafter
        self._rates = preemption_costs.measure(self, self.max_length, self._host_pages)
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
            draft_token_seconds=self._costs.draft_token_seconds,
            verify_seconds=self._costs.verify_seconds,
            drafter=self._drafter.source if self._drafter else "",
            costs=self._costs.table,
            catch_up_seconds=self._costs.catch_up_seconds,
            host_pages=self._host_pages,
            swap_token_seconds=self._rates.swap_token_seconds,
            prefill_token_seconds=self._rates.prefill_token_seconds,
        )

    @property
    def max_length(self) -> int:
        """Most tokens of one row: the model's context, the flag, the pool."""
        limits = self._target.facts.max_length, self._pages * PAGE_SIZE
        return min(*limits, self._config.max_total_tokens or limits[0])

    def prepare(self, grammar: str) -> None:
        """Have `grammar` ready for rows to come; may be called while Steps run."""
        self._grammars.prepare(grammar)

    def execute(self, step: Step) -> StepResult:
        """`start`, and wait for the end."""
        return self.start(step).result()

    def start(self, step: Step) -> Flight:
        """Apply `step` and start its rows, whether or not earlier Steps have landed.

        Raises ProtocolError for a Step that does not fit.
        """
        began = time.perf_counter()
        self._rows.apply(step)
        if self._resident is not None:
            self._resident.forget(step.release)
        self._host.apply(step)
        works = [Work(self._rows.row(id), prefill, draft) for id, prefill, draft in _runs(step)]
        rows = [work.row for work in works]
        flight = Started(self._land, step.number, rows, self._launch(works), began)
        self._flights.append(flight)
        return flight

    def reset(self) -> None:
        """Forget every row; weights and pools stay."""
        self._flights.clear()
        self._rows.clear()
        self._host.clear()
        if self._resident is not None:
            self._resident.clear()

    def _launch(self, works: Sequence[Work]) -> Pending:
        resident = self._resident
        if not works:
            return Done(())
        if resident is not None and resident.refusal(works) is None:
            try:
                return resident.launch(works, self._settle)
            except RuntimeError as fault:
                if self._config.world > 1 or not out_of_memory(fault):
                    raise
        self._settle()
        live = [work for work in works if not work.row.done]
        items = run_in_halves(self._attempt, self._target, self._drafter, live)
        if resident is not None:
            resident.outdate(works)
        return Done(items)

    def _settle(self) -> None:
        while self._flights:
            self._land()

    def _land(self) -> None:
        """Let the oldest flight end."""
        flight = self._flights.popleft()
        items = flight.pending.items()
        now = time.perf_counter()
        seconds, self._landed = now - max(flight.began, self._landed), now
        flight.done = StepResult(flight.number, seconds, items, digest(flight.rows))

    def _warm_up(self, drafter: Drafter | None, agree: step_costs.Agree) -> step_costs.Costs:
        """Time Steps with `drafter`, or with one that stands in for prompt lookup."""
        lags = isinstance(drafter, ModelDrafter)
        self._drafter = drafter if lags or drafter is None else step_costs.Zeros()
        limits = step_costs.Limits(self._config.max_rows, self.max_length, self._pages)
        return step_costs.measure(
            self, limits, self._config.speculate if drafter else 0, lags, agree
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


def _runs(step: Step) -> list[tuple[int, int, int]]:
    return [(run.id, run.prefill, run.draft) for run in step.run]


def _told(progress: Progress, model: str, start: int, stop: int) -> Report:
    """Bytes of `model` as progress from `start` to `stop` percent, told once a percent."""
    told = [-1]

    def report(done: int, total: int) -> None:
        percent = start + (stop - start) * done // max(1, total)
        if percent > told[0]:
            told[0] = percent
            progress(f"loading the {model}: {done >> 20} of {total >> 20} MB", percent)

    return report


def _device(config: ShardConfig) -> torch.device:
    """One CUDA device per rank where there are enough, else the CPU with its cores shared."""
    if torch.cuda.is_available():
        if torch.cuda.device_count() < config.world:
            found = torch.cuda.device_count()
            raise Fault(2, f"--num-shard {config.world} needs as many GPUs; {found} are visible")
        torch.cuda.set_device(config.rank)
        return torch.device("cuda", config.rank)
    torch.set_num_threads(max(1, memory.cores() // config.world))
    return torch.device("cpu")


def _drafter(
    config: ShardConfig, target: Loaded, draft: Loaded | None, room: tuple[int, int, int]
) -> Drafter | None:
    """The draft model if there is one, else prompt lookup, unless nothing is to be drafted.

    Raises Fault 4 for a draft whose vocabulary cannot be led to the target's.
    """
    if not config.speculate:
        return None
    if draft is None or config.draft_path is None:
        return NgramDrafter()
    pairs = checkpoint.correspondence(Path(config.model_path), Path(config.draft_path))
    bridge = Bridge(target.vocab_size, draft.vocab_size, pairs, target.device)
    return ModelDrafter(PackedModel(draft, *room), target.eos, bridge)
