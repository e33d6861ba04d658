"""A request router that takes turns if a request says so: both policies over the same replicas.

The request carries its turn, since Ray may ask the router more than once for a request.
"""

from __future__ import annotations

from typing import Any

from benchmark.fleet.live import TURN
from deploy.ray.router import LeastWaitRouter


class EitherRouter(LeastWaitRouter):
    """Least estimated wait, or round robin."""

    async def choose_replicas(
        self, candidate_replicas: list[Any], pending_request: Any = None
    ) -> list[list[Any]]:
        """Return one rank for each replica, the best first."""
        ranks = await super().choose_replicas(candidate_replicas, pending_request)
        headers = dict(pending_request.args[0].headers) if pending_request else {}
        if TURN not in headers:
            return ranks
        ranks.sort(key=lambda rank: str(rank[0].replica_id.unique_id))
        first = int(headers[TURN]) % len(ranks)
        return ranks[first:] + ranks[:first]
