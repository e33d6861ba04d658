"""Replicas under Ray Serve are started and stopped by the estimated work of their schedulers.

Run by `make test-ray`, in an environment with Ray, which reads its variables when it is imported.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator

import aiohttp
import pytest

from benchmark.fleet.ray_cluster import serving
from tests.support.ray_replicas import launchers

REQUESTS, TOKENS = 30, 240
"""Far more work than one replica should have."""
LIMIT_SECONDS = 120.0
SOON = {"upscale_seconds": "1", "downscale_seconds": "1"}


@pytest.fixture
def url() -> Iterator[str]:
    os.environ["RAY_SERVE_REPLICA_AUTOSCALING_METRIC_PUSH_INTERVAL_S"] = "1"
    with serving(replicas="1", max_replicas="2", **SOON) as address:
        yield address


async def answer(session: aiohttp.ClientSession, seed: int) -> int:
    parameters = {"max_new_tokens": TOKENS, "ignore_eos": True, "details": True, "seed": seed}
    body = {"inputs": f"Say it again and again {seed}", "parameters": parameters}
    async with session.post("/generate", json=body) as response:
        response.raise_for_status()
        return int((await response.json())["details"]["generated_tokens"])


async def replicas_become(count: int) -> None:
    while len(launchers()) != count:  # noqa: ASYNC110 - processes raise no event
        await asyncio.sleep(0.2)


async def play(url: str) -> list[int]:
    """Send all requests; return their lengths when there are two replicas, and then one."""
    assert len(launchers()) == 1
    async with aiohttp.ClientSession(url) as session, asyncio.timeout(LIMIT_SECONDS):
        tasks = [asyncio.ensure_future(answer(session, seed)) for seed in range(REQUESTS)]
        await replicas_become(2)
        lengths = await asyncio.gather(*tasks)
        await replicas_become(1)
        return lengths


def test_replicas_follow_the_estimated_work(url: str) -> None:
    assert asyncio.run(play(url)) == [TOKENS] * REQUESTS


def test_a_replica_asks_for_its_gpus_in_one_placement_group() -> None:
    from deploy.ray.app import Settings, replica_options

    options = replica_options(Settings(gpus=2, cpus=4))
    assert options["ray_actor_options"] == {"num_cpus": 4, "num_gpus": 2}
    assert options["placement_group_bundles"] == [{"CPU": 4, "GPU": 2}]
    assert options["placement_group_strategy"] == "STRICT_PACK"
    assert Settings(gpus=2).command()[-2:] == ("--num-shard", "2")


def test_a_fixed_number_of_replicas_is_not_scaled() -> None:
    from deploy.ray.app import Settings, replica_options

    assert replica_options(Settings(replicas=3))["num_replicas"] == 3
    assert "autoscaling_config" not in replica_options(Settings(replicas=3, max_replicas=3))
