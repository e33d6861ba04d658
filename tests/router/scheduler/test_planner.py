from random import Random
from typing import Any

import pytest

from router.scheduler import build
from router.scheduler.api import (
    DeviceCapacity,
    Job,
    Outcome,
    RowEnded,
    ScheduledBatch,
    ScheduledRow,
    Scheduler,
)
from router.scheduler.config import SchedulerConfig
from router.scheduler.policies import POLICIES
from tests.support.virtual_device import Client, Device, capacity, run, serve


def fcfs(capacity: DeviceCapacity) -> Scheduler:
    return build(SchedulerConfig(scheduler="fcfs"), capacity)


def submit(scheduler: Scheduler, id: int, prompt: int, max_new: int = 20, **more: Any) -> None:
    scheduler.submit(Job(id, float(id), prompt, max_new, **more), float(id))


def plan(scheduler: Scheduler) -> ScheduledBatch:
    batch = scheduler.next_batch(0.0)
    assert batch is not None
    return batch


def done(
    id: int, prefilled: int = 0, drafted: int = 0, emitted: int = 1, end: RowEnded | None = None
) -> Outcome:
    return Outcome(id, prefilled, drafted, max(0, emitted - 1), emitted, 0.1, end)


def complete(scheduler: Scheduler, *outcomes: Outcome) -> None:
    scheduler.complete(outcomes, 0.0)


def test_a_prompt_is_fed_in_chunks_and_its_last_chunk_is_followed_by_decoding() -> None:
    scheduler = fcfs(capacity(depth=1))
    submit(scheduler, 1, prompt=20)
    assert plan(scheduler).run == (ScheduledRow(1, 16, 0),)
    complete(scheduler, done(1, 16, emitted=0))
    assert plan(scheduler).run == (ScheduledRow(1, 4, 0),)
    complete(scheduler, done(1, 4))
    assert plan(scheduler).run == (ScheduledRow(1, 0, 3),)


def test_chunks_and_decoding_rows_share_a_step_and_its_budget() -> None:
    scheduler = fcfs(capacity(depth=1))
    submit(scheduler, 1, prompt=4)
    plan(scheduler)
    complete(scheduler, done(1, 4))
    submit(scheduler, 2, prompt=10)
    submit(scheduler, 3, prompt=10)
    assert plan(scheduler).run == (
        ScheduledRow(1, 0, 3),
        ScheduledRow(2, 10, 0),
        ScheduledRow(3, 6, 0),
    )


def test_a_row_is_planned_again_before_its_step_has_completed() -> None:
    scheduler = fcfs(capacity())
    submit(scheduler, 1, prompt=4)
    assert plan(scheduler).run == (ScheduledRow(1, 4, 0),)
    assert plan(scheduler).run == (ScheduledRow(1, 0, 3),)
    assert scheduler.next_batch(0.0) is None, "two Steps are in flight"


def test_pages_cover_everything_in_flight_fully_accepted() -> None:
    scheduler = fcfs(capacity(page_size=1))
    submit(scheduler, 1, prompt=4)
    assert [len(grow.pages) for grow in plan(scheduler).grow] == [5], "prompt and first token"
    assert [len(grow.pages) for grow in plan(scheduler).grow] == [4], "a draft of 3 and one more"
    complete(scheduler, done(1, 4))
    assert [len(grow.pages) for grow in plan(scheduler).grow] == [4]
    complete(scheduler, done(1, drafted=3, emitted=1))
    assert [len(grow.pages) for grow in plan(scheduler).grow] == [1], "what was not accepted"


def test_a_row_that_its_steps_in_flight_exhaust_is_not_planned() -> None:
    scheduler = fcfs(capacity())
    submit(scheduler, 1, prompt=4, max_new=1)
    assert plan(scheduler).run == (ScheduledRow(1, 4, 0),)
    assert scheduler.next_batch(0.0) is None
    complete(scheduler, done(1, 4, end=RowEnded.LENGTH))
    assert plan(scheduler) == ScheduledBatch((), release=(1,))


def test_drafts_stop_at_the_tokens_certainly_left() -> None:
    scheduler = fcfs(capacity(draft_token_seconds=0.001))
    submit(scheduler, 1, prompt=4, max_new=4)
    submit(scheduler, 2, prompt=4, speculate=1)
    submit(scheduler, 3, prompt=4, speculate=9)
    plan(scheduler)
    assert plan(scheduler).run == (
        ScheduledRow(1, 0, 2),
        ScheduledRow(2, 0, 1),
        ScheduledRow(3, 0, 3),
    )


