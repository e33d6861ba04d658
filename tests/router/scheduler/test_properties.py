"""Every policy under arbitrary events: no page and no request is lost, none is served twice.

The device checks each Batch as it is sent. Here it is checked that rows make only the transitions
of `row.TRANSITIONS`, and that the status agrees with the device.
"""

from dataclasses import replace
from random import Random
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from router.scheduler import build
from router.scheduler.api import Job
from router.scheduler.config import SchedulerConfig
from router.scheduler.memory.kv_placement import PREEMPTION_MODES
from router.scheduler.planner import Planner
from router.scheduler.policies import POLICIES
from router.scheduler.row import TRANSITIONS, Row, RowState
from tests.support.nightly import nightly
from tests.support.virtual_device import Client, Device, capacity, chain, page_hashes, run, serve

VARIANTS: dict[str, dict[str, Any]] = {
    "every part": {"laps_tail": 0.3, "laps_fairness": 1.0},
    "queues": {"laps_rank": "queues", "laps_lengths": "plain"},
}
"""Of laps-sd, in addition to its defaults."""


def config(policy: str, **changes: float) -> SchedulerConfig:
    name = "laps-sd" if policy in VARIANTS else policy
    return SchedulerConfig(scheduler=name, **{**VARIANTS.get(policy, {}), **changes})


class SchedulerMachine(RuleBasedStateMachine):
    policy: ClassVar[str]

    @initialize(
        seed=st.integers(0, 1 << 32),
        pages=st.integers(3, 30),
        rows=st.integers(1, 5),
        budget=st.integers(1, 20),
        speculate=st.integers(0, 4),
        depth=st.integers(1, 2),
        host=st.sampled_from((0, 4, 40)),
        preemption=st.sampled_from(PREEMPTION_MODES),
    )
    def start(self, seed: int, rows: int, budget: int, host: int, **fields: Any) -> None:
        self.capacity = capacity(
            max_rows=rows,
            prefill_tokens=budget,
            host_pages=host,
            prefill_token_seconds=0.01,
            swap_token_seconds=0.004,
            **fields,
        )
        self.device = Device(self.capacity, Random(seed))
        self.config = config(self.policy, laps_patience=8.0)
        self.scheduler = build(self.config, self.capacity)
        self.now = 0.0
        self.log: list[tuple[str, tuple[object, ...], Any]] = []
        self.states: dict[Row, RowState] = {}
        """Of every row that was ever live, after the last event."""

    def call(self, verb: str, *arguments: object) -> Any:
        result = getattr(self.scheduler, verb)(*arguments)
        self.log.append((verb, arguments, result))
        self.check_transitions()
        return result

    def check_transitions(self) -> None:
        assert isinstance(self.scheduler, Planner)
        for row in self.scheduler._rows.values():
            self.states.setdefault(row, RowState.WAITING)
        for row, before in self.states.items():
            now = row.state
            assert now is before or now in TRANSITIONS[before], f"{before} became {now}"
            self.states[row] = now

    @rule(
        prompt=st.integers(1, 40),
        max_new=st.integers(1, 30),
        answer=st.integers(1, 40),
        acceptance=st.floats(0, 1),
        expected=st.none() | st.floats(1, 40),
        speculate=st.none() | st.integers(0, 6),
        priority=st.integers(-1, 1),
        tenant=st.integers(0, 2),
        data=st.data(),
    )
    def submit(
        self,
        prompt: int,
        max_new: int,
        answer: int,
        acceptance: float,
        expected: float | None,
        speculate: int | None,
        priority: int,
        tenant: int,
        data: st.DataObject,
    ) -> None:
        """The prompt may begin as that of another, and go on with what that one was answered."""
        id = len(self.device.clients) + 1
        known = [client.chain for client in self.device.clients.values() if client.shares_pages]
        before = data.draw(st.sampled_from([[], *known]))
        shares = data.draw(st.booleans())
        common = data.draw(st.integers(0, len(before)))
        values = chain(max(prompt, common), before[:common], id)
        prompt = len(values)
        hashes = page_hashes(values, self.capacity.page_size) if shares else ()
        who = {"priority": priority, "tenant": tenant}
        job = Job(id, self.now, prompt, max_new, expected, speculate, hashes, **who)
        if job.max_kv_tokens > self.capacity.pages * self.capacity.page_size:
            with pytest.raises(ValueError, match="pages"):
                self.scheduler.submit(job, self.now)
            return
        client = Client(job, answer, acceptance, chain=values, shares_pages=shares)
        self.device.add_request(job, client)
        self.call("submit", job, self.now)

    @precondition(lambda self: self.device.clients)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        client = data.draw(st.sampled_from(list(self.device.clients.values())))
        if client.live:
            client.cancelled = True
        self.call("cancel", client.job.id, self.now)

    @rule()
    def plan(self) -> None:
        batch = self.call("next_batch", self.now)
        idle = not self.device.steps
        if batch is not None:
            self.device.send(batch)
        elif idle:
            assert not self.live(), "work is live, nothing is in flight, and there is no Batch"

    @precondition(lambda self: self.device.steps)
    @rule(seconds=st.floats(0.001, 2.0))
    def complete(self, seconds: float) -> None:
        self.now += seconds
        self.call("complete", tuple(self.device.finish(self.now)), self.now)

    @rule()
    def lose_the_group(self) -> None:
        """Nothing is cached afterwards: the device checks it, as it has forgotten its pages."""
        self.device.fail_group()
        self.call("reset")
        assert self.scheduler.status().free_pages == self.capacity.pages
        assert all(row.state in {RowState.WAITING, RowState.ENDED} for row in self.states)

    @rule(seconds=st.floats(0, 30))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @invariant()
    def free_and_owned_pages_are_all_pages(self) -> None:
        if hasattr(self, "device"):
            free = self.scheduler.status().free_pages
            assert free + len(self.device.owned_pages()) == self.capacity.pages

    @invariant()
    def the_state_of_a_row_says_where_its_kv_is(self) -> None:
        for row, state in self.states.items() if hasattr(self, "device") else ():
            if state is not RowState.ENDED:
                assert state.holds_pages == (row.job.id in self.device.slots)
                assert (state is RowState.SWAPPED) == (row.job.id in self.device.host.values())

    @invariant()
    def every_live_request_is_waiting_or_ran_last(self) -> None:
        if hasattr(self, "device"):
            view = self.scheduler.status()
            assert sum(view.waiting) <= len(self.live()) <= sum(view.waiting) + view.running
            assert view.perceptible <= len(self.live())

    def live(self) -> list[Client]:
        return [client for client in self.device.clients.values() if client.live]

    def teardown(self) -> None:
        if not hasattr(self, "device"):
            return
        self.drain()
        assert all(c.end_count == 1 or c.cancelled for c in self.device.clients.values())
        assert all(c.end_count <= 1 for c in self.device.clients.values())
        assert self.scheduler.status().free_pages == self.capacity.pages
        self.replay()

    def drain(self) -> None:
        """Everything ends, even where each token of one costs the pages of all others."""
        tokens = sum(c.job.prompt + c.job.max_new for c in self.live())
        for _ in range(10 * tokens * (len(self.live()) + 1) + 100):
            self.plan()
            self.plan()
            if not self.device.steps:
                return
            self.complete(0.1)
        raise AssertionError("the requests do not end")

    def replay(self) -> None:
        twin = build(self.config, self.capacity)
        for verb, arguments, result in self.log:
            assert getattr(twin, verb)(*arguments) == result, "same events, other decisions"


