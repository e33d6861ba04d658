"""The event of `/debug/state`: what the server is doing at one moment, as a frozen JSON value.

The classes are also the schema of the event in the OpenAPI document; `state_builder` fills them. No
prompt, no text, no token id and no key is in them; a request appears by the first characters of its
id. Levels are those of `tgi_queue_depth`: 0 is the highest.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

MAX_LISTED_REQUESTS = 256
"""Maximum number of requests that are listed; the others are counted."""
MAX_ID_LENGTH = 8
"""Maximum number of characters of a request's id."""


class StateModel(BaseModel):
    """A frozen JSON object; the docstrings of its fields describe them in the document."""

    model_config = ConfigDict(use_attribute_docstrings=True, frozen=True)


class PreemptionCounts(StateModel):
    """Number of preemptions, by what happened to the KV cache."""

    keep: int
    """Preemptions that kept the cache in place."""
    swap: int
    """Preemptions that swapped the cache out to host memory."""
    recompute: int
    """Preemptions that dropped the cache, to be computed again."""


class RequestState(StateModel):
    """One live sequence."""

    number: int
    """Number of the sequence, unique since the router's start."""
    request_id: str
    """First characters of the request's `x-request-id`."""
    phase: Literal["queued", "prefill", "decode", "preempted", "swapped"]
    """What it is doing."""
    level: int
    """Priority level, 0 is the highest."""
    aged: bool
    """Whether it has waited so long that it is served before all others."""
    perceptible: bool
    """Whether its acceptance rate is stable."""
    remaining_seconds: float
    """Estimated seconds of device time that remain."""
    attained_seconds: float
    """Seconds of device time so far."""
    prompt_tokens: int
    """Number of tokens of the prompt."""
    emitted_tokens: int
    """Number of tokens generated so far."""
    max_new_tokens: int
    """Maximum number of tokens to generate."""
    pages: int
    """Pages of the KV cache that it holds, shared ones included."""
    draft_length: int
    """Tokens drafted in its last decoding step, or the maximum before the first."""
    drafted: int
    """Number of drafted tokens."""
    accepted: int
    """Number of drafted tokens that were accepted."""
    survival: list[float]
    """Probability that the first k drafted tokens are all accepted, for k = 1, 2, ..."""
    preemptions: PreemptionCounts
    """Number of its preemptions, by kind."""


class KvCacheState(StateModel):
    """Pages of the KV cache by state; `used`, `cached` and `free` add up to `total`."""

    total: int
    """Number of pages."""
    used: int
    """Pages of live requests."""
    shared: int
    """Pages of `used` that belong to several requests."""
    cached: int
    """Pages that belong to no request and hold a reusable prefix."""
    free: int
    """Pages that hold nothing."""
    swap_total: int
    """Pages of host memory for preempted requests."""
    swap_used: int
    """Pages of host memory in use."""


class DelayQuantiles(StateModel):
    """Quantiles of the delays of the last 30 seconds, in seconds; null without any."""

    p50: float | None
    """Median."""
    p90: float | None
    """90th percentile."""
    p99: float | None
    """99th percentile."""


class CountsState(StateModel):
    """Events since the start of the router."""

    preemptions: PreemptionCounts
    """Number of preemptions, by kind."""
    restarts: int
    """Times that the shards were started again after a failure."""
    failures: dict[str, int]
    """Requests that failed, by cause as in `tgi_request_failure`."""


class DraftingState(StateModel):
    """Speculative decoding."""

    drafter: str | None
    """What drafts: `model`, `ngram`, `suffix` or `auto`; null without speculative decoding."""
    max_draft_length: int
    """Maximum number of tokens drafted per decoding step."""
    draft_length: float
    """Mean draft length of the requests that decode now."""
    acceptance_rate: float
    """Fraction of recently drafted tokens that were accepted, 0 to 1."""
    survival: list[float]
    """Probability that the first k drafted tokens are all accepted, over all requests."""


class ShardsState(StateModel):
    """The group of shards."""

    health: Literal["ready", "stalled", "restarting", "draining", "failed"]
    """`ready`, or the reason why `/health` is 503."""
    seconds_since_answer: list[float]
    """For each rank the seconds since it last answered."""
    steps_in_flight: int
    """Number of steps that the shards have not completed."""


class ServerState(StateModel):
    """One event of `/debug/state`: the server at one moment."""

    time: float
    """Seconds of the server's monotonic clock."""
    shards: ShardsState
    """Health of the shards."""
    running: int
    """Number of sequences in the current batch."""
    queue_depth: list[int]
    """Number of waiting sequences by priority level, the highest level first."""
    requests: list[RequestState]
    """Live sequences: those of the current batch first, then by arrival."""
    unlisted_requests: int
    """Number of live sequences that are not in `requests`."""
    kv_cache: KvCacheState
    """Pages of the KV cache by state."""
    tokens_per_second: float
    """Output tokens per second, averaged over the last two seconds."""
    time_to_first_token: DelayQuantiles
    """Delays from the arrival of a request to its first token."""
    inter_token: DelayQuantiles
    """Delays between the tokens of a request."""
    drafting: DraftingState
    """Speculative decoding."""
    counts: CountsState
    """Events since the start of the router."""