def test_a_row_beyond_the_limit_of_rows_waits_and_keeps_its_pages() -> None:
    scheduler = build(SchedulerConfig(scheduler="las"), capacity(max_rows=1, depth=1))
    submit(scheduler, 1, prompt=4)
    plan(scheduler)
    complete(scheduler, Outcome(1, 4, 0, 0, 1, seconds=0.6))
    submit(scheduler, 2, prompt=4)
    assert plan(scheduler).run == (ScheduledRow(2, 4, 0),)
    view = scheduler.status()
    assert view.waiting == (0, 1, 0, 0)
    assert view.running == 1
    assert view.preemptions == {"keep": 1, "swap": 0, "recompute": 0}
    assert view.free_pages == 40 - 2 - 2


def test_pages_of_a_cancelled_row_come_back_in_the_batch_that_releases_it() -> None:
    scheduler = fcfs(capacity(pages=4))
    submit(scheduler, 1, prompt=12, max_new=4)
    submit(scheduler, 2, prompt=12, max_new=4)
    assert plan(scheduler).run == (ScheduledRow(1, 12, 0),)
    scheduler.cancel(1, 0.0)
    assert scheduler.status().free_pages == 0
    batch = plan(scheduler)
    assert batch.release == (1,)
    assert batch.run == (ScheduledRow(2, 12, 0),)
    complete(scheduler, done(1, 12))
    complete(scheduler, done(2, 12))
    assert plan(scheduler).run == (ScheduledRow(2, 0, 2),), (
        "what was in flight for row 1 is ignored"
    )


def test_a_row_that_never_ran_is_cancelled_without_a_release() -> None:
    scheduler = fcfs(capacity())
    submit(scheduler, 1, prompt=4)
    scheduler.cancel(1, 0.0)
    scheduler.cancel(1, 0.0)
    assert scheduler.next_batch(0.0) is None


@pytest.mark.parametrize("fed", [(), (16,), (16, 4)], ids=["queued", "prefilling", "decoding"])
def test_a_row_that_is_cancelled_holds_no_page_after_the_next_batch(fed: tuple[int, ...]) -> None:
    scheduler = fcfs(capacity(depth=1))
    submit(scheduler, 1, prompt=20, max_new=8)
    for tokens in fed:
        plan(scheduler)
        complete(scheduler, done(1, tokens))
    scheduler.cancel(1, 0.0)
    batch = scheduler.next_batch(0.0)
    assert batch == (ScheduledBatch((), release=(1,)) if fed else None)
    assert scheduler.status().free_pages == 40


def test_a_row_on_the_host_that_is_cancelled_leaves_its_slots_and_pages_to_others() -> None:
    scheduler = fcfs(capacity(pages=6, host_pages=3, preemption="swap", depth=1))
    for ids in ((1, 2), (3, 4)):
        for id in ids:
            submit(scheduler, id, prompt=7, max_new=16)
        plan(scheduler)
        complete(scheduler, *[done(id, 7) for id in ids])
        plan(scheduler)
        complete(scheduler, *[done(id, drafted=3, emitted=4) for id in ids])
        [swap] = plan(scheduler).swap_out
        assert (swap.id, len(swap.slots)) == (ids[1], 3), "there is room for one row only"
        for id in reversed(ids):
            scheduler.cancel(id, 0.0)
        complete(scheduler)
        plan(scheduler)
        complete(scheduler)
        assert scheduler.status().free_pages == 6


def test_an_id_may_be_used_again_while_its_old_steps_are_in_flight() -> None:
    scheduler = fcfs(capacity())
    submit(scheduler, 1, prompt=4)
    plan(scheduler)
    scheduler.cancel(1, 0.0)
    submit(scheduler, 1, prompt=8)
    batch = plan(scheduler)
    assert (batch.release, batch.run) == ((1,), (ScheduledRow(1, 8, 0),))
    complete(scheduler, done(1, 4, end=RowEnded.EOS))
    assert plan(scheduler).run == (ScheduledRow(1, 0, 3),)


