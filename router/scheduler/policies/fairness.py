"""How much service each tenant received: a virtual counter of seconds (VTC, arXiv 2401.00588).

A tenant without live requests returns with at least the count of the least served live tenant. So
no tenant accumulates credit while it is idle, and none pays for having been alone. Decides no
order.
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
        """Count a request of `tenant` that arrived."""
        if tenant not in self._live_requests:
            self._seconds[tenant] = max(self._seconds.get(tenant, 0.0), self._min_seconds)
        self._live_requests[tenant] = self._live_requests.get(tenant, 0) + 1

    def remove_request(self, tenant: int) -> None:
        """Count a request that ended; counters are kept while any tenant has live requests."""
        self._live_requests[tenant] -= 1
        if not self._live_requests[tenant]:
            del self._live_requests[tenant]
        if not self._live_requests:
            self._seconds.clear()
            self._min_seconds = 0.0

    def record_service(self, tenant: int, seconds: float) -> bool:
        """Count service in seconds. Return whether that changed the excess of any tenant."""
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
        """Return the seconds beyond the least served tenant, in multiples of the granularity."""
        units = int(self._seconds[tenant] / self._granularity) - int(
            self._min_seconds / self._granularity
        )
        return units * self._granularity
