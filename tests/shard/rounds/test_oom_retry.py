"""Memory runs out in the forward; the tokens are the same, and only what fits nowhere ends.

Among ranks it is enough that one of them has too little: they give in together, and none waits.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import count
from pathlib import Path

import pytest
import torch
from torch import Tensor

from shard.batch.packing import TokenSpan
from shard.engine import Engine
from shard.loading.load import load
from shard.loading.partition import TensorParallelRank
from shard.model.memory import ForwardWorkspace
from shard.model.packed_model import PackedModel
from shard.wire.protocol import AppendPages, End, NewRow, ReportOptions, RowWork, Sampling, Step
from tests.support import driver, tiny
from tests.support.driver import DrivePlan, RowSpec, drive
from tests.support.forked_ranks import ForkedRank
from tests.support.ranks import (
    RankGroup,
    config_for_rank,
    connect_group,
    socket_folder,
    wait_until_ready,
)
from tests.support.samplings import SAMPLED
from tests.support.tight_rank import limit_memory
from tests.support.tiny import engine

Model = Callable[..., str]
ASKS = [
    RowSpec(tuple(range(size)), 12, SAMPLED, ReportOptions(prompt_logprobs=True))
    for size in (3, 30, 17, 9)
]
FAULTS = {
    "on a device": torch.OutOfMemoryError("CUDA out of memory"),
    "on a host": RuntimeError("DefaultCPUAllocator: can't allocate memory"),
}


@pytest.fixture(params=FAULTS.values(), ids=list(FAULTS))
def small(model: Model, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Engine:
    """An engine whose target runs out of memory above `room` tokens in one forward."""
    served = engine(model("llama"), model("llama", 1))
    whole = PackedModel.logits

    def logits(packed: PackedModel, feeds: Sequence[TokenSpan]) -> Tensor:
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
    plain = drive(small, ASKS, DrivePlan(draft=3))
    told = _prompt_logprobs(small)
    small.room[0] = room  # type: ignore[attr-defined]
    assert drive(small, ASKS, DrivePlan(draft=3)) == plain
    assert _prompt_logprobs(small) == pytest.approx(told, abs=1e-4)


def test_what_fits_nowhere_ends_alone(small: Engine) -> None:
    small.reset()
    small.room[0] = 0  # type: ignore[attr-defined]
    new = (NewRow(1, (5, 6), 2, 4, False, Sampling()), NewRow(2, (7,), 1, 4, False, Sampling()))
    grow = (AppendPages(1, (1,)), AppendPages(2, (2,)))
    lost = small.execute(Step(1, (), new, grow, (RowWork(1, 2, 0), RowWork(2, 1, 0))))
    assert [item.end for item in lost.items] == [End.ERROR, End.ERROR]
    small.room[0] = 1000  # type: ignore[attr-defined]
    third = NewRow(3, (5,), 1, 4, False, Sampling())
    fine = small.execute(Step(2, (1, 2), (third,), (AppendPages(3, (1,)),), (RowWork(3, 1, 0),)))
    assert [len(item.tokens) for item in fine.items] == [1]


def test_another_fault_is_not_taken_for_it(model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    served = engine(model("llama"), model("llama", 1))

    def broken(*_: object) -> Tensor:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(PackedModel, "logits", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        drive(served, ASKS, DrivePlan())


@pytest.fixture(scope="module")
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[list[ForkedRank], Path]]:
    """Two ranks, and the file that says how much memory the second of them finds."""
    model: Model = request.getfixturevalue("model")
    served = tiny.config(model("llama"), model("llama", 1))
    room = tmp_path_factory.mktemp("tight") / "bytes"
    preparations = None, partial(limit_memory, room)
    with socket_folder() as path, ExitStack() as stack:
        ranks = [
            stack.enter_context(ForkedRank(config_for_rank(served, number, 2, path), prepare))
            for number, prepare in enumerate(preparations)
        ]
        wait_until_ready(ranks)
        yield ranks, room


@pytest.fixture
def group(pair: tuple[list[ForkedRank], Path]) -> Iterator[tuple[RankGroup, Path]]:
    ranks, room = pair
    room.unlink(missing_ok=True)
    with connect_group(ranks) as together:
        yield together, room


@pytest.mark.parametrize("tokens", [1, 5, 20])
def test_ranks_halve_together_where_one_has_too_little(
    model: Model, group: tuple[RankGroup, Path], tokens: int
) -> None:
    together, room = group
    device = torch.device("cpu")
    loaded = load(model("llama"), None, device, TensorParallelRank(0, 1), lambda done, total: None)
    room.write_text(str(ForwardWorkspace.from_model(loaded).estimate_bytes(tokens, 1, tokens * 30)))
    numbers = count(1)
    plan = DrivePlan(draft=3)
    asks = ASKS[1:]
    items = driver.run_steps(
        asks, plan, lambda step: together.execute(replace(step, number=next(numbers))).items
    )
    assert driver.tokens_by_row(items, len(asks)) == drive(
        engine(model("llama"), model("llama", 1)), asks, plan
    )


def test_what_fits_on_one_rank_only_ends_alone(group: tuple[RankGroup, Path]) -> None:
    together, room = group
    first = NewRow(1, (5, 6), 2, 4, True, Sampling())
    fine = together.execute(Step(1, (), (first,), (AppendPages(1, (1,)),), (RowWork(1, 2, 0),)))
    assert [len(item.tokens) for item in fine.items] == [1]
    room.write_text("0")
    second = NewRow(2, (5, 6, 7), 3, 4, True, Sampling())
    runs = RowWork(1, 0, 1), RowWork(2, 3, 0)
    lost = together.execute(Step(2, (), (second,), (AppendPages(2, (2,)),), runs))
    assert {item.id: item.end for item in lost.items} == {1: None, 2: End.ERROR}
    room.unlink()
    third = NewRow(3, (5,), 1, 4, True, Sampling())
    fine = together.execute(
        Step(3, (2,), (third,), (AppendPages(3, (2,)),), (RowWork(1, 0, 1), RowWork(3, 1, 0)))
    )
    assert [item.end for item in fine.items] == [None, None]


def _prompt_logprobs(served: Engine) -> list[float]:
    served.reset()
    items = driver.run_steps(ASKS[1:2], DrivePlan(), lambda step: served.execute(step).items)
    return [value for item in items for value in item.prompt_logprobs]
