"""The parts of a rank's engine, built from its configuration in the one order that works.

Models are loaded before the pool is sized, and the pool before caches are reserved. It executes
nothing and measures nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from shard.attention.kv_cache import PAGE_SIZE
from shard.attention.swap_pool import HostPool
from shard.config import ShardConfig
from shard.cores import available_cores
from shard.drafters import DrafterInputs, make_drafter
from shard.errors import StartupError
from shard.loading.adapters import load_adapter
from shard.loading.collectives import (
    all_agree,
    join_process_group,
    max_over_ranks,
    sum_over_ranks,
)
from shard.loading.cpu_use import MAX_OTHERS, CpuUse
from shard.loading.load import load
from shard.loading.measured_times import MeasuredTimes
from shard.loading.measurement_cache import MeasurementCache, identity
from shard.loading.partition import TensorParallelRank
from shard.loading.rope_scaling import RopeScaling
from shard.loading.weights import ProgressCallback
from shard.lora.lora_table import AdapterTable
from shard.model import memory
from shard.model.packed_model import LoadedModel, PackedModel
from shard.rounds.choose import DeviceRounds
from shard.rounds.drafter import Drafter
from shard.rounds.oom_retry import RoundAttempt, RunWithAgreement, run_alone
from shard.sampling.grammar import GrammarMatchers
from shard.warmup.preemption_costs import host_pool_pages

_log = logging.getLogger(__name__)

Progress = Callable[[str, int], None]
"""Called with a text and a percentage while a rank starts."""


@dataclass(frozen=True, slots=True)
class EngineParts:
    """Everything that an engine works with."""

    config: ShardConfig
    target: PackedModel
    drafter: Drafter | None
    matchers: GrammarMatchers
    adapters: AdapterTable | None
    """None if rows have none."""
    host_pool: HostPool
    device_rounds: DeviceRounds | None
    attempt: RoundAttempt
    times: MeasuredTimes
    """What ranks have measured; they decide by it alike, and as before a restart."""
    cache: MeasurementCache | None
    """What later launchers may begin with; None where every launcher measures."""
    pages: int
    """Pages of the pool."""
    host_pages: int
    """Pages of the host pool."""

    @property
    def max_length(self) -> int:
        """Maximum number of tokens of a row: limited by model, flag and pool."""
        return _max_length(self.config, self.target.facts, self.pages)

    def keep_measurements(self) -> None:
        """Keep what was measured, for restarts and for later launchers. Raises OSError.

        Later launchers get only what was measured on a quiet machine.
        """
        self.times.save()
        if self.cache is None:
            return
        if self.times.is_complete:
            if self.cache.has_read(self.times.values):  # not so after a restart on a busy machine
                self.cache.write(self.times.values, are_reused=True)
        elif (share := self.times.cpu.others_share()) <= MAX_OTHERS:
            self.cache.write(self.times.values, are_reused=False)
        else:
            _log.info("measurements are not kept: others used %.0f %% of the cores", 100 * share)


def make_parts(config: ShardConfig, progress: Progress) -> EngineParts:
    """Load the models of `config` and reserve memory. Raises StartupError."""
    device = choose_device(config)
    ranks = TensorParallelRank(config.rank, config.world)
    progress("joining the shards", 0)
    join_process_group(ranks, config.rendezvous, device)
    loaded = _load_target(config, device, ranks, progress)
    draft = _load_draft(config, device, progress)
    adapters = _load_adapters(config, loaded)
    attempt = _round_attempt(loaded, ranks, device)  # reads the layers that PackedModel may fuse
    pages = memory.pool_pages(config, loaded, draft)
    cache = _measurement_cache(config, device)
    times = MeasuredTimes(
        _times_file(config),
        partial(max_over_ranks, ranks=ranks, device=device),
        kept=cache.read() if cache else (),
        repeat=device.type != "cpu",
        cpu=CpuUse(partial(sum_over_ranks, ranks=ranks, device=device)),
    )
    target = PackedModel(
        loaded,
        pages,
        config.max_rows,
        config.speculate + 1,
        measurements=times,
        adapters=config.adapters,
    )
    drafter = make_drafter(DrafterInputs(config, loaded, draft, pages, times))
    page_bytes = loaded.page_bytes + (draft.page_bytes if draft else 0)
    host_pages = host_pool_pages(config, pages, page_bytes, device)
    caches = target.cache, *(drafter.caches if drafter else ())
    return EngineParts(
        config=config,
        target=target,
        drafter=drafter,
        matchers=GrammarMatchers(config.model_path, loaded.vocab_size, loaded.eos),
        adapters=adapters,
        host_pool=HostPool(caches, host_pages),
        device_rounds=_device_rounds(config, target, drafter, pages),
        attempt=attempt,
        times=times,
        cache=cache,
        pages=pages,
        host_pages=host_pages,
    )


def _times_file(config: ShardConfig) -> Path | None:
    """The file of this rank's times, in the launcher's folder; None without a launcher."""
    if not config.rendezvous:
        return None
    return Path(config.rendezvous).with_name(f"times-{config.rank}.json")


def _measurement_cache(config: ShardConfig, device: torch.device) -> MeasurementCache | None:
    """None without a folder, and on a GPU, where what is measured also compiles kernels."""
    if device.type != "cpu" or config.measurement_cache is None:
        return None
    return MeasurementCache(identity(config), Path(config.measurement_cache))


def choose_device(config: ShardConfig) -> torch.device:
    """One CUDA device per rank if there are GPUs, otherwise the CPU with its cores shared."""
    if torch.cuda.is_available():
        visible = torch.cuda.device_count()
        if visible < config.world:
            raise StartupError(
                2, f"--num-shard {config.world} needs as many GPUs; {visible} are visible"
            )
        torch.cuda.set_device(config.rank)
        return torch.device("cuda", config.rank)
    torch.set_num_threads(max(1, available_cores() // config.world))
    return torch.device("cpu")


def _load_target(
    config: ShardConfig, device: torch.device, ranks: TensorParallelRank, progress: Progress
) -> LoadedModel:
    report = _progress_reporter(progress, "target", 10, 60)
    with memory.oom_as_startup_error("load the target; raise `--num-shard`"):
        rope = RopeScaling.from_config(config)
        loaded = load(config.model_path, config.dtype, device, ranks, report, rope)
    return _log_warnings(config, "target", loaded)


def _load_draft(
    config: ShardConfig, device: torch.device, progress: Progress
) -> LoadedModel | None:
    """The draft model, whole on every rank; None if there is none or nothing is drafted."""
    if config.draft_path is None or not config.speculate:
        return None
    report = _progress_reporter(progress, "draft", 60, 80)
    with memory.oom_as_startup_error(
        "load the draft model in addition to the target; raise `--num-shard`"
    ):
        loaded = load(config.draft_path, config.dtype, device, TensorParallelRank(0, 1), report)
    return _log_warnings(config, "draft", loaded)


def _load_adapters(config: ShardConfig, loaded: LoadedModel) -> AdapterTable | None:
    """The adapters to begin with; None if rows have none. Raises StartupError."""
    if not config.adapters:
        return None
    load = partial(load_adapter, layers=loaded.adaptable, dtype=loaded.dtype, device=loaded.device)
    table = AdapterTable(load)
    with memory.oom_as_startup_error("load the adapters"):
        for number, path in enumerate(config.adapter_paths, 1):
            table.load(number, Path(path))
    return table


def _log_warnings(config: ShardConfig, model_role: str, loaded: LoadedModel) -> LoadedModel:
    """Log what was ignored in the model's folder, once for all ranks."""
    for warning in loaded.warnings if config.rank == 0 else ():
        _log.warning("%s model: %s", model_role, warning)
    return loaded


