"""Which slot each token of a forward is multiplied by."""

from __future__ import annotations

import pytest
import torch

from shard.batch.packing import TokenSpan
from shard.batch.rows import CachedRow
from shard.lora.lora_adapter import Adapter
from shard.model.lora_batch import SlotUse, slot_use
from shard.wire.protocol import Sampling

SLOTS = {1: 0, 2: 1, 3: 2, 9: 9}


def spans(*rows: tuple[int, int]) -> list[TokenSpan]:
    """One span for each number of an adapter, or 0, and number of tokens."""
    made = []
    for number, count in rows:
        row = CachedRow(0, [0], 1, 1, True, Sampling())
        row.adapter = Adapter(number, {}) if number else None
        made.append(TokenSpan(row, 0, [0] * count, 0))
    return made


def slots_of_tokens(use: SlotUse, count: int) -> list[int | None]:
    """The slot that each of `count` tokens is multiplied by; fails if it is more than one."""
    found: list[int | None] = [None] * count
    pairs = [(token, run.slot) for run in use.runs for token in range(run.start, run.stop)]
    if (groups := use.groups) is not None:
        total = len(groups.tokens) if groups.places is None else None
        index = torch.arange(count) if groups.index is None else groups.index
        size = len(index) // (groups.last - groups.first)
        places = torch.arange(total or 0) if groups.places is None else groups.places
        assert index[places].tolist() == groups.tokens.tolist()
        pairs += [(int(index[place]), groups.first + int(place) // size) for place in places]
    for token, slot in pairs:
        assert found[token] is None
        found[token] = slot
    return found


@pytest.mark.parametrize(
    ("rows", "grouped"),
    [
        ([(1, 3), (1, 2)], False),
        ([(1, 1), (2, 1), (3, 1)], True),
        ([(3, 1), (1, 1), (2, 1)], True),
        ([(0, 1), (2, 1)], True),
        ([(2, 1), (0, 1)], True),
        ([(1, 4), (0, 2), (2, 4), (3, 1)], True),
        ([(1, 2), (2, 1), (1, 1)], True),
        ([(1, 90), (2, 1), (3, 1), (0, 2)], True),
        ([(1, 40), (9, 1)], False),
        ([(0, 2), (1, 1), (9, 1), (1, 1)], False),
    ],
)
def test_every_token_uses_the_slot_of_its_adapter_and_no_other(
    rows: list[tuple[int, int]], grouped: bool
) -> None:
    use = slot_use(spans(*rows), SLOTS, torch.device("cpu"))
    expected = [SLOTS.get(number) for number, count in rows for _ in range(count)]
    assert slots_of_tokens(use, len(expected)) == expected
    assert (use.groups is not None) == grouped
