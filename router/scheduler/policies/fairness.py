"""How much service each tenant has had: a virtual counter of seconds (VTC, arXiv 2401.00588).

A tenant that was away comes back at the count of the least served of those that are here, so that
nobody saves up service by staying away, and nobody pays for having been alone.
"""

from __future__ import annotations


class Tenants:
    """Counters of the tenants with live requests."""

    def __init__(self, grain: float) -> None:
        """`grain`: seconds of service below which differences do not count."""
        self._grain = grain
        self._seconds: dict[int, float] = {}
        self._live: dict[int, int] = {}
        self._least = 0.0

    def arrive(self, tenant: int) -> None:
        """A request of `tenant` has come."""
        if tenant not in self._live:
            self._seconds[tenant] = max(self._seconds.get(tenant, 0.0), self._least)
        self._live[tenant] = self._live.get(tenant, 0) + 1

    def leave(self, tenant: int) -> None:
        """One of its requests is gone; a tenant without any is remembered while others are here."""
        self._live[tenant] -= 1
        if not self._live[tenant]:
            del self._live[tenant]
        if not self._live:
            self._seconds.clear()
            self._least = 0.0

    def serve(self, tenant: int, seconds: float) -> bool:
        """It received service; whether that changes what `ahead` says of anyone."""
        before = int(self._seconds[tenant] / self._grain), int(self._least / self._grain)
        self._seconds[tenant] += seconds
        self._least = min(self._seconds[tenant] for tenant in self._live)
        after = int(self._seconds[tenant] / self._grain), int(self._least / self._grain)
        return len(self._live) > 1 and before != after

    def ahead(self, tenant: int) -> float:
        """Seconds that it received beyond the least served tenant, in whole grains."""
        grains = int(self._seconds[tenant] / self._grain) - int(self._least / self._grain)
        return grains * self._grain