def test_outcomes_after_the_end_of_a_row_are_ignored() -> None:
    scheduler = fcfs(capacity())
    submit(scheduler, 1, prompt=4)
    plan(scheduler)
    plan(scheduler)
    complete(scheduler, done(1, 4, end=RowEnded.EOS))
    complete(scheduler, done(1, emitted=0), done(99))
    assert plan(scheduler) == ScheduledBatch((), release=(1,))
    complete(scheduler)
    assert scheduler.next_batch(0.0) is None


def test_a_job_that_can_never_fit_is_refused() -> None:
    scheduler = fcfs(capacity(pages=4))
    with pytest.raises(ValueError, match="needs 5 of 4 pages"):
        submit(scheduler, 1, prompt=13, max_new=4)
    submit(scheduler, 1, prompt=13, max_new=3)
    with pytest.raises(ValueError, match="is live"):
        submit(scheduler, 1, prompt=1)


def test_a_prompt_that_fills_the_cache_is_served_if_one_token_is_emitted() -> None:
    scheduler = fcfs(capacity(pages=4))
    submit(scheduler, 1, prompt=16, max_new=1)
    batch = plan(scheduler)
    assert [growth.pages for growth in batch.grow] == [(1, 2, 3, 4)]
    assert sum(row.prefill for row in batch.run) == 16
    with pytest.raises(ValueError, match="needs 5 of 4 pages"):
        submit(scheduler, 2, prompt=17, max_new=1)


@pytest.mark.parametrize(("prompt", "max_new", "draft"), [(0, 1, 1), (1, 0, 1), (1, 1, -1)])
def test_a_job_without_prompt_or_answer_is_refused(prompt: int, max_new: int, draft: int) -> None:
    with pytest.raises(ValueError, match="too short"):
        submit(fcfs(capacity()), 1, prompt, max_new, speculate=draft)


def test_a_lost_group_hands_every_row_back_without_kv() -> None:
    scheduler = build(SchedulerConfig(scheduler="las"), capacity(max_rows=1))
    submit(scheduler, 1, prompt=4)
    plan(scheduler)
    complete(scheduler, Outcome(1, 4, 0, 0, 1, seconds=0.6))
    submit(scheduler, 2, prompt=4)
    assert plan(scheduler).run == (ScheduledRow(2, 4, 0),)
    assert plan(scheduler).run == (ScheduledRow(2, 0, 3),)
    scheduler.reset()
    assert scheduler.status().free_pages == 40
    assert plan(scheduler).run == (ScheduledRow(2, 4, 0),), "none of it had landed"
    scheduler.cancel(2, 0.0)
    assert plan(scheduler).run == (ScheduledRow(1, 5, 0),), "the prompt and the token that had"


def test_a_higher_row_takes_the_pages_of_the_lowest() -> None:
    scheduler = fcfs(capacity(pages=6, depth=1))
    for id in (1, 2):
        submit(scheduler, id, prompt=7, max_new=16)
    plan(scheduler)
    complete(scheduler, done(1, 7), done(2, 7))
    assert scheduler.status().free_pages == 2
    plan(scheduler)
    complete(scheduler, done(1, drafted=3, emitted=4), done(2, drafted=3, emitted=4))
    assert scheduler.status().free_pages == 0
    batch = plan(scheduler)
    assert batch.evict == (2,)
    assert batch.run == (ScheduledRow(1, 0, 3),)
    complete(scheduler, done(1, drafted=3, emitted=1, end=RowEnded.EOS))
    assert plan(scheduler).run == (ScheduledRow(2, 12, 0),), (
        "the prompt and the five tokens emitted"
    )
    assert scheduler.status().preemptions == {"keep": 0, "swap": 0, "recompute": 1}


def test_a_row_in_flight_is_passed_over_until_it_can_be_evicted() -> None:
    scheduler = fcfs(capacity(pages=4, speculate=0))
    scheduler.submit(Job(2, 2.0, 7, 5), 2.0)
    assert plan(scheduler).run == (ScheduledRow(2, 7, 0),)
    scheduler.submit(Job(1, 1.0, 11, 5), 2.0)
    assert scheduler.next_batch(0.0) is None
    complete(scheduler, done(2, 7))
    batch = plan(scheduler)
    assert (batch.evict, batch.run) == ((2,), (ScheduledRow(1, 11, 0),))


