"""A request router that takes turns if a request says so: both policies over the same replicas."""

from __future__ import annotations

from typing import Any

from deploy.ray.router import LeastWaitRouter

IN_TURN = ("x-policy", "round-robin")
"""The header of a request that goes to the replica whose turn it is."""


class EitherRouter(LeastWaitRouter):
    """Least estimated wait, or round robin."""

    turn = 0

    async def choose_replicas(
        self, candidate_replicas: list[Any], pending_request: Any = None
    ) -> list[list[Any]]:
        """Return one rank for each replica, the best first."""
        ranks = await super().choose_replicas(candidate_replicas, pending_request)
        if pending_request is None or IN_TURN not in pending_request.args[0].headers:
            return ranks
        ranks.sort(key=lambda rank: str(rank[0].replica_id.unique_id))
        self.turn += 1
        first = self.turn % len(ranks)
        return ranks[first:] + ranks[:first]
