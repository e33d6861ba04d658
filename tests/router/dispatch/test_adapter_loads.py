"""Adapters are loaded on every rank, from one folder, and within one number of bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from router.dispatch.adapter_loads import AdapterLoads
from router.errors import AdapterNotFound, AdapterRefused, Unavailable
from router.requests.adapters import AdapterRegistry
from router.shards.group import ShardGroup
from shard.wire.protocol import (
    HEADER_BYTES,
    AdapterLoaded,
    LoadAdapter,
    UnloadAdapter,
    unpack,
)
from tests.support.scripted_ranks import ScriptedRank, connected_group


class LoadingRank(ScriptedRank):
    """Loads an adapter of as many bytes as its folder's name says, and refuses `bad`."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.held: dict[int, str] = {}
        self.changed = asyncio.Event()

    def _on_frame(self, frame: bytes) -> None:
        super()._on_frame(frame)
        match unpack(frame[HEADER_BYTES:]):
            case LoadAdapter(number, adapter, path) if Path(path).name.isdigit():
                self.held[adapter] = Path(path).name
                self.send(AdapterLoaded(number, int(Path(path).name)))
            case LoadAdapter(number, _, path):
                self.send(AdapterLoaded(number, 0, f"{path} is damaged"))
            case UnloadAdapter(adapter):
                self.held.pop(adapter, None)
        self.changed.set()


@asynccontextmanager
async def loading(
    folder: Path, *, names: tuple[str, ...] = (), max_bytes: int = 100
) -> AsyncIterator[tuple[AdapterLoads, ShardGroup, list[LoadingRank]]]:
    ranks = [LoadingRank(0), LoadingRank(1)]
    registry = AdapterRegistry(names, [f"/{name}" for name in names])
    async with connected_group(*ranks) as (group, _):
        yield AdapterLoads(registry, str(folder), max_bytes), group, ranks


async def held(ranks: list[LoadingRank], *expected: str) -> None:
    """Wait until every rank holds the adapters in the folders `expected`."""
    async with asyncio.timeout(10):
        for rank in ranks:
            while sorted(rank.held.values()) != sorted(expected):
                await rank.changed.wait()
                rank.changed.clear()


async def test_an_adapter_is_served_once_every_rank_has_it(tmp_path: Path) -> None:
    async with loading(tmp_path) as (loads, group, ranks):
        await loads.load(group, "a", "40")
        assert loads.registry.names == ["a"]
        await held(ranks, "40")
        loads.unload(group, "a")
        assert loads.registry.names == []
        await held(ranks)


async def test_the_least_recently_used_makes_room(tmp_path: Path) -> None:
    async with loading(tmp_path) as (loads, group, ranks):
        for name, path in (("a", "40"), ("b", "50")):
            await loads.load(group, name, path)
        first = loads.registry.find("a")
        assert first
        loads.acquire(first.number)
        loads.release(group, first.number)
        await loads.load(group, "c", "20")
        assert loads.registry.names == ["a", "c"]
        await held(ranks, "40", "20")


@pytest.mark.parametrize(("path", "in_use"), [("101", False), ("90", True)])
async def test_an_adapter_without_room_is_refused(tmp_path: Path, path: str, in_use: bool) -> None:
    async with loading(tmp_path) as (loads, group, ranks):
        await loads.load(group, "a", "40")
        first = loads.registry.find("a")
        assert first
        if in_use:
            loads.acquire(first.number)
        with pytest.raises(AdapterRefused, match="leave no room"):
            await loads.load(group, "b", path)
        assert loads.registry.names == ["a"]
        await held(ranks, "40")


@pytest.mark.parametrize("path", ["..", "../other", "/etc", "a/../../b", "."])
async def test_only_folders_below_the_given_one_are_read(tmp_path: Path, path: str) -> None:
    async with loading(tmp_path / "adapters") as (loads, group, ranks):
        with pytest.raises(AdapterRefused, match="is not below the folder"):
            await loads.load(group, "a", path)
        assert all(not rank.received for rank in ranks)


async def test_a_link_out_of_the_folder_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "adapters").mkdir()
    (tmp_path / "adapters" / "10").symlink_to("/etc")
    async with loading(tmp_path / "adapters") as (loads, group, _):
        with pytest.raises(AdapterRefused, match="is not below the folder"):
            await loads.load(group, "a", "10")


async def test_without_a_folder_nothing_is_loaded(tmp_path: Path) -> None:
    async with loading(tmp_path) as (_, group, _):
        with pytest.raises(AdapterRefused, match="without `--lora-folder`"):
            await AdapterLoads(AdapterRegistry()).load(group, "a", "10")


async def test_a_refusal_gives_the_reason_and_no_path(tmp_path: Path) -> None:
    async with loading(tmp_path) as (loads, group, _):
        with pytest.raises(AdapterRefused) as error:
            await loads.load(group, "a", "bad")
        assert str(error.value) == "--lora-folder/bad is damaged"
        assert loads.registry.names == []


async def test_a_name_is_loaded_once(tmp_path: Path) -> None:
    async with loading(tmp_path) as (loads, group, _):
        results = await asyncio.gather(
            *(loads.load(group, "a", "40") for _ in range(2)), return_exceptions=True
        )
        assert [type(result) for result in results] == [type(None), AdapterRefused]


async def test_an_unknown_name_cannot_be_unloaded(tmp_path: Path) -> None:
    async with loading(tmp_path) as (loads, group, _):
        with pytest.raises(AdapterNotFound):
            loads.unload(group, "a")


async def test_a_load_fails_with_its_shards(tmp_path: Path) -> None:
    rank = ScriptedRank(0)
    async with connected_group(rank) as (group, _):
        loads = AdapterLoads(AdapterRegistry(), str(tmp_path), 100)
        load = asyncio.ensure_future(loads.load(group, "a", "10"))
        await rank.next_message()
        rank.disconnect()
        with pytest.raises(Unavailable):
            await load
        assert loads.registry.names == []


async def test_new_shards_get_what_the_last_ones_held(tmp_path: Path) -> None:
    async with loading(tmp_path, names=("fixed", "gone")) as (loads, group, _):
        await loads.load(group, "a", "40")
        loads.unload(group, "gone")
        ranks = [LoadingRank(0), LoadingRank(1)]
        for rank in ranks:
            rank.held = {1: "fixed", 2: "gone"}  # they begin with those of the command line
        async with connected_group(*ranks) as (successor, _):
            assert await loads.prepare_successor(successor) == []
            await held(ranks, "fixed", "40")


async def test_an_adapter_that_new_shards_cannot_load_is_given_up(tmp_path: Path) -> None:
    async with loading(tmp_path) as (loads, group, _):
        await loads.load(group, "a", "40")
        adapter = loads.registry.find("a")
        assert adapter
        adapter.path = "/bad"
        async with connected_group(LoadingRank(0)) as (successor, _):
            assert await loads.prepare_successor(successor) == [adapter.number]
        assert loads.registry.names == []