def test_no_row_grows_below_a_row_that_waits_for_pages() -> None:
    scheduler = fcfs(capacity(pages=6, speculate=0, depth=1))
    submit(scheduler, 1, prompt=12, max_new=4)
    submit(scheduler, 2, prompt=15, max_new=4)
    submit(scheduler, 3, prompt=3, max_new=4)
    assert plan(scheduler).run == (ScheduledRow(1, 12, 0),)
    complete(scheduler, done(1, 12))
    assert plan(scheduler).run == (ScheduledRow(1, 0, 0),), (
        "row 3 would fit, but row 2 is before it"
    )


def test_a_started_row_leaves_a_page_for_each_row_above() -> None:
    scheduler = fcfs(capacity(pages=4, speculate=0, depth=1))
    submit(scheduler, 1, prompt=7, max_new=8)
    submit(scheduler, 2, prompt=7, max_new=8)
    assert plan(scheduler).run == (ScheduledRow(1, 7, 0),)


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("depth", [1, 2])
@pytest.mark.parametrize("kind", ["swap", "recompute"])
def test_a_pool_of_half_the_demand_still_finishes_everything(
    policy: str, depth: int, kind: str
) -> None:
    random = Random(7)
    jobs = [
        Job(id, 0.0, random.randint(1, 4), random.randint(20, 40), speculate=id % 5)
        for id in range(64)
    ]
    clients = [Client(job, random.randint(30, 40), random.random()) for job in jobs]
    demand = sum(-(-(job.prompt + job.max_new) // 4) for job in jobs)
    room: dict[str, Any] = {
        "draft_token_seconds": 0.0,
        "pages": demand // 2,
        "host_pages": demand,
        "preemption": kind,
    }
    device = Device(capacity(**room, max_rows=64, depth=depth, prefill_tokens=64), random)
    config = SchedulerConfig(scheduler=policy)
    scheduler = build(config, device.capacity)
    batches = run(scheduler, device, clients)
    assert all(client.end_count == 1 for client in clients)
    assert scheduler.status().free_pages == demand // 2
    preemptions = scheduler.status().preemptions
    assert preemptions["recompute"] == sum(len(batch.evict) for batch in batches)
    assert preemptions["swap"] == sum(len(batch.swap_out) for batch in batches)
    assert preemptions[kind] == preemptions["swap"] + preemptions["recompute"] > 0


def test_rows_come_back_from_the_host_while_others_take_every_place() -> None:
    random = Random(3)
    room: dict[str, Any] = {"pages": 40, "host_pages": 200, "preemption": "swap", "max_rows": 2}
    device = Device(capacity(**room), random)
    scheduler = build(SchedulerConfig(scheduler="las", laps_first_threshold=0.5), device.capacity)
    jobs = [Job(id, 0.2 * id, random.randint(4, 30), random.randint(20, 40)) for id in range(20)]
    batches = run(scheduler, device, [Client(job, 40, 0.5) for job in jobs])
    back = [batch for batch in batches if batch.swap_in]
    assert any(len(batch.run) == 2 for batch in back), "only rows with a place were brought back"
    view = scheduler.status()
    assert view.prefetched == sum(len(batch.swap_in) for batch in back) == view.preemptions["swap"]


def test_a_row_on_the_host_that_is_alone_comes_back_and_then_runs() -> None:
    small = capacity(pages=7, host_pages=7, preemption="swap", speculate=0)
    scheduler, device = fcfs(small), Device(small, Random(1))
    clients = [Client(Job(id, 0.0, 8, 12), 12, 0.0) for id in (1, 2)]
    batches = run(scheduler, device, clients)
    [back] = [batch for batch in batches if batch.swap_in]
    assert back.swap_in[0].id == 2
    later = batches[batches.index(back) + 1 :]
    assert [len(batch.run) for batch in later if batch.run] == [1] * len(later[:-1])
    assert all(client.end_count == 1 for client in clients)


def test_first_come_is_first_to_end_when_answers_are_equal() -> None:
    device = Device(capacity(max_rows=2, speculate=0), Random(1))
    clients = [Client(Job(id, 0.01 * id, 4, 10), 10, 0.0) for id in range(8)]
    ends = []
    for _ in serve(fcfs(device.capacity), device, clients):
        ends += [c.job.id for c in clients if c.end_count and c.job.id not in ends]
    assert ends[:6] == [0, 1, 2, 3, 4, 5]
