"""Memory runs out in the forward; the tokens are the same, and only what fits nowhere ends."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from shard.engine import Engine
from shard.model import PackedModel
from shard.protocol import End, Grow, New, Report, Run, Sampling, Step
from shard.sequence import Feed
from tests.shard import tiny
from tests.shard.tiny import SAMPLED, Ask, Plan, drive, engine

Model = Callable[..., str]
ASKS = [Ask(tuple(range(size)), 12, SAMPLED, Report(prompt=True)) for size in (3, 30, 17, 9)]
FAULTS = {
    "on a device": torch.OutOfMemoryError("CUDA out of memory"),
    "on a host": RuntimeError("DefaultCPUAllocator: can't allocate memory"),
}


@pytest.fixture(params=FAULTS.values(), ids=FAULTS)
def small(model: Model, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine whose target runs out of memory above `room` tokens in one forward."""
    served = engine(model("llama"), model("llama", 1))
    whole = PackedModel.logits

    def logits(packed: PackedModel, feeds: Sequence[Feed]) -> Tensor:
        if packed is served._target and sum(len(feed.tokens) for feed in feeds) > room[0]:
            raise request.param
        return whole(packed, feeds)

    room = [1000]
    monkeypatch.setattr(PackedModel, "logits", logits)
    served.room = room  # type: ignore[attr-defined]
    return served


@pytest.mark.parametrize("room", [2, 7, 20])
def test_tokens_and_reports_do_not_depend_on_the_memory_for_a_round(
    small: Engine, room: int
) -> None:
    plain = drive(small, ASKS, Plan(draft=3))
    told = _prompt_logprobs(small)
    small.room[0] = room  # type: ignore[attr-defined]
    assert drive(small, ASKS, Plan(draft=3)) == plain
    assert _prompt_logprobs(small) == pytest.approx(told, abs=1e-4)


def test_what_fits_nowhere_ends_alone(small: Engine) -> None:
    small.reset()
    small.room[0] = 0  # type: ignore[attr-defined]
    new = (New(1, (5, 6), 2, 4, False, Sampling()), New(2, (7,), 1, 4, False, Sampling()))
    grow = (Grow(1, (1,)), Grow(2, (2,)))
    lost = small.execute(Step(1, (), new, grow, (Run(1, 2, 0), Run(2, 1, 0))))
    assert [item.end for item in lost.items] == [End.ERROR, End.ERROR]
    small.room[0] = 1000  # type: ignore[attr-defined]
    third = New(3, (5,), 1, 4, False, Sampling())
    fine = small.execute(Step(2, (1, 2), (third,), (Grow(3, (1,)),), (Run(3, 1, 0),)))
    assert [len(item.tokens) for item in fine.items] == [1]


def test_another_fault_is_not_taken_for_it(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    served = engine(model("llama"), model("llama", 1))

    def broken(*_: object) -> Tensor:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(PackedModel, "logits", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        drive(served, ASKS, Plan())


def _prompt_logprobs(served: Engine) -> list[float]:
    served.reset()
    items = tiny.steps(ASKS[1:2], Plan(), lambda step: served.execute(step).items)
    return [value for item in items for value in item.prompt_logprobs]
