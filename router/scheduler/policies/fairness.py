"""How much service each tenant has had: a virtual counter of seconds (VTC, arXiv 2401.00588).

A tenant that was away comes back at the count of the least served of those that are here, so that
nobody saves up service by staying away, and nobody pays for having been alone.
"""

from __future__ import annotations


class TenantFairness:
    """Counters of the tenants with live requests."""

    def __init__(self, granularity: float) -> None:
        """`granularity`: seconds of service below which differences do not count."""
        self._granularity = granularity
        self._seconds: dict[int, float] = {}
        self._live_requests: dict[int, int] = {}
        self._min_seconds = 0.0

    def add_request(self, tenant: int) -> None:
        """A request of `tenant` has come."""
        if tenant not in self._live_requests:
            self._seconds[tenant] = max(self._seconds.get(tenant, 0.0), self._min_seconds)
        self._live_requests[tenant] = self._live_requests.get(tenant, 0) + 1

    def remove_request(self, tenant: int) -> None:
        """One of its requests is gone; a tenant without any is remembered while others are here."""
        self._live_requests[tenant] -= 1
        if not self._live_requests[tenant]:
            del self._live_requests[tenant]
        if not self._live_requests:
            self._seconds.clear()
            self._min_seconds = 0.0

    def record_service(self, tenant: int, seconds: float) -> bool:
        """It received service; whether that changes what `ahead` says of anyone."""
        before = (
            int(self._seconds[tenant] / self._granularity),
            int(self._min_seconds / self._granularity),
        )
        self._seconds[tenant] += seconds
        self._min_seconds = min(self._seconds[tenant] for tenant in self._live_requests)
        after = (
            int(self._seconds[tenant] / self._granularity),
            int(self._min_seconds / self._granularity),
        )
        return len(self._live_requests) > 1 and before != after

    def excess_service(self, tenant: int) -> float:
        """Seconds that it received beyond the least served tenant, in whole grains."""
        grains = int(self._seconds[tenant] / self._granularity) - int(
            self._min_seconds / self._granularity
        )
        return grains * self._granularity
