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
from typing import NamedTuple, Protocol


class End(Enum):
    """Why a row of a Step will not run again as it is."""

    EOS = "eos"
    LENGTH = "length"
    ERROR = "error"
    LOST = "lost"
    """The shard group died: every Step in flight is void, and every live request, named or not,
    lives on without any KV."""


@dataclass(frozen=True, slots=True)
class Capacity:
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


class Run(NamedTuple):
    """One row of a Batch: `prefill` known tokens to feed, or 0 and a `draft` length."""

    id: int
    prefill: int
    draft: int


class Grow(NamedTuple):
    """Pages appended to a row's block table."""

    id: int
    pages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Batch:
    """One Step's plan. Applied in this order: release, evict, grow, run.

    `release`: rows that ended or were cancelled. `evict`: rows that lose their pages and will be
    prefilled again from their first token. A row named in `run` for the first time, or for the
    first time since its eviction, is new to the shards. A Batch may only release.
    """

    run: tuple[Run, ...]
    grow: tuple[Grow, ...] = ()
    release: tuple[int, ...] = ()
    evict: tuple[int, ...] = ()


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
    end: End | None = None


@dataclass(frozen=True, slots=True)
class View:
    """What the operator sees of a scheduler at one moment."""

    waiting: tuple[int, ...]
    """Live requests without a place in the last Batch, per level, highest priority first."""
    running: int
    """Rows of the last Batch."""
    perceptible: int
    """Live requests whose acceptance rate is stable."""
    free_pages: int
    preemptions: dict[str, int]
    """Since the start, by kind: keep, recompute."""


class Scheduler(Protocol):
    """Four verbs, and one look inside.

    Contract: outcomes come in Step order, one `complete` a Step; an id may have an empty
    outcome, or none, in the Step after the one that ended it; outcomes of unknown ids are
    ignored. With a live job and nothing in flight `next_batch` returns a Batch. One LOST outcome,
    of any id, voids all Steps in flight: each of them may still get its `complete`, with LOST
    outcomes, but only before the next `next_batch`.
    """

    def submit(self, job: Job, now: float) -> None:
        """Take `job`. Raises ValueError if it can never fit, or if its id is live."""

    def cancel(self, id: int, now: float) -> None:
        """Drop a live job; unknown ids are ignored. Its pages come free with the next Batch."""

    def next_batch(self, now: float) -> Batch | None:
        """Plan one Step; None: nothing to run and nothing to release."""

    def complete(self, outcomes: Sequence[Outcome], now: float) -> None:
        """Learn what the oldest Step in flight did."""

    def view(self) -> View:
        """The state that metrics and `/info` show."""
