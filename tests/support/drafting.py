"""Devices and rows for the choice of draft lengths."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from router.scheduler.acceptance import AcceptanceCurve
from router.scheduler.api import DeviceCapacity, Job
from router.scheduler.row import Row
from tests.support.virtual_device import capacity

LONGEST = 8


def device(*costs: tuple[int, int, float], **changes: Any) -> DeviceCapacity:
    """Up to 64 rows; a verification of 25 ms and a draft token of 2 ms unless `costs` differ."""
    plain = capacity(speculate=LONGEST, max_rows=64, draft_token_seconds=0.002)
    return replace(plain, verify_seconds=0.025, costs=costs, **changes)


def row(id: int = 1, chance: float = 0.6, max_new: int = 100, cap: int = LONGEST) -> Row:
    """A row that decodes, whose drafts pass each position with `chance`."""
    curve = [chance**k for k in range(1, LONGEST + 1)]
    made = Row(Job(id, 0.0, 4, max_new), AcceptanceCurve(curve), cap)
    made.unprefilled, made.started = 0, True
    return made


def rows(count: int, chance: float) -> list[Row]:
    return [row(id, chance) for id in range(count)]
