"""The fleet in virtual time: what it conserves and repeats, and what policies change."""

from dataclasses import replace

import pytest

from benchmark.fleet.command import figures, tasks
from benchmark.fleet.policies import POLICIES
from benchmark.fleet.requests import PREFIX_TOKENS, draw
from benchmark.fleet.simulation import Fleet, FleetResult, run

SMALL = Fleet(2, "round robin", requests_per_replica=15)


@pytest.mark.parametrize("policy", POLICIES)
def test_every_request_is_answered_under_every_policy(policy: str) -> None:
    result = run(replace(SMALL, policy=policy, gateways=2))
    assert 0 < result.first_token <= result.mean <= result.p99
    assert 0 < result.prefill <= 1


def test_a_seed_repeats_its_run_and_round_robin_spreads_evenly() -> None:
    first = run(SMALL)
    assert first == run(SMALL)
    assert first.spread == 1.0
    assert first.mean != run(replace(SMALL, seed=1)).mean


def test_requests_of_one_prefix_share_its_pages_and_nothing_else() -> None:
    requests = draw(60, rate=1.0, seed=0)
    one, other = [r for r in requests if r.prefix == requests[0].prefix][:2]
    shared = set(one.job().hashes) & set(other.job().hashes)
    assert len(shared) == PREFIX_TOKENS // 16
    different = next(r for r in requests if r.prefix != one.prefix)
    assert not set(one.job().hashes) & set(different.job().hashes)


def test_figures_compare_with_round_robin_on_the_same_requests() -> None:
    def result(policy: str, mean: float) -> FleetResult:
        return FleetResult(Fleet(8, policy), mean, mean, 2 * mean, 0.1, 0.5, 1.0)

    found = figures([result("round robin", 2.0), result("least wait", 1.0)])
    assert found["fleet.8.least_wait.mean"] == 0.5
    assert found["fleet.8.least_wait.p99"] == 0.5
    assert found["fleet.8.round_robin.prefill"] == 0.5


def test_every_policy_is_simulated_for_every_size_with_the_same_seeds() -> None:
    fleets = tasks((8, 64))
    seeds = {(f.replicas, f.gateways, f.policy): 0 for f in fleets}
    for fleet in fleets:
        seeds[fleet.replicas, fleet.gateways, fleet.policy] += 1
    assert set(seeds.values()) == {4, 1}
    assert len(seeds) == 3 * len(POLICIES)
