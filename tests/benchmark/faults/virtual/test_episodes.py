"""The shipped router over ranks with faults, and that the simulation notices a mistake."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from benchmark.faults.virtual import command, world
from benchmark.faults.virtual.clients import BLAMED, COMPLETE, Client, Ended
from benchmark.faults.virtual.command import EPISODE_REQUESTS, figures
from benchmark.faults.virtual.engine import PoisonedEcho
from benchmark.faults.virtual.episode import Episode, run_episode
from benchmark.faults.virtual.event_loop import Deadlock, VirtualLoop
from benchmark.faults.virtual.faults import HEALTHY, Fate, Fault
from benchmark.faults.virtual.network import VirtualNetwork
from benchmark.faults.virtual.requests import (
    DEADLY_GRAMMAR,
    GRAMMARS,
    HANGING_GRAMMAR,
    PlannedRequest,
    draw_request,
)
from benchmark.faults.virtual.world import draw_settings, running
from router.dispatch.admission import Admission
from router.dispatch.event_handler import EventHandler
from router.dispatch.quarantine import MAX_RESTARTS
from router.requests.record import LiveRequest
from router.requests.request import Request
from router.scheduler.memory.kv_placement import KvPlacement
from router.scheduler.planner import Planner
from shard.wire.protocol import Sampling, Step, StepResult

SEEDS = range(1, 6)
REQUESTS = 80


def test_no_request_is_lost_or_wrong_whatever_fails() -> None:
    episodes = [run_episode(seed, REQUESTS) for seed in SEEDS]
    assert [episode.violations for episode in episodes] == [[] for _ in SEEDS]
    assert all(episode.ends.total() == REQUESTS for episode in episodes)
    assert sum(episode.failures for episode in episodes) >= len(SEEDS)
    assert sum(episode.ends["complete"] for episode in episodes) > REQUESTS


def test_an_episode_is_repeated_exactly_by_its_seed() -> None:
    first, second = run_episode(3, 30), run_episode(3, 30)
    assert first == second
    assert first.checksum != run_episode(4, 30).checksum


def test_a_rank_that_stops_while_it_prepares_for_resumed_requests_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # after loading, Hello and Prepare; and instead of the Prepare of the resumed request
    fates = {1: Fate(Fault.DEATH, 6), 2: Fate(Fault.STOP, 2)}
    monkeypatch.setattr(world, "_fate", lambda random, number, _: fates.get(number, HEALTHY))
    random, broken = Random(1), list[str]()
    network = VirtualNetwork(random)
    settings = draw_settings(random)
    request = Request("", Sampling(seed=1), ignore_eos=True, grammar=GRAMMARS[0])
    planned = PlannedRequest("request", request, (1, 2, 3), 20, None, None, 0.0)

    async def send() -> tuple[Ended, int]:
        async with asyncio.timeout(60), running(settings, random, network, broken.append) as server:
            client = Client(server.dispatcher, server.capacity.page_size)
            return await client.send(planned, 1), server.launcher.failures

    with asyncio.Runner(loop_factory=lambda: VirtualLoop(network)) as runner:
        ended, failures = runner.run(send())
    assert (broken, ended.how, failures) == ([], COMPLETE, 2)
    assert ended.tokens == planned.answer.tokens


def test_ranks_that_stop_while_they_load_again_are_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fates = {1: Fate(Fault.DEATH, 50), 2: Fate(Fault.STOP, 0)}
    monkeypatch.setattr(world, "_fate", lambda _, number, __: fates.get(number, HEALTHY))
    episode = run_episode(2, 50)
    assert (episode.violations, episode.failures) == ([], 2)


@pytest.mark.parametrize("grammar", [DEADLY_GRAMMAR, HANGING_GRAMMAR])
def test_a_grammar_that_no_rank_survives_ends_its_request_after_three_failures(
    grammar: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(world, "_fate", lambda *_: HEALTHY)
    random, broken = Random(1), list[str]()
    network = VirtualNetwork(random)
    settings = draw_settings(random)
    harmless = draw_request(random, "harmless", [()])
    harmless = replace(harmless, leaves_after=None, cancelled_after=None)

    async def send() -> tuple[str, str, int]:
        async with (
            asyncio.timeout(300),
            running(settings, random, network, broken.append) as server,
        ):
            client = Client(server.dispatcher, server.capacity.page_size)
            poisonous = client.send(harmless.with_grammar(grammar), 1)
            first, second = await asyncio.gather(poisonous, client.send(harmless, 2))
            return first.how, second.how, server.launcher.failures

    with asyncio.Runner(loop_factory=lambda: VirtualLoop(network)) as runner:
        ends = runner.run(send())
    assert (broken, ends) == ([], (BLAMED, COMPLETE, MAX_RESTARTS + 1))


@pytest.mark.nightly
def test_no_request_of_many_is_lost_or_wrong() -> None:
    episodes = [run_episode(seed, EPISODE_REQUESTS) for seed in range(100, 200)]
    assert figures(episodes)["simulation.violations"] == 0


def violations(monkeypatch: pytest.MonkeyPatch, owner: type, name: str, changed: Any) -> str:
    """What episodes report if a method of the router or of a rank is `changed`."""
    monkeypatch.setattr(owner, name, changed)
    return "\n".join(text for seed in (2, 3) for text in run_episode(seed, 35).violations)


def test_a_wrong_token_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    execute = PoisonedEcho.execute

    def wrong(self: PoisonedEcho, step: Step) -> StepResult:
        result = execute(self, step)
        items = tuple(replace(item, tokens=tuple(1 for _ in item.tokens)) for item in result.items)
        return replace(result, items=items)

    assert "has wrong tokens" in violations(monkeypatch, PoisonedEcho, "execute", wrong)


@pytest.mark.nightly
def test_a_request_that_is_forgotten_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    submit = Planner.submit

    def forgetful(self: Planner, job: Any, now: float) -> None:
        if job.id != 30:
            submit(self, job, now)

    found = violations(monkeypatch, Planner, "submit", forgetful)
    assert "not every request has ended" in found


@pytest.mark.nightly
def test_pages_that_are_never_freed_are_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = violations(monkeypatch, KvPlacement, "release", lambda *args: None)
    assert "not every request has ended" in found


def test_a_record_that_is_kept_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    found = violations(monkeypatch, EventHandler, "_remove", lambda *args: None)
    assert "requests are live" in found


def test_a_permit_that_leaks_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    drain = Admission.drain

    async def late(self: Admission) -> None:
        await asyncio.sleep(1.0)
        await drain(self)

    assert "a permit is held" in violations(monkeypatch, Admission, "drain", late)


def test_a_token_too_many_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    fail = LiveRequest.fail

    def one_more(self: LiveRequest, error: Any, now: float) -> None:
        fail(self, error, now)
        self.tokens += self.tokens[-1:]

    assert "tokens instead of" in violations(monkeypatch, LiveRequest, "fail", one_more)


def test_virtual_time_jumps_to_the_next_timer_and_a_deadlock_is_an_error() -> None:
    loop = VirtualLoop(VirtualNetwork(Random(1)))
    started = loop.time()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        runner.run(asyncio.sleep(36_000))
        assert loop.time() - started == pytest.approx(36_000)
        with pytest.raises(Deadlock):
            loop.run_until_complete(loop.create_future())


def test_figures_count_what_episodes_have_shown() -> None:
    episode = Episode(1, violations=["one"], failures=2, seconds=7200.0, longest=3.0)
    episode.ends.update(complete=4, left=1)
    shown = figures([episode, Episode(2)])
    assert shown["simulation.requests"] == 5
    assert shown["simulation.violations"] == 1
    assert shown["simulation.hours"] == 2.0
    assert (shown["simulation.complete"], shown["simulation.lost"]) == (4, 0)


def test_a_resumed_simulation_gives_what_one_without_a_break_gives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    simulated = list[int]()

    def episodes(seeds: Iterable[int], _: int) -> Iterator[Episode]:
        for seed in seeds:
            simulated.append(seed)
            violations = ["wrong"] if seed == 4 else []
            yield Episode(seed, violations, Counter(complete=500), longest=seed)

    def simulate(name: str, *words: str) -> tuple[int, str]:
        parser = argparse.ArgumentParser()
        command.add_arguments(parser)
        file = tmp_path / name
        status = command.run(parser.parse_args(["--json", str(file), "--seed", "3", *words]))
        return status, file.read_text()

    monkeypatch.setattr(command, "_episodes", episodes)
    whole = simulate("whole", "--requests", "1500")
    assert simulate("parts", "--requests", "1500", "--seconds", "0")[0] == 0
    assert simulate("parts", "--requests", "1500", "--resume") == whole
    assert simulated == [3, 4, 5, 3, 4, 5]
    assert whole[0] == 1
    assert json.loads(whole[1])["violations"] == ["seed 4: wrong"]
    assert json.loads(whole[1])["figures"]["simulation.longest_seconds"] == 5
