"""A request that makes the shards fail is found within three failures, and no other is blamed."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from router.dispatch.quarantine import PROBED_AFTER, Quarantine


def serve(poison: frozenset[int], ids: Sequence[int], batch: int, random: Random) -> list[int]:
    """Run random batches of `ids` until all have ended; return how often `poison` was in one.

    A batch without poison gives every request in it a token, which is its last.
    """
    quarantine, live, failures = Quarantine(), set(ids), []
    while live:
        probed = quarantine.probed
        size = min(batch, len(live))
        ran = {probed} if probed is not None else set(random.sample(sorted(live), size))
        if found := ran & poison:
            failures.extend(found)
            blamed = quarantine.shards_failed(ran)
            assert blamed is None or blamed in poison
            live.discard(blamed if blamed is not None else -1)
        else:
            for id in ran:
                quarantine.clear(id)
            live -= ran
    assert quarantine.probed is None
    return failures


@given(st.sets(st.integers(0, 30)), st.integers(1, 40), st.integers(1, 16), st.integers(0, 1 << 32))
def test_only_what_makes_the_shards_fail_is_blamed(
    poison: set[int], count: int, batch: int, seed: int
) -> None:
    serve(frozenset(poison), range(count), batch, Random(seed))


@pytest.mark.parametrize("batch", [1, 2, 8])
@pytest.mark.parametrize("seed", range(20))
def test_one_such_request_costs_three_failures_at_most(batch: int, seed: int) -> None:
    failures = serve(frozenset({5}), range(8), batch, Random(seed))
    assert len(failures) == (2 if batch == 1 else 3)


def test_failures_between_which_a_request_emits_tokens_are_not_its_fault() -> None:
    quarantine = Quarantine()
    for _ in range(10 * PROBED_AFTER):
        assert quarantine.shards_failed([1]) is None
        quarantine.clear(1)


def test_failures_while_nothing_runs_blame_nobody() -> None:
    quarantine = Quarantine()
    for _ in range(10):
        assert quarantine.shards_failed([]) is None
    assert quarantine.probed is None
