"""Print how busy the server is, once a second: what a dashboard or a router would read.

`python examples/watch_metrics.py [URL [COUNT]]`
"""

import asyncio
import sys

import aiohttp
from prometheus_client.parser import text_string_to_metric_families

GAUGES = ("tgi_requests_running", "tgi_queue_size", "tgi_kv_cache_usage", "tgi_acceptance_ratio")


async def main(url: str, count: int) -> None:
    """Print `count` lines."""
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        for left in reversed(range(count)):
            async with session.get(f"{url}/metrics") as response:
                series = values(await response.text())
            print("  ".join(f"{name} {series[name]:g}" for name in GAUGES), flush=True)
            await asyncio.sleep(1 if left else 0)


def values(text: str) -> dict[str, float]:
    """Return the series without labels, by name."""
    families = text_string_to_metric_families(text)
    samples = (sample for family in families for sample in family.samples)
    return {sample.name: sample.value for sample in samples if not sample.labels}


arguments = dict(enumerate(sys.argv))
asyncio.run(main(arguments.get(1, "http://localhost:3000"), int(arguments.get(2, "60"))))
