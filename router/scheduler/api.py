"""The values and the four verbs that every scheduler shares with its two drivers.

The live dispatcher and the simulator call `submit`, `cancel`, `next_batch` and `complete`, with
`now` in monotonic seconds as an argument; nothing here reads a clock, a socket or a tensor. A
Batch becomes one numbered Step, and up to two Steps are in flight: Step k+1 is planned from the
outcomes up to k-1, so a scheduler plans on projected state and reserves the worst case.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, NamedTuple, Protocol


class RowEnded(Enum):
    """Why a row of a Step will not run again as it is."""

    EOS = "eos"
    LENGTH = "length"
    STOP = "stop"
    """Only the caller saw it, in the text: never in an Outcome, but given to `cancel`."""
    ERROR = "error"
    LOST = "lost"
    """The shard group died: every Step in flight is void, and every live request, named or not,
    lives on without any KV."""


@dataclass(frozen=True, slots=True)
class DeviceCapacity:
    """What the shards can hold and do; fixed while a group lives."""

    pages: int
    page_size: int
    max_rows: int
    prefill_tokens: int
    """Most prompt tokens in one Step."""
    speculate: int
    """Largest draft length; 0 without a drafter."""
    draft_token_seconds: float
    """T_SSM of the paper: one draft forward."""
    verify_seconds: float
    """T_LLM of the paper: one verification forward."""
    depth: int = 2
    """Most Steps in flight."""
    costs: tuple[tuple[int, int, float], ...] = ()
    """Rows, draft length and seconds of measured Steps; empty: only the two figures above."""
    catch_up_seconds: float = 0.0
    """For each token that a drafter must take in because it sat out some rounds."""
    host_pages: int = 0
    """Pages of host memory for rows that are swapped out."""
    swap_token_seconds: float = 0.0
    """Copying the KV of one token to the host, or back."""
    prefill_token_seconds: float = 0.0
    """Computing the KV of one known token."""
    preemption: str = "auto"
    """How a row gives up its pages: the cheaper way, or always `swap` or `recompute`."""


@dataclass(frozen=True, slots=True)
class Job:
    """A request as the scheduler sees it: numbers only, no text and no token ids."""

    id: int
    arrived: float
    prompt: int
    """Prompt tokens, at least 1."""
    max_new: int
    """Most tokens to emit, at least 1."""
    expected: float | None = None
    """Predicted output tokens, where the caller knows better than the scheduler's own prior."""
    speculate: int | None = None
    """Cap on this request's draft length; None is the capacity's."""
    hashes: tuple[int, ...] = ()
    """One per full page of the prompt, each naming all tokens up to that page's end. Empty: the
    request shares nothing."""
    priority: int = 0
    """Lower goes first, as in vLLM; only `laps-sd` heeds it."""
    tenant: int = 0
    """Whose request it is, for fairness between tenants."""
    route: int = 0
    """What kind of request it is, for the prediction of its length."""


class ScheduledRow(NamedTuple):
    """One row of a Batch: `prefill` known tokens to feed, or 0 and a `draft` length."""

    id: int
    prefill: int
    draft: int


class PageGrowth(NamedTuple):
    """Pages appended to a row's block table."""

    id: int
    pages: tuple[int, ...]


class RowStart(NamedTuple):
    """A row that enters with KV: its first `cached` tokens for the target, and for the draft."""

    id: int
    cached: int
    draft_cached: int


class Copy(NamedTuple):
    """The KV of one page, copied to another."""

    source: int
    target: int


class Swap(NamedTuple):
    """A row's KV on its way to the host or back: `pages` and `slots` pair up."""

    id: int
    pages: tuple[int, ...]
    slots: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ScheduledBatch:
    """One Step's plan. Applied in this order: release, evict, swap_out, start, grow, copy, swap_in,
    run.

    `release`: rows that ended or were cancelled. `evict`: rows that lose their pages and will be
    prefilled again. `swap_out`: rows that lose their pages to others but keep their KV on the
    host. `swap_in`: rows whose KV comes back while others run; such a row is in no `run` before
    this Step is done, so no Step waits for a copy. A row named in `run` for the first time, or for
    the first time since it lost its pages, is new to the shards, and one of `start` if it enters
    with KV; one of `swap_in` is new with its `start`. A page may stand in several tables; then
    nobody writes the target's part of it, and whoever drafts may fill in the draft's. A Batch may
    only release, or only bring back.
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
    """Leading tokens whose KV the draft holds, after the Step."""
    hashes: tuple[int, ...] = ()
    """Of the pages that the emitted tokens have filled, following on from the job's; the last
    token's own page is among them although its KV is still to come."""


@dataclass(frozen=True, slots=True)
class SchedulerStatus:
    """What the operator sees of a scheduler at one moment."""

    waiting: tuple[int, ...]
    """Live requests without a place in the last Batch, per level, highest priority first."""
    running: int
    """Rows of the last Batch."""
    perceptible: int
    """Live requests whose acceptance rate is stable."""
    free_pages: int
    """Pages that no live row holds; they may hold a prefix that a later request shares."""
    preemptions: dict[str, int]
    """Since the start, by kind: keep, swap, recompute."""
    prefetched: int = 0
    """Since the start: rows whose KV came back from the host before a Step ran them."""
    acceptance_rate: float = 0.0
    """Accepted share of what recent rounds drafted, of all requests; 0 where nothing was."""
    estimate_error: float = 0.0
    """Mean |estimated - true| / true execution time over the last requests that came to their own
    end, estimated when half of the expected answer was there; 0 before the first."""


@dataclass(frozen=True, slots=True)
class RequestStatus:
    """What is known of one live request."""

    level: int
    """1 is the highest, 0 the level of those that have waited too long."""
    perceptible: bool
    """Its acceptance rate is stable."""
    device_seconds: float
    """Device seconds received."""
    remaining_seconds: float
    """Estimated device seconds that it still needs."""
    wait: float
    """Estimated seconds until it is served next; 0 if the last Batch served it."""
    preemptions: dict[str, int]
    """Its own, by kind: keep, swap, recompute."""


class Scheduler(Protocol):
    """Four verbs, and three looks inside.

    Contract: outcomes come in Step order, one `complete` a Step; an id may have an empty
    outcome, or none, in the Step after the one that ended it; outcomes of unknown ids are
    ignored. With a live job and nothing in flight `next_batch` returns a Batch. One LOST outcome,
    of any id, voids all Steps in flight: each of them may still get its `complete`, with LOST
    outcomes, but only before the next `next_batch`.
    """

    def submit(self, job: Job, now: float) -> None:
        """Take `job`. Raises ValueError if it can never fit, or if its id is live."""

    def cancel(self, id: int, now: float, end: RowEnded | None = None) -> None:
        """Drop a live job; unknown ids are ignored. Its pages come free with the next Batch.

        `end`: STOP if the answer is complete, so that its length is worth learning from.
        """

    def next_batch(self, now: float) -> ScheduledBatch | None:
        """Plan one Step; None: nothing to run and nothing to release."""

    def complete(self, outcomes: Sequence[Outcome], now: float) -> None:
        """Learn what the oldest Step in flight did."""

    def status(self) -> SchedulerStatus:
        """The state that metrics and `/info` show."""

    def request_status(self, id: int, now: float) -> RequestStatus | None:
        """One request; None for unknown ids. To be asked before what ends the request."""

    def learned_state(self) -> dict[str, Any]:
        """What is worth keeping over a restart: numbers, strings, lists and dicts of them."""
