"""The bound on ageing, under 10,000 adversaries that try to starve a request.

An adversary sends ever shorter and more urgent requests, up to three at a time, ends any of them
and makes every Step as long as possible. The bound is that of `multilevel_queue`: a request waits
for its patience and then for one turn of each other request.
"""

from collections.abc import Iterator
from random import Random

from router.scheduler.api import Job, Outcome, RowEnded
from router.scheduler.config import SchedulerConfig
from router.scheduler.estimation.estimator import Estimator
from router.scheduler.policies.baselines import Las, LengthSjf
from router.scheduler.policies.laps import Laps
from router.scheduler.policies.laps_paper import LapsPaper
from router.scheduler.policies.laps_queues import LapsQueues
from router.scheduler.policies.multilevel_queue import MultilevelQueue
from router.scheduler.policies.policy import Policy
from router.scheduler.row import Row
from tests.support.virtual_device import capacity

SEEDS = 10_000
PATIENCE, QUANTUM, STEP, CROWD, STEPS = 2.0, 0.3, 0.5, 3, 20
TURN = 2 * STEP
"""Two Steps: the first may be a prefill, which ends no turn, and both are longer than a quantum."""
DEVICE = capacity()


def policy(random: Random, patience: float, estimator: Estimator) -> Policy:
    levels = MultilevelQueue.geometric(3, 2.0, QUANTUM, patience)
    one = MultilevelQueue((), patience, QUANTUM)
    kind = random.randrange(8)
    if kind == 0:
        return Las(levels)
    if kind == 1:
        return LengthSjf(one, estimator, preemptive=random.random() < 0.5)
    if kind == 2:
        return LapsPaper(estimator, levels, 2, 0.1)
    config = SchedulerConfig(
        laps_rank=random.choice(("gittins", "remaining", "queues")),
        laps_join=random.choice(("prior", "first")),
        laps_perception=random.choice(("window", "posterior")),
        laps_tail=random.choice((0.0, 0.5)),
        laps_fairness=random.choice((0.0, 2.0)),
    )
    laps = LapsQueues if config.laps_rank == "queues" else Laps
    return laps(estimator, levels, one, config)


def excess(seed: int, patience: float) -> Iterator[float]:
    """By how much each wait exceeds the bound for `PATIENCE`."""
    random, estimator = Random(seed), Estimator(DEVICE)
    tried = policy(random, patience, estimator)
    rows, since, now = dict[int, Row](), dict[int, float](), 0.0
    for id in range(STEPS):
        if len(rows) < CROWD:
            hint = 400.0 / (1 + id)
            job = Job(id, now, 4, 500, hint, priority=-id, tenant=random.randrange(3))
            rows[id], since[id] = estimator.new_row(job), now
            tried.add(rows[id], now)
        row = tried.order(now)[0]
        now += STEP
        bound = PATIENCE + (len(rows) - 1) * TURN
        yield max(now - since[id] for id in rows if id != row.job.id or len(rows) == 1) - bound
        since[row.job.id] = now
        outcome = Outcome(row.job.id, 4 * (not row.started), 3, 1, int(row.started), STEP)
        row.started = True
        row.apply_outcome(outcome)
        if row.emitted and random.random() < 0.7:
            del rows[row.job.id]
            estimator.remove(row, RowEnded.EOS)
            tried.remove(row, RowEnded.EOS)
        else:
            estimator.observe(row, outcome)
            tried.observe(row, outcome, now)


def worst(seeds: range, patience: float) -> float:
    return max(max(excess(seed, patience)) for seed in seeds)


def test_no_adversary_starves_a_request_beyond_the_bound() -> None:
    assert worst(range(SEEDS), PATIENCE) <= 1e-9


def test_without_ageing_most_adversaries_would() -> None:
    starved = [worst(range(seed, seed + 1), 1e9) > 0 for seed in range(200)]
    assert sum(starved) > 100
