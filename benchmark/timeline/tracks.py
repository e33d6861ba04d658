"""One track per request, made from the lines of a record: a pure function.

The lines are those of `router.observability.recorded_scheduler`. A record may hold several starts
of the server; the last one counts. Times are seconds since its first line with a time.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

PREEMPTIONS = {"evict": "recompute", "swap_out": "swap"}
"""The kind of preemption by the field of a Step that names its rows."""


@dataclass(frozen=True, slots=True)
class Span:
    """A row's part in one Step."""

    start: float
    end: float
    prefilled: int
    drafted: int
    accepted: int
    emitted: int


@dataclass(slots=True)
class Track:
    """One request from its arrival to its end."""

    id: int
    arrived: float
    prompt: int
    spans: list[Span] = field(default_factory=list)
    preemptions: list[tuple[float, str]] = field(default_factory=list)
    """When, and how: `recompute`, `swap`, or `keep` for a row that waits with its pages."""
    ended: float | None = None
    end: str | None = None
    """`eos`, `length`, `stop`, `error` or `cancelled`; None if the record ends before."""

    @property
    def acceptance(self) -> float | None:
        """Accepted fraction of the drafted tokens; None without any."""
        drafted = sum(span.drafted for span in self.spans)
        return sum(span.accepted for span in self.spans) / drafted if drafted else None

    @property
    def wait(self) -> float | None:
        """Seconds from the arrival to the beginning of the first Step; None if there is none."""
        return self.spans[0].start - self.arrived if self.spans else None


@dataclass(frozen=True, slots=True)
class Recording:
    """One start of a server."""

    policy: str
    tracks: Sequence[Track]
    """In the order of arrival."""
    seconds: float
    """Time of the last line."""
    resets: Sequence[float]
    """When the shards failed."""
    is_cut: bool
    """Whether the file reached its maximum size."""


def read(lines: Iterable[str]) -> Recording:
    """The last start in a record. Raises ValueError if there is none, or a line is not of one."""
    events = [json.loads(line) for line in lines if line.strip()]
    starts = [index for index, event in enumerate(events) if event.get("event") == "start"]
    if not starts:
        raise ValueError("no line of the file begins a record")
    return _Reader(events[starts[-1]]["policy"]).read(events[starts[-1] + 1 :])


class _Reader:
    """Follows the events of one start."""

    def __init__(self, policy: str) -> None:
        self._policy = policy
        self._tracks: dict[int, Track] = {}
        self._in_flight: deque[float] = deque()
        """When the Steps that have not completed were sent."""
        self._running: set[int] = set()
        """Rows of the last Step that ran any."""
        self._resets: list[float] = []
        self._first: float | None = None
        self._now = 0.0
        self._done_at = 0.0

    def read(self, events: Sequence[Mapping[str, Any]]) -> Recording:
        for event in events:
            self._set_time(event)
            match event["event"]:
                case "arrived":
                    track = Track(event["id"], self._now, event["prompt"])
                    self._tracks[track.id] = track
                case "step":
                    self._on_step(event)
                case "done":
                    self._on_done(event["rows"])
                case "ended":
                    self._end(event["id"], event["end"])
                case "reset":
                    self._resets.append(self._now)
                    self._in_flight.clear()
                    self._running.clear()
        is_cut = bool(events) and events[-1]["event"] == "full"
        tracks = list(self._tracks.values())
        return Recording(self._policy, tracks, self._now, self._resets, is_cut)

    def _set_time(self, event: Mapping[str, Any]) -> None:
        if "t" in event:
            self._first = event["t"] if self._first is None else self._first
            self._now = event["t"] - self._first

    def _on_step(self, event: Mapping[str, Any]) -> None:
        self._in_flight.append(self._now)
        for name, kind in PREEMPTIONS.items():
            for id in event.get(name, ()):
                self._preempt(id, kind)
        running = {id for id, _, _ in event["run"]}
        if running:
            lost = {id for name in PREEMPTIONS for id in event.get(name, ())}
            for id in sorted(self._running - running - lost):
                self._preempt(id, "keep")
            self._running = running

    def _on_done(self, rows: Sequence[Sequence[Any]]) -> None:
        start = max(self._in_flight.popleft(), self._done_at)
        for id, prefilled, drafted, accepted, emitted, _, end in rows:
            if (track := self._live(id)) is not None:
                track.spans.append(Span(start, self._now, prefilled, drafted, accepted, emitted))
                if end is not None:
                    self._end(id, end)
        self._done_at = self._now

    def _preempt(self, id: int, kind: str) -> None:
        if (track := self._live(id)) is not None:
            track.preemptions.append((self._now, kind))

    def _end(self, id: int, end: str) -> None:
        """End a request. If it ended with a Step in flight, the next one did not preempt it."""
        if (track := self._live(id)) is not None:
            track.ended, track.end = self._now, end
            was_kept = id not in self._running and [kind for _, kind in track.preemptions[-1:]]
            if was_kept == ["keep"] and end != "cancelled":
                track.preemptions.pop()

    def _live(self, id: int) -> Track | None:
        """A request that has arrived and not ended."""
        track = self._tracks.get(id)
        return track if track is not None and track.end is None else None


def summary(recording: Recording) -> Iterator[str]:
    """What the tracks say, in lines of text."""
    tracks = recording.tracks
    ends = [track.end or "live" for track in tracks]
    kinds = [kind for track in tracks for _, kind in track.preemptions]
    drafted = sum(span.drafted for track in tracks for span in track.spans)
    accepted = sum(span.accepted for track in tracks for span in track.spans)
    waits = sorted(track.wait for track in tracks if track.wait is not None)
    yield f"policy {recording.policy}, {recording.seconds:.1f} s, {len(tracks)} requests"
    yield f"ends: {_counts(ends)}"
    yield f"preemptions: {_counts(kinds)}"
    if drafted:
        yield f"drafts: {accepted} of {drafted} accepted ({accepted / drafted:.0%})"
    if waits:
        median = waits[len(waits) // 2]
        yield f"wait for the first step: median {median:.3f} s, maximum {waits[-1]:.3f} s"
    if recording.resets:
        times = "once" if len(recording.resets) == 1 else f"{len(recording.resets)} times"
        yield f"the shards failed {times}"
    if recording.is_cut:
        yield "the record reached its maximum size: what followed is missing"


def _counts(names: Sequence[str]) -> str:
    return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names)) or "none"
