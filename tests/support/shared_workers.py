"""Text workers of the demo model that all servers of one test file share.

A worker process takes a fifth of a second to start. Rule: there is one pool for each event loop,
and the tests of a file run in one loop; a test that disturbs its workers has a pool of its own.
"""

from __future__ import annotations

import asyncio

from router.text.worker_pool import TextWorkers, WorkerFiles
from tests.support.paths import ROOT

DEMO = ROOT / "shard" / "demo" / "target"
VOCAB_SIZE = 4096
"""Size of the demo's vocabulary."""
_pools: dict[asyncio.AbstractEventLoop, TextWorkers] = {}


def shared_workers() -> TextWorkers:
    """The pool of the running event loop."""
    return _pools.setdefault(
        asyncio.get_running_loop(), TextWorkers(WorkerFiles(str(DEMO), VOCAB_SIZE), 1)
    )


async def close_shared_workers() -> None:
    """End the workers of the running event loop, if it has any."""
    if pool := _pools.pop(asyncio.get_running_loop(), None):
        await pool.close()
