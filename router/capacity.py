"""What all ranks together can hold and how fast they are.

Pure: it follows from the Ready messages of the ranks and the router's limits.
"""

from __future__ import annotations

from router.child import BAD_MODEL, RouterStartupError
from router.requests.request import ResolvedLimits
from router.scheduler.api import DeviceCapacity
from shard.wire.protocol import Ready


def check_ranks_agree(ranks: tuple[Ready, ...]) -> None:
    """Raises RouterStartupError if ranks do not serve one model; their capacities may differ."""
    for name in ("model", "dtype", "page_size", "vocab_size", "speculate", "drafter"):
        values = [getattr(ready, name) for ready in ranks]
        for rank, value in enumerate(values):
            if value != values[0]:
                raise RouterStartupError(
                    BAD_MODEL,
                    f"the shards disagree on {name}: {values[0]!r} on rank 0, {value!r} on rank"
                    f" {rank}; start them all with the same model and flags",
                )


def combined_capacity(
    ranks: tuple[Ready, ...], bounds: ResolvedLimits, preemption: str = "auto"
) -> DeviceCapacity:
    """The capacity of all ranks together: the smallest of each, and the speed of rank 0."""
    rows = min(ready.max_rows for ready in ranks)
    prefill = 512 if ranks[0].device == "cpu" else 4096
    return DeviceCapacity(
        pages=min(ready.pages for ready in ranks),
        page_size=ranks[0].page_size,
        max_rows=min(rows, bounds.max_batch_size or rows),
        prefill_tokens=bounds.max_batch_prefill_tokens or prefill,
        speculate=ranks[0].speculate,
        draft_token_seconds=ranks[0].draft_token_seconds,
        verify_seconds=ranks[0].verify_seconds,
        costs=tuple((cost.rows, cost.draft, cost.seconds) for cost in ranks[0].costs),
        catch_up_seconds=ranks[0].catch_up_seconds,
        host_pages=min(ready.host_pages for ready in ranks),
        swap_token_seconds=max(ready.swap_token_seconds for ready in ranks),
        prefill_token_seconds=max(ready.prefill_token_seconds for ready in ranks),
        preemption=preemption,
        suffix=ranks[0].suffix,
        suffix_costs=tuple((cost.rows, cost.draft, cost.seconds) for cost in ranks[0].suffix_costs),
    )


def shard_limits(capacity: DeviceCapacity) -> dict[str, int]:
    """Limits with which ranks have `capacity`, however much memory is free when they start."""
    return {
        "max_batch_total_tokens": capacity.pages * capacity.page_size,
        "max_swap_tokens": capacity.host_pages * capacity.page_size,
    }