def _progress_reporter(
    progress: Progress, model_role: str, start: int, stop: int
) -> ProgressCallback:
    """Reports bytes read as progress from `start` to `stop` percent, once per percent."""
    reported = -1

    def report(done: int, total: int) -> None:
        nonlocal reported
        percent = start + (stop - start) * done // max(1, total)
        if percent > reported:
            reported = percent
            progress(f"loading the {model_role}: {done >> 20} of {total >> 20} MB", percent)

    return report


def _round_attempt(
    loaded: LoadedModel, ranks: TensorParallelRank, device: torch.device
) -> RoundAttempt:
    if ranks.world == 1:
        return run_alone
    workspace = memory.ForwardWorkspace.from_model(loaded)
    return RunWithAgreement(workspace, device, partial(all_agree, device=device))


def _device_rounds(
    config: ShardConfig, target: PackedModel, drafter: Drafter | None, pages: int
) -> DeviceRounds | None:
    if not config.resident:
        return None
    length = _max_length(config, target.facts, pages)
    return DeviceRounds(target, drafter, config.max_rows, length, config.speculate)


def _max_length(config: ShardConfig, target: LoadedModel, pages: int) -> int:
    limit = min(target.max_length, pages * PAGE_SIZE)
    return min(limit, config.max_total_tokens or limit)
