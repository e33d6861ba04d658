"""Two Steps in flight: the second starts before the first one's result is read; same tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cache
from random import Random
from threading import Event, Thread
from typing import Any

import pytest

from benchmark.engine.in_process import InProcessLoop, device_capacity
from router.scheduler.planner import Planner
from shard.engine import Engine
from shard.server import serve
from shard.wire.protocol import (
    AppendPages,
    End,
    Fatal,
    NewRow,
    Ready,
    RowWork,
    Sampling,
    Step,
    StepResult,
)
from tests.support import tiny
from tests.support.device_rounds import LateEngine, RoundWatch, device_engine
from tests.support.driver import DrivePlan, RowSpec, drive
from tests.support.forked_ranks import ForkedRank
from tests.support.in_process import RandomPolicy, device_requests
from tests.support.nightly import thinned
from tests.support.pairs import Pair, with_eos
from tests.support.ranks import (
    ECHO,
    RankConnection,
    connect_group,
    model_group,
    socket_folder,
)
from tests.support.samplings import GREEDY

Model = Callable[..., str]
DRAFTS = ("no draft", "none accepted", "some accepted", "all accepted")
CELLS = [(1, "keep"), (3, "recompute"), (3, "swap"), (8, "keep"), (8, "never")]
ROOM = {"max_rows": 8, "max_swap_tokens": 1024}


def run(engine: Any, batch: int, rung: str, drafts: bool) -> list[list[int]]:
    tight = {"pages": 9, "preemption": rung} if rung in ("swap", "recompute") else {}
    room: dict[str, Any] = {"max_rows": batch, "prefill_tokens": 64, **tight}
    if not drafts:
        room["speculate"] = 0
    change = 0.0 if rung == "never" else 0.4
    scheduler = Planner(
        device_capacity(engine.ready(), **room), RandomPolicy(Random(batch), change)
    )
    loop, wanted = InProcessLoop(engine, scheduler), device_requests()
    for call in wanted:
        loop.submit(call)
    loop.run()
    assert rung == "never" or scheduler.status().preemptions[rung] > 0
    return [call.emitted for call in wanted]


@cache
def plain(target: str) -> list[list[int]]:
    asks = [RowSpec(call.prompt, call.max_new, call.sampling) for call in device_requests()]
    return drive(tiny.engine(target), asks, DrivePlan(batch=1))


@pytest.mark.parametrize(("kind", "batch", "rung"), thinned([(kind,) for kind in DRAFTS], CELLS, 3))
def test_results_read_late_change_no_token(
    ending_pair: Pair,
    kind: str,
    batch: int,
    rung: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    target, draft = ending_pair(kind)
    served = device_engine(target, draft, **ROOM)
    served.reset()
    watch = RoundWatch(served, monkeypatch)
    assert run(LateEngine(served), batch, rung, kind != "no draft") == plain(target)
    assert "resident" in watch.kinds
    assert "`watermark`" in watch.kinds


@pytest.fixture(scope="module", params=["some accepted", "all accepted"])
def two_ranks(
    request: pytest.FixtureRequest, ending_pair: Pair
) -> Iterator[tuple[list[ForkedRank], str]]:
    target, draft = ending_pair(request.param)
    with model_group(tiny.config(target, draft, resident=True, **ROOM), 2) as ranks:
        yield ranks, target


@pytest.mark.parametrize(("batch", "rung"), [(1, "keep"), (3, "swap"), (8, "never")])
def test_two_ranks_that_run_ahead_agree(
    two_ranks: tuple[list[ForkedRank], str], batch: int, rung: str
) -> None:
    ranks, target = two_ranks
    with connect_group(ranks) as group:
        assert run(group, batch, rung, True) == plain(target)


def start(served: Engine, *rows: NewRow) -> list[int]:
    """Prefill `rows` on two pages each; the tokens that they emit."""
    served.reset()
    grow = tuple(AppendPages(new.id, (2 * new.id, 2 * new.id + 1)) for new in rows)
    runs = tuple(RowWork(new.id, len(new.tokens), 0) for new in rows)
    return [item.tokens[0] for item in served.execute(Step(1, (), rows, grow, runs)).items]


def test_a_row_that_ends_in_one_step_is_absent_from_the_next(model: Model) -> None:
    served = device_engine(model("llama"), model("llama"))
    start(served, NewRow(1, (5, 6), 2, 4, True, GREEDY), NewRow(2, (7, 8), 2, 20, True, GREEDY))
    runs = (RowWork(1, 0, 5), RowWork(2, 0, 5))
    flights = [served.start(Step(number, (), (), (), runs)) for number in (2, 3)]
    first, second = (flight.result().items for flight in flights)
    assert [(item.id, item.end, len(item.tokens)) for item in first] == [
        (1, End.LENGTH, 3),
        (2, None, 6),
    ]
    assert [item.id for item in second] == [2]


def test_a_row_that_the_host_ended_within_its_drafts_is_skipped_on_the_device(
    model: Model,
) -> None:
    [whole] = drive(tiny.engine(model("llama")), [RowSpec((5, 6, 7))], DrivePlan())
    eos = next(token for at, token in enumerate(whole) if at > 1 and token not in whole[:at])
    place = whole.index(eos)
    served = device_engine(with_eos(model("llama"), eos), model("llama"))
    marked = NewRow(2, (9, 8), 2, 30, True, Sampling(watermark=True))
    start(served, NewRow(1, (5, 6, 7), 3, 40, False, GREEDY), marked)
    ended = served.start(Step(2, (), (), (), (RowWork(1, 0, place + 2), RowWork(2, 0, 0))))
    after = served.start(Step(3, (), (), (), (RowWork(1, 0, 2),)))
    first = ended.result().items[0]
    assert (list(first.tokens), first.end) == (whole[1 : place + 1], End.EOS)
    assert after.result().items == ()


def test_a_row_is_released_and_its_pages_and_id_go_to_another_before_its_result_is_read(
    model: Model,
) -> None:
    served = device_engine(model("llama"), model("llama", 1))
    old, new = RowSpec((5, 6, 7), 30), RowSpec((9, 8), 30)
    expected = drive(tiny.engine(model("llama")), [old, new], DrivePlan(batch=1))
    emitted = start(served, NewRow(1, old.prompt, 3, 30, True, GREEDY))
    ahead = served.start(Step(2, (), (), (), (RowWork(1, 0, 3),)))
    entering = NewRow(1, new.prompt, 2, 30, True, GREEDY)
    prefill = served.start(
        Step(3, (1,), (entering,), (AppendPages(1, (3, 2)),), (RowWork(1, 2, 0),))
    )
    emitted += ahead.result().items[0].tokens
    assert emitted == expected[0][: len(emitted)]
    fresh = list(prefill.result().items[0].tokens)
    flights = [served.start(Step(number, (), (), (), (RowWork(1, 0, 3),))) for number in (4, 5, 6)]
    fresh += [token for flight in flights for token in flight.result().items[0].tokens]
    assert fresh == expected[1][: len(fresh)]


def test_pages_that_come_while_a_step_is_in_flight_are_written(model: Model) -> None:
    served = device_engine(model("llama"), model("llama"))
    [whole] = drive(tiny.engine(model("llama")), [RowSpec((5,) * 25, 40)], DrivePlan())
    emitted = start(served, NewRow(1, (5,) * 25, 25, 40, True, GREEDY))
    steps = [(), (AppendPages(1, (9,)),), (AppendPages(1, (7,)),)]
    flights = [
        served.start(Step(2 + at, (), (), grow, (RowWork(1, 0, 5),)))
        for at, grow in enumerate(steps)
    ]
    for flight in flights:
        emitted += flight.result().items[0].tokens
    assert emitted == whole[: 1 + 3 * 6]


def test_more_rows_than_the_devices_table_holds_take_turns(model: Model) -> None:
    served = device_engine(model("llama"), model("llama", 1), max_rows=2)
    asks = [RowSpec((5, 6, id), 14) for id in range(7)]
    expected = drive(tiny.engine(model("llama")), asks, DrivePlan(batch=1))
    served.reset()
    tokens: list[list[int]] = []
    for id, ask in enumerate(asks):
        new, grow = (
            NewRow(id, ask.prompt, 3, 14, True, GREEDY),
            AppendPages(id, (1 + 2 * id, 2 + 2 * id)),
        )
        first = served.execute(Step(1, (), (new,), (grow,), (RowWork(id, 3, 0),)))
        tokens.append(list(first.items[0].tokens))
    for _ in range(5):
        flights = [
            served.start(Step(2, (), (), (), (RowWork(id, 0, 2), RowWork((id + 1) % 7, 0, 2))))
            for id in range(7)
        ]
        for item in (item for flight in flights for item in flight.result().items):
            tokens[item.id] += item.tokens
    assert tokens == [whole[: len(part)] for whole, part in zip(expected, tokens, strict=True)]
    assert all(len(part) > 8 for part in tokens)


@dataclass
class SlowEngine:
    """An engine whose Steps land when a later one has started, or when no other Step comes."""

    started: list[int]
    wanted: int

    def ready(self) -> Ready:
        return Ready(0, "", "cpu", "", 16, 1, 1, 1, 1, 0, 0.0, 0.0)

    def start(self, step: Step) -> SlowHandle:
        self.started.append(step.number)
        return SlowHandle(self, step.number)

    def prepare(self, grammar: str) -> None:
        raise NotImplementedError

    def load_adapter(self, number: int, path: str) -> int:
        raise NotImplementedError

    def unload_adapter(self, number: int) -> None:
        raise NotImplementedError

    def reset(self) -> None:
        raise RouterGone


@dataclass
class RouterGone(Exception):
    """The router is gone."""


@dataclass
class SlowHandle:
    engine: SlowEngine
    number: int

    def is_complete(self) -> bool:
        return len(self.engine.started) >= min(self.number + 1, self.engine.wanted)

    def result(self) -> StepResult:
        assert self.is_complete()
        return StepResult(self.number, 0.0, (), len(self.engine.started))


@contextmanager
def serving(engine: SlowEngine) -> Iterator[tuple[RankConnection, list[Exception]]]:
    """A connection to a shard that serves `engine`, and in the end what it raised."""
    raised: list[Exception] = []
    listens = Event()

    def work() -> None:
        try:
            serve(engine, config, listens.set)
        except (RouterGone, RuntimeError) as fault:
            raised.append(fault)

    with socket_folder() as place:
        config = replace(ECHO, socket=str(place / "s.sock"))
        thread = Thread(target=work)
        thread.start()
        assert listens.wait(10)
        with RankConnection(config.socket) as wire:
            wire.greet(config)
            yield wire, raised
        thread.join(10)


def test_a_shard_starts_the_next_step_while_one_is_in_flight_and_answers_in_order() -> None:
    steps = [Step(number, (), (), (), ()) for number in (1, 2, 3)]
    with serving(SlowEngine([], 3)) as (wire, raised):
        wire.send(*steps[:2])
        first = wire.receive()
        wire.send(steps[2])
        answers = [first, wire.receive(), wire.receive()]
    assert answers == [StepResult(n, 0.0, (), d) for n, d in ((1, 2), (2, 3), (3, 3))]
    assert raised == [RouterGone()]


def test_a_flight_that_fails_ends_the_process_with_a_word_to_the_router() -> None:
    class FailingEngine(SlowEngine):
        def start(self, step: Step) -> Any:
            return FailedHandle()

    class FailedHandle:
        def is_complete(self) -> bool:
            return True

        def result(self) -> StepResult:
            raise RuntimeError("the device is lost")

    with serving(FailingEngine([], 1)) as (wire, raised):
        wire.send(Step(1, (), (), (), ()))
        assert wire.receive() == Fatal(1, "RuntimeError: the device is lost")
    assert [str(fault) for fault in raised] == ["the device is lost"]
