"""The scheduler's interface: the values and the six verbs that its two drivers use.

The live dispatcher and the simulator call `submit`, `cancel`, `next_batch` and `complete`; the
dispatcher also calls `reset` when the shards have failed, and `isolate` to find out why. `now` is
an argument, in monotonic seconds; nothing here reads a clock, a socket or a tensor. A Batch becomes
one numbered Step, and up to two Steps are in flight: Step k+1 is planned from the outcomes up to
k-1, so a scheduler plans on projected state and reserves the worst case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:  # a snapshot is of rows, which refer to this module
    from router.scheduler.snapshot import SchedulerSnapshot


class RowEnded(Enum):
    """Why a row stopped running."""

    EOS = "eos"
    LENGTH = "length"
    STOP = "stop"
    """A stop string was found in the text: passed to `cancel`, never in an Outcome."""
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class DeviceCapacity:
    """What the shards can hold, and how fast they are; constant for one shard group."""

    pages: int
    page_size: int
    max_rows: int
    prefill_tokens: int
    """Maximum number of prompt tokens per Step."""
    speculate: int
    """Maximum draft length; 0 without a drafter."""
    draft_token_seconds: float
    """T_SSM of the paper: one draft forward."""
    verify_seconds: float
    """T_LLM of the paper: one verification forward."""
    depth: int = 2
    """Maximum number of Steps in flight."""
    costs: tuple[tuple[int, int, float], ...] = ()
    """Rows, draft length and seconds of measured Steps; empty: only the two figures above."""
    catch_up_seconds: float = 0.0
    """Seconds per token that a draft model missed and must process before it drafts again."""
    host_pages: int = 0
    """Pages of host memory for rows that are swapped out."""
    swap_token_seconds: float = 0.0
    """Seconds to copy the KV of one token to the host, or back."""
    prefill_token_seconds: float = 0.0
    """Seconds to compute the KV of one known token."""
    preemption: str = "auto"
    """How a row is preempted: the cheaper way (`auto`), or always by `swap` or `recompute`."""
    suffix: int = 0
    """Maximum length of drafts by suffix decoding next to the drafter; 0 without."""
    suffix_costs: tuple[tuple[int, int, float], ...] = ()
    """As `costs`, of Steps whose drafts take no time, up to `suffix`."""


@dataclass(frozen=True, slots=True)
class Job:
    """A request as the scheduler sees it: numbers only, no text and no token ids."""

    id: int
    arrived: float
    prompt: int
    """Prompt tokens, at least 1."""
    max_new: int
    """Maximum number of tokens to emit, at least 1."""
    expected: float | None = None
    """Output tokens predicted by the caller; None: the scheduler's own prior."""
    speculate: int | None = None
    """Maximum draft length of this request; None: that of the capacity."""
    hashes: tuple[int, ...] = ()
    """One per full page of the prompt, of all tokens up to the end of that page. Empty: the request
    shares no pages."""
    priority: int = 0
    """Lower goes first, as in vLLM; only `laps-sd` uses it."""
    tenant: int = 0
    """Id of the tenant, for fairness between tenants."""
    route: int = 0
    """Id of the API route, for the prediction of the answer's length."""
    forced: int = 0
    """Maximum number of tokens that its grammar can force in one Step, in place of drafts."""

    @property
    def max_kv_tokens(self) -> int:
        """Maximum number of tokens to hold KV for; a single token that is emitted is never fed."""
        return self.prompt + (0 if self.max_new == 1 else self.max_new)


class ScheduledRow(NamedTuple):
    """One row of a Batch: `prefill` known tokens to feed, or 0 and a `draft` length.

    `forced`: maximum number of tokens that are drafted instead where the row's grammar forces them.
    `suffix`: otherwise, maximum number that are where suffix decoding finds any.
    """

    id: int
    prefill: int
    draft: int
    forced: int = 0
    suffix: int = 0


class PageGrowth(NamedTuple):
    """Pages appended to a row's block table."""

    id: int
    pages: tuple[int, ...]


class RowStart(NamedTuple):
    """A row that enters with KV of its first tokens: how many for the target, and for the draft."""

    id: int
    cached: int
    draft_cached: int


class Copy(NamedTuple):
    """Copy the KV of page `source` to page `target`."""

    source: int
    target: int


