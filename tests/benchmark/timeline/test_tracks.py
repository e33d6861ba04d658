"""A recording becomes one track per request."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmark.__main__ import main
from benchmark.timeline.tracks import Span, read, summary


def lines(*events: dict[str, Any]) -> list[str]:
    start = {"event": "start", "policy": "laps-sd"}
    return [json.dumps(event) for event in (start, *events)]


def arrived(id: int, t: float) -> dict[str, Any]:
    return {"event": "arrived", "t": t, "id": id, "prompt": 4, "max_new": 9}


def step(t: float, *ids: int, **changes: list[int]) -> dict[str, Any]:
    return {"event": "step", "t": t, "run": [[id, 0, 2] for id in ids], **changes}


def done(t: float, *ids: int, end: str | None = None) -> dict[str, Any]:
    return {"event": "done", "t": t, "rows": [[id, 0, 2, 1, 2, 0.1, end] for id in ids]}


def test_a_step_begins_when_the_one_before_it_has_ended() -> None:
    events = arrived(1, 10.0), step(11.0, 1), step(11.5, 1), done(12.0, 1), done(13.0, 1, end="eos")
    (track,) = read(lines(*events)).tracks
    assert track.spans == [Span(1.0, 2.0, 0, 2, 1, 2), Span(2.0, 3.0, 0, 2, 1, 2)]
    assert (track.arrived, track.wait, track.ended, track.end) == (0.0, 1.0, 3.0, "eos")
    assert track.acceptance == 0.5


def test_rows_are_preempted_in_three_ways() -> None:
    events = [arrived(id, 0.0) for id in (1, 2, 3, 4)]
    events += [step(1.0, 1, 2, 3, 4), done(2.0, 1, 2, 3, 4)]
    events += [step(2.0, 1, evict=[2], swap_out=[3]), done(3.0, 1)]
    tracks = read(lines(*events)).tracks
    assert [track.preemptions for track in tracks] == [
        [],
        [(2.0, "recompute")],
        [(2.0, "swap")],
        [(2.0, "keep")],
    ]


def test_rows_that_ended_are_not_preempted_by_the_step_without_them() -> None:
    events = [arrived(1, 0.0), arrived(2, 0.0), step(1.0, 1, 2)]
    events += [done(2.0, 1, 2, end="length"), step(3.0, 2)]
    assert not any(track.preemptions for track in read(lines(*events)).tracks)


def test_a_row_that_ends_with_a_step_in_flight_was_not_preempted_by_the_next_one() -> None:
    events = [arrived(1, 0.0), arrived(2, 0.0), step(1.0, 1, 2), step(1.5, 2)]
    ended = read(lines(*events, done(2.0, 1, end="length"))).tracks[0]
    assert ended.preemptions == []
    waited = read(lines(*events, done(2.0, 1), step(2.5, 1), done(3.0, 2), done(4.0, 1)))
    assert waited.tracks[0].preemptions == [(1.5, "keep")]


def test_steps_that_a_failure_voided_are_not_waited_for() -> None:
    events = [arrived(1, 0.0), step(1.0, 1), {"event": "reset"}, step(5.0, 1), done(6.0, 1)]
    recording = read(lines(*events))
    assert recording.tracks[0].spans == [Span(5.0, 6.0, 0, 2, 1, 2)]
    assert recording.resets == [1.0]
    assert "the shards failed once" in list(summary(recording))


def test_a_picture_is_drawn_and_a_file_of_another_kind_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib")
    record, picture = tmp_path / "record", tmp_path / "picture.png"
    events = arrived(1, 0.0), step(1.0, 1), done(2.0, 1, end="eos")
    record.write_text("\n".join(lines(*events)))
    assert main(["trace", str(record), "--plot", str(picture)]) == 0
    assert "drafts: 1 of 2 accepted (50%)" in capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    record.write_text("another file")
    assert main(["trace", str(record)]) == 1
    assert "is not a record" in capsys.readouterr().err
