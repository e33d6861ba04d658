"""The event of `/debug/state`, built from values."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

from router.observability.recent_activity import ActivitySummary, Quantiles
from router.observability.state_builder import StateSources, build_server_state
from router.requests.request import Request
from router.scheduler.snapshot import PageCounts, RowSnapshot, SchedulerSnapshot
from shard.wire.protocol import Sampling
from tests.support.serving import HELLO, PREEMPTIONS, VIEW, ScriptedRecord

SECRET = "a secret prompt"
ROW = RowSnapshot(
    id=7,
    phase="decode",
    level=2,
    perceptible=True,
    remaining_seconds=1.23456789,
    device_seconds=0.5,
    pages=3,
    draft_length=2,
    survival=(0.75, 0.5),
    preemptions=PREEMPTIONS,
)
PAGES = PageCounts(10, used=4, shared=1, cached=2, free=4, swap_total=8, swap_used=1)


def sources(*rows: RowSnapshot, **more: Any) -> StateSources:
    record: Any = ScriptedRecord(Request(SECRET, Sampling()), HELLO, "length")
    record.request_id, record.tokens = "0123456789abcdef", list(HELLO)
    values: dict[str, Any] = {
        "now": 12.3456789,
        "health": None,
        "seconds_since_answers": (0.125, 0.25),
        "steps_in_flight": 2,
        "status": VIEW,
        "snapshot": SchedulerSnapshot(rows, 1000, PAGES, (0.8, 0.6)),
        "records": {row.id: record for row in rows},
        "activity": ActivitySummary(20.0, Quantiles(0.1, 0.2, 0.3), Quantiles(None, None, None)),
        "failures": {"overloaded": 3},
        "restarts": 1,
        "drafter": "model",
    }
    return StateSources(**{**values, **more})


def event(*rows: RowSnapshot, **more: Any) -> Any:
    return json.loads(build_server_state(sources(*rows, **more)).model_dump_json())


def test_the_event_has_exactly_this_shape() -> None:
    assert event(ROW) == {
        "time": 12.345679,
        "shards": {
            "health": "ready",
            "seconds_since_answer": [0.125, 0.25],
            "steps_in_flight": 2,
        },
        "running": 3,
        "queue_depth": [2, 1],
        "requests": [
            {
                "number": 7,
                "request_id": "01234567",
                "phase": "decode",
                "level": 1,
                "aged": False,
                "perceptible": True,
                "remaining_seconds": 1.234568,
                "attained_seconds": 0.5,
                "prompt_tokens": 3,
                "emitted_tokens": 3,
                "max_new_tokens": 20,
                "pages": 3,
                "draft_length": 2,
                "drafted": 4,
                "accepted": 2,
                "survival": [0.75, 0.5],
                "preemptions": PREEMPTIONS,
            }
        ],
        "unlisted_requests": 999,
        "kv_cache": {
            "total": 10,
            "used": 4,
            "shared": 1,
            "cached": 2,
            "free": 4,
            "swap_total": 8,
            "swap_used": 1,
        },
        "tokens_per_second": 20.0,
        "time_to_first_token": {"p50": 0.1, "p90": 0.2, "p99": 0.3},
        "inter_token": {"p50": None, "p90": None, "p99": None},
        "drafting": {
            "drafter": "model",
            "max_draft_length": 2,
            "draft_length": 2.0,
            "acceptance_rate": 0.75,
            "survival": [0.8, 0.6],
        },
        "counts": {"preemptions": PREEMPTIONS, "restarts": 1, "failures": {"overloaded": 3}},
    }


def test_no_prompt_and_no_text_is_in_the_event() -> None:
    text = json.dumps(event(ROW), ensure_ascii=False)
    assert SECRET not in text
    assert not any(token.text in text for token in HELLO)
    assert "0123456789" not in text


def test_a_request_that_has_waited_too_long_is_in_the_highest_level_and_marked() -> None:
    (request,) = event(replace(ROW, level=0))["requests"]
    assert (request["level"], request["aged"]) == (0, True)


def test_the_reason_of_bad_health_is_in_the_event() -> None:
    assert event(health="restarting")["shards"]["health"] == "restarting"


def test_a_row_whose_request_has_just_ended_is_left_out() -> None:
    assert event(ROW, records={})["requests"] == []


def test_a_server_without_drafts_has_no_drafter() -> None:
    snapshot = SchedulerSnapshot((), 0, PAGES, ())
    drafting = event(drafter=None, snapshot=snapshot)["drafting"]
    assert (drafting["drafter"], drafting["max_draft_length"], drafting["survival"]) == (
        None,
        0,
        [],
    )


def test_an_event_of_256_requests_is_smaller_than_a_stream_buffers() -> None:
    rows = [replace(ROW, id=number, survival=(0.123456,) * 8) for number in range(256)]
    assert len(build_server_state(sources(*rows)).model_dump_json()) < 160_000
