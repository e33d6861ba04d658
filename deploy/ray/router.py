"""Ray Serve's request router: the replica with the least estimated wait, with prefix affinity.

Decides nothing itself; `deploy.ray.views` does. Runs in the process of each front.
"""

from __future__ import annotations

from typing import Any

from ray.serve.request_router import PendingRequest, ReplicaID, RequestRouter, RunningReplica

from deploy.ray.call import Call
from deploy.ray.views import Replicas


class LeastWaitRouter(RequestRouter):  # type: ignore[misc]  # Ray is not installed with mypy
    """Ranks the replicas by what they report with `record_routing_stats`."""

    def initialize_state(self, prefix_seconds: float = 0.1) -> None:
        """`prefix_seconds`: the wait that a replica with the prompt's prefix may have more."""
        self.replicas = Replicas(prefix_seconds)

    async def choose_replicas(
        self,
        candidate_replicas: list[RunningReplica],
        pending_request: PendingRequest | None = None,
    ) -> list[list[RunningReplica]]:
        """Return one rank for each replica, the best first."""
        by_name = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        self.replicas.update({name: one.routing_stats for name, one in by_name.items()})
        call = _call(pending_request)
        order = self.replicas.ranked(call.front, call.prefix) if call else list(by_name)
        return [[by_name[name]] for name in order]

    def on_request_routed(
        self, pending_request: PendingRequest, replica_id: ReplicaID, result: Any
    ) -> None:
        """Count the request until the replica reports it."""
        if call := _call(pending_request):
            self.replicas.add(replica_id.unique_id, call.prefix)

    def on_request_completed(self, replica_id: ReplicaID, internal_request_id: str) -> None:
        """Count the request as ended until the replica reports it."""
        self.replicas.end(replica_id.unique_id)


def _call(pending: PendingRequest | None) -> Call | None:
    """The request that is to be routed, if it is one of a front's."""
    first = pending.args[0] if pending is not None and pending.args else None
    return first if isinstance(first, Call) else None