class Swap(NamedTuple):
    """Copy a row's KV to the host or back: `pages[i]` and host slot `slots[i]` correspond."""

    id: int
    pages: tuple[int, ...]
    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    """One Step's plan. Applied in this order: release, evict, swap_out, start, grow, copy, swap_in,
    run.

    `release`: rows that ended or were cancelled. `evict`: rows that lose their pages and will be
    prefilled again. `swap_out`: rows that lose their pages but keep their KV on the host.
    `swap_in`: rows whose KV is copied back while others run; such a row is in no `run` before this
    Step is done, so no Step waits for a copy. A row is new to the shards when it is in `run` for
    the first time, or for the first time since it lost its pages; it is also in `start` if it
    enters with KV. A row in `swap_in` is new, with its `start`. A page may be in several block
    tables; then its target KV is not written, and any row that drafts may fill in the draft's KV. A
    Batch may contain only `release`, or only `swap_in`.
    """

    run: tuple[ScheduledRow, ...]
    grow: tuple[PageGrowth, ...] = ()
    release: tuple[int, ...] = ()
    evict: tuple[int, ...] = ()
    start: tuple[RowStart, ...] = ()
    copy: tuple[Copy, ...] = ()
    swap_out: tuple[Swap, ...] = ()
    swap_in: tuple[Swap, ...] = ()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one Step did for one request."""

    id: int
    prefilled: int
    drafted: int
    accepted: int
    emitted: int
    seconds: float
    """This request's share of the Step's device time."""
    end: RowEnded | None = None
    draft_cached: int = 0
    """Leading tokens whose KV the draft holds after the Step."""
    hashes: tuple[int, ...] = ()
    """Of the pages that the emitted tokens have filled, after those of the job; they include the
    page of the last token, although its KV is computed by the next Step."""
    forced: int = 0
    """Tokens that the grammar forced, drafted in place of the drafter's. They are not in `drafted`
    and `accepted`, since they say nothing about the drafter."""
    suffix: int = 0
    """Tokens that suffix decoding drafted in place of the drafter, not in `drafted` either."""
    suffix_accepted: int = 0


@dataclass(frozen=True, slots=True)
class SchedulerStatus:
    """State of a scheduler at one moment, for metrics and `/info`."""

    waiting: tuple[int, ...]
    """Live requests that are not in the last Batch, per level, highest level first."""
    running: int
    """Rows of the last Batch."""
    perceptible: int
    """Live requests whose acceptance rate is stable."""
    free_pages: int
    """Pages that no live row owns; they may still hold a cached prefix."""
    preemptions: dict[str, int]
    """Since the start, by kind: keep, swap, recompute."""
    prefetched: int = 0
    """Since the start: rows whose KV was copied back from the host before a Step ran them."""
    acceptance_rate: float = 0.0
    """Accepted fraction of recently drafted tokens, over all requests; 0 without any."""
    estimate_error: float = 0.0
    """Mean of |estimated - true| / true execution time over recent requests that ended by
    themselves, estimated at half of the expected answer; 0 before the first."""
    work: float = 0.0
    """Estimated seconds of device time that the live requests still need, in their batches."""
    wait: float = 0.0
    """Estimated seconds until one more request would be served after all live ones."""


@dataclass(frozen=True, slots=True)
class RequestStatus:
    """State of one live request."""

    level: int
    """1 is the highest; 0 is for requests that have waited too long."""
    perceptible: bool
    """Whether its acceptance rate is stable."""
    device_seconds: float
    """Device time received, in seconds."""
    remaining_seconds: float
    """Estimated device time that it still needs, in seconds."""
    wait: float
    """Estimated seconds until it is served next; 0 if it is in the last Batch."""
    preemptions: dict[str, int]
    """Number of its preemptions by kind: keep, swap, recompute."""


class Scheduler(Protocol):
    """Six verbs, and five read-only queries.

    Contract: outcomes come in Step order, one `complete` per Step; an id may have an empty outcome,
    or none, in the Step after the one that ended it; outcomes of unknown ids are ignored. With a
    live job and nothing in flight `next_batch` returns a Batch.
    """

    def submit(self, job: Job, now: float) -> None:
        """Add `job`. Raises ValueError if it can never fit, or if its id is live."""

    def cancel(self, id: int, now: float, end: RowEnded | None = None) -> None:
        """Remove a live job; unknown ids are ignored. Its pages are released with the next Batch.

        `end`: STOP if the answer is complete, so that its length is learned.
        """

    def next_batch(self, now: float) -> ScheduledBatch | None:
        """Plan one Step. Return None if there is nothing to run and nothing to release."""

    def complete(self, outcomes: Sequence[Outcome], now: float) -> None:
        """Apply the outcomes of the oldest Step in flight."""

    def reset(self) -> None:
        """The shards have failed: all Steps in flight are void, and nothing holds KV any more.

        Live jobs go on from the tokens that outcomes have reported, which the next Batches prefill.
        """

    def isolate(self, id: int | None) -> None:
        """Let no Batch run any other job than the live job `id`; None lets all run again.

        Batches release rows as before, and others may lose their pages to the job.
        """

    def status(self) -> SchedulerStatus:
        """Return the state that metrics and `/info` show."""

    def request_status(self, id: int, now: float) -> RequestStatus | None:
        """Return the state of one request; None for unknown ids and for requests that ended."""

    def snapshot(self, limit: int) -> SchedulerSnapshot:
        """Return the state of up to `limit` live requests, and of the KV cache."""

    def seconds_per_end(self) -> float:
        """Return the estimated seconds between two ends of live requests; 0 without any."""

    def learned_state(self) -> dict[str, Any]:
        """Return what to keep over a restart: numbers and strings, in lists and dicts."""