@pytest.mark.parametrize("examples", [15, nightly(200)])
@pytest.mark.parametrize("policy", [*POLICIES, *VARIANTS])
def test_any_order_of_events_keeps_pages_and_requests_whole(policy: str, examples: int) -> None:
    machine = type(
        "Life_" + "".join(filter(str.isalpha, policy)), (SchedulerMachine,), {"policy": policy}
    )
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            phases=(Phase.generate,),
            stateful_step_count=50,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


@pytest.mark.parametrize("policy", [name for name in (*POLICIES, *VARIANTS) if name != "fcfs"])
@given(seed=st.integers(0, 1 << 32), pages=st.integers(16, 60))
@settings(max_examples=2, deadline=None)
def test_under_endless_load_no_request_waits_longer_than_the_age_bound(
    policy: str, seed: int, pages: int
) -> None:
    random, patience = Random(seed), 5.0
    device = Device(capacity(max_rows=1, pages=pages), random)
    long = Client(Job(0, 0.1, 10, 50, expected=50.0), 50, 0.5)
    jobs = [Job(id, 0.35 * id, random.randint(1, 8), 8, expected=4.0) for id in range(300)]
    crowd = [Client(job, 4, random.random()) for job in jobs[1:]]
    chosen = config(policy, laps_patience=patience)
    for _ in serve(build(chosen, device.capacity), device, [long, *crowd]):
        pass
    step = device.capacity.verify_seconds + 3 * device.capacity.draft_token_seconds
    rounds = 1 + 50 + 2  # a prefill, a round for each token, and two Steps in flight at that moment
    due = long.job.arrived + max(patience, 10 * rounds * step)
    assert long.seconds[-1] <= due + rounds * step, "it runs on, since none is older"


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("preemption", PREEMPTION_MODES)
def test_conversations_go_on_from_the_pages_of_their_earlier_turns(
    policy: str, preemption: str
) -> None:
    """Some never draft, so the draft lacks their answers; pages are few, so many have to go."""
    random = Random(5)
    small = capacity(pages=40, max_rows=4, host_pages=60, preemption=preemption, depth=2)
    device, scheduler = Device(small, random), build(config(policy), small)
    turns: list[list[int]] = [[] for _ in range(6)]
    for number in range(8):
        clients = []
        for place, before in enumerate(turns):
            id = 10 * number + place
            values = chain(len(before) + random.randint(1, 4), before, id)
            job = Job(id, 0.0, len(values), 6, None, 3 * (place % 2), page_hashes(values, 4))
            clients.append(Client(job, 6, 0.5, chain=values, shares_pages=True))
        run(scheduler, device, [*clients, *_twins(clients)])
        turns = [client.chain[:] for client in clients]
        assert all(client.end_count == 1 for client in clients)
    assert device.cached_tokens > 200, "hardly anything was shared"


def _twins(clients: list[Client]) -> list[Client]:
    """The same prompts once more; where they fill their pages, the last page is copied."""
    return [
        Client(replace(client.job, id=client.job.id + 1000), 6, 0.5, chain=client.chain[:])
        for client in clients
    ]
