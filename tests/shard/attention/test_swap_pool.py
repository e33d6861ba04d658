"""What a device waits for when pages come back, with a stand-in for its streams."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch

from shard.attention.kv_cache import KvCache, LayerShape
from shard.attention.swap_pool import HostPool
from shard.wire.protocol import AppendPages, PageCopy, RowWork, Step


class Streams:
    """The copying stream and the computing one; `log` is what the latter waits for."""

    def __init__(self) -> None:
        self.events = 0
        self.log: list[int | str] = []

    def record_event(self) -> int:
        self.events += 1
        return self.events

    def wait_event(self, event: int) -> None:
        self.log.append(event)

    def wait_stream(self, _: object) -> None:
        self.log.append("all")


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch) -> Streams:
    made = Streams()
    monkeypatch.setattr(torch.cuda, "current_stream", lambda _: made)
    monkeypatch.setattr(HostPool, "_on_copy_stream", lambda *_: nullcontext())
    return made


@pytest.fixture
def pool(streams: Streams) -> HostPool:
    cache = KvCache([LayerShape(1, 4)], 8, torch.float32, torch.device("cpu"))
    made = HostPool([cache], 8)
    made._stream = streams  # type: ignore[assignment]
    return made


def step(*run: int, release: tuple[int, ...] = (), back: dict[int, int] | None = None) -> Step:
    """`back` names rows and the one page that each gets back."""
    pages = back or {}
    grow = tuple(AppendPages(id, (page,)) for id, page in pages.items())
    move = PageCopy(tuple(range(len(pages))), tuple(pages.values()))
    runs = tuple(RowWork(id, 0, 0) for id in run)
    return Step(1, release, (), grow, runs, swap_in=move)


def test_a_row_waits_for_its_pages_and_others_do_not(pool: HostPool, streams: Streams) -> None:
    pool.apply(step(7, back={1: 3, 2: 4}))
    pool.apply(step(7, back={5: 6}))
    pool.apply(step(7))
    assert streams.log == []
    pool.apply(step(7, 1))
    assert streams.log == [1]
    pool.apply(step(7, 1, 5))
    assert streams.log == [1, 2]


def test_pages_change_hands_only_after_their_copy(pool: HostPool, streams: Streams) -> None:
    pool.apply(step(back={1: 3, 2: 4}))
    pool.apply(step(release=(2,)))
    assert streams.log == [1]
    pool.apply(step(back={2: 4}))
    pool.clear()
    assert streams.log == [1, "all"]
    pool.apply(step(1, 2))
    assert streams.log == [1, "all"]
