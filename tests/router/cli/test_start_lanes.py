"""The lanes of a start, and how they are drawn."""

from __future__ import annotations

from io import StringIO

from rich.console import Console

from router.cli.start_lanes import Lane, Lanes, with_event, with_progress
from router.cli.start_view import address, picture


def test_a_lane_begins_when_its_child_is_started_and_ends_when_it_is_ready() -> None:
    lanes = with_event({}, "rank 0", "started", 10.0)
    assert lanes == {"rank 0": Lane("rank 0", "importing", 10.0)}
    lanes = with_progress(lanes, "rank 0", "warming up", 80)
    assert lanes["rank 0"] == Lane("rank 0", "warming up", 10.0, 80)
    assert lanes["rank 0"].seconds(11.5) == 1.5
    lanes = with_event(lanes, "rank 0", "ready", 13.0)
    assert lanes["rank 0"] == Lane("rank 0", "ready", 10.0, 100, 13.0)
    assert lanes["rank 0"].seconds(99.0) == 3.0


def test_a_lane_that_has_ended_stays_as_it_is_until_its_child_is_started_again() -> None:
    ended = with_event(with_event({}, "fetch", "started", 1.0), "fetch", "found", 2.0)
    assert with_progress(ended, "fetch", "late", 50) == ended
    assert with_event(ended, "fetch", "ended", 3.0) == ended
    assert with_event(ended, "fetch", "started", 4.0)["fetch"].ended_at is None


def test_events_of_children_without_a_lane_change_nothing() -> None:
    assert with_event({}, "rank 0", "ready", 1.0) == {}
    assert with_progress({}, "rank 0", "warming up", 80) == {}


def drawn(lanes: Lanes, now: float, width: int = 80) -> list[str]:
    console = Console(width=width, file=StringIO(), legacy_windows=False)
    with console.capture() as capture:
        console.print(picture(lanes, now))
    return [line.rstrip() for line in capture.get().splitlines()]


LANES = {
    "fetch": Lane("fetch", "found", 0.0, 100, 2.0),
    "rank 0": Lane("rank 0", "loading the target: 300 of 600 MB", 2.0, 50),
    "router": Lane("router", "waiting for the shards", 2.0),
}


def test_the_picture_has_a_row_for_each_lane() -> None:
    assert drawn(LANES, 5.25) == [
        "fetch   ━━━━━━━━━━━━━━━━━━━━━━━━  2.0 s  found",
        "rank 0  ━━━━━━━━━━━━              3.2 s  loading the target: 300 of 600 MB",
        "router                            3.2 s  waiting for the shards",
    ]


def test_a_narrow_terminal_cuts_the_text_and_not_the_rows() -> None:
    rows = drawn(LANES, 5.25, width=60)
    assert len(rows) == len(LANES)
    assert rows[1].endswith("…")


def test_the_address_leaves_out_a_page_that_is_not_served() -> None:
    console = Console(width=80, file=StringIO())
    with console.capture() as capture:
        console.print(address("http://h:1", None, "curl http://h:1/generate"))
    assert capture.get().split() == [
        "Serving",
        "at",
        "http://h:1",
        "Try",
        "curl",
        "http://h:1/generate",
    ]
