"""The loop over the shipped schedulers and echo ranks in processes of their own."""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from router.capacity import combined_capacity
from router.config import Limits
from router.dispatch.dispatcher import Dispatcher
from router.dispatch.events import HEALTH_CHECK_SECONDS
from router.dispatch.intake import Intake
from router.dispatch.step_log import StepLog
from router.errors import (
    Cancelled,
    EngineFault,
    GenerationFailed,
    Overloaded,
    RouterError,
    Unavailable,
    ValidationError,
)
from router.observability.metrics import Metrics
from router.requests.record import LiveRequest
from router.requests.request import Request, resolve_limits
from router.requests.tokens import GeneratedToken
from router.scheduler import build
from router.scheduler.api import Job, Scheduler, SchedulerStatus
from router.scheduler.config import SchedulerConfig
from router.shards.group import ShardGroup
from router.shards.watchdog import MIN_TIMEOUT_SECONDS
from router.text.encoder import Encoder
from router.text.grammar import GrammarKind, GrammarSource
from router.text.tokenizer import Tokenizer
from router.text.worker_pool import WorkerFiles, WorkerPool
from shard.config import ShardConfig
from shard.echo.echo_engine import EchoEngine
from shard.echo.replies import full_reply, reply_logprob
from shard.wire.protocol import (
    HEADER_BYTES,
    End,
    Message,
    Ping,
    Pong,
    Prepare,
    Prepared,
    RowResult,
    Sampling,
    Step,
    StepResult,
    unpack,
)
from tests.support.families import FAMILIES
from tests.support.ranks import ECHO, RankProcess, echo_group
from tests.support.scripted_ranks import ScriptedRank, listening

TOKENIZER = FAMILIES["byte_level"]
POLICIES = ("laps-sd", "fcfs", "las", "sjf")


class SeenMetrics(Metrics):
    """Metrics that a test can wait on: how many Steps are done, and the View after each."""

    steps = 0
    seconds = 0.0
    """Of the Steps that served a row."""
    view: Callable[[], SchedulerStatus]
    changed: asyncio.Event

    mixed = 0

    def step_completed(
        self, method: str, rows: int, seconds: float, *, mixed: bool = False
    ) -> None:
        super().step_completed(method, rows, seconds, mixed=mixed)
        self.steps += 1
        self.mixed += mixed
        self.seconds += seconds if rows else 0.0
        self.changed.set()

    async def until(self, holds: Callable[[SchedulerStatus], bool]) -> None:
        while not holds(self.view()):
            self.changed.clear()
            await self.changed.wait()

    async def until_steps(self, count: int) -> None:
        """Wait until `count` Steps are done."""
        await self.until(lambda _: self.steps >= count)

    async def until_empty(self) -> None:
        """Wait until every page is free."""
        await self.until(lambda view: view.free_pages == self._capacity.pages)


@dataclass
class Serving:
    """A running dispatcher and what stands around it."""

    dispatcher: Dispatcher
    intake: Intake
    scheduler: Scheduler
    metrics: SeenMetrics
    running: asyncio.Task[None]

    async def end(self) -> None:
        """End the dispatcher, as the router does when its launcher has exited."""
        self.running.cancel()
        with suppress(asyncio.CancelledError):
            await self.running

    async def until_unhealthy(self, reason: str | None) -> None:
        """Wait until the dispatcher is healthy, or not healthy for this `reason`."""
        while self.dispatcher.view.unhealthy_reason() != reason:  # noqa: ASYNC110  it has no event
            await asyncio.sleep(0)

    async def until_live(self, count: int) -> None:
        """Wait until `count` requests are live."""
        while self.dispatcher.view.live_count != count:  # noqa: ASYNC110  it has no event
            await asyncio.sleep(0)

    async def until_restarting(self) -> None:
        """Wait until the dispatcher knows that the shards have failed."""
        while not self.dispatcher.view.seconds_to_restart():  # noqa: ASYNC110  it has no event
            await asyncio.sleep(0)

    @asynccontextmanager
    async def open(self, request_id: str, *requests: Request) -> AsyncIterator[list[LiveRequest]]:
        """The live `requests`, after the whole intake."""

        async def precheck() -> ValidRequests:
            return ValidRequests(requests)

        async with self.intake.open(request_id, precheck) as (_, records):
            yield records


@dataclass(frozen=True)
class ValidRequests:
    """A Generation without any rules."""

    requests: Sequence[Request]

    async def validate(self) -> Sequence[Request]:
        return self.requests

    def grammar(self) -> GrammarSource | None:
        text = self.requests[0].grammar
        return None if text is None else GrammarSource(GrammarKind.LARK, text)


class CompiledGrammars:
    """A compiler of grammars that are compiled already."""

    async def compile(self, source: GrammarSource | None) -> str | None:
        return None if source is None else source.text


@asynccontextmanager
async def serving(
    paths: Sequence[str],
    policy: str = "laps-sd",
    longest: int | None = None,
    clock: Callable[[], float] | None = None,
    log: Path | None = None,
    load_seconds: float = 0.0,
    **limits: Any,
) -> AsyncIterator[Serving]:
    """A dispatcher over the ranks at `paths`."""
    async with ShardGroup.connect(paths) as shards:
        limits = {"max_batch_prefill_tokens": 64, **limits}
        bounds = resolve_limits(Limits(**limits), longest or shards.ready_messages[0].max_length)
        capacity = combined_capacity(shards.ready_messages, bounds)
        metrics = SeenMetrics(bounds, capacity)
        metrics.changed = asyncio.Event()
        scheduler = build(SchedulerConfig(scheduler=policy), capacity)
        options: dict[str, Any] = {"clock": clock} if clock else {}
        options |= {"log": StepLog(str(log), capacity)} if log else {}
        options |= {"max_queue_seconds": bounds.max_queue_seconds or math.inf}
        options |= {"load_seconds": load_seconds, "max_unread_tokens": bounds.max_unread_tokens}
        encoder = Encoder(Tokenizer(TOKENIZER), WorkerPool(WorkerFiles("", 0)))
        permits = bounds.max_concurrent_requests
        dispatcher = Dispatcher(scheduler, shards, encoder.tokenizer, permits, metrics, **options)
        grammars: Any = CompiledGrammars()
        intake = Intake(dispatcher, encoder, grammars, bounds, capacity.page_size, 1 << 31)
        metrics.view = dispatcher.view.scheduler_status
        running = asyncio.ensure_future(dispatcher.run())
        server = Serving(dispatcher, intake, scheduler, metrics, running)
        try:
            yield server
        finally:
            await server.end()


@asynccontextmanager
async def echoing(
    world: int = 1, shard: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[tuple[Serving, list[RankProcess]]]:
    """A dispatcher over `world` echo processes."""
    with echo_group(world, **(shard or {})) as ranks:
        async with serving([rank.config.socket for rank in ranks], **options) as server:
            yield server, ranks


class EngineRank(ScriptedRank):
    """An echo engine inside the test, whose results `twist` may change."""

    def __init__(self, number: int, world: int = 1) -> None:
        super().__init__(number)
        self.config: ShardConfig = replace(ECHO, rank=number, world=world)
        self.engine = EchoEngine(self.config)
        self.twist: Callable[[StepResult], StepResult] = lambda result: result
        self.silent = False
        self.prepares = True
        self.asked = asyncio.Event()
        """Set when a grammar is to be prepared."""
        self.messages: list[Message | None] = []
        """What was dealt with."""

    def greet(self, hello: Message) -> None:
        self.send(self.engine.ready())

    def _on_frame(self, frame: bytes) -> None:
        super()._on_frame(frame)
        while not self._messages.empty() and not self.silent:
            message = self._messages.get_nowait()
            self.messages.append(message)
            if isinstance(message, Step):
                self.send(self.twist(self.engine.execute(message)))
            if isinstance(message, Prepare):
                self.asked.set()
                self.send(*[Prepared(message.number)] * self.prepares)
            if isinstance(message, Ping):
                self.send(Pong(message.nonce, 0, 0))


def ask(inputs: str = "hello world", max_new: int = 20, seed: int = 0, **more: Any) -> Request:
    return Request(inputs, Sampling(seed=seed), max_new_tokens=max_new, **more)


def prompt_of(request: Request) -> list[int]:
    ids: list[int] = TOKENIZER.encode(request.inputs).ids
    return ids if request.truncate is None else ids[-request.truncate :]


def expected(request: Request) -> tuple[tuple[int, ...], End]:
    prompt, most = prompt_of(request), request.max_new_tokens
    assert most is not None
    return full_reply(prompt, request.sampling.seed, most, request.ignore_eos)


async def read(record: LiveRequest) -> list[GeneratedToken]:
    return [record.tokens[number - 1] async for number in record.numbers()]


async def finish(server: Serving, *requests: Request) -> LiveRequest:
    """The last of `requests`, once all have ended."""
    async with server.open("id", *requests) as records:
        for record in records:
            await read(record)
    return records[-1]


def mixed_requests(count: int, seed: int = 0) -> list[Request]:
    chance = random.Random(seed)
    letters = "abcdefgh the world 世界😀"
    return [
        ask(
            "".join(chance.choices(letters, k=chance.randint(1, 120))),
            chance.randint(1, 60),
            seed=chance.randrange(2**64),
            ignore_eos=chance.random() < 0.3,
            speculate=chance.choice([None, None, 0, 1, 2]),
            truncate=chance.choice([None, 7]),
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("world", [1, 2])
async def test_sixty_four_mixed_requests_get_exactly_their_replies(world: int, policy: str) -> None:
    """Too few pages for all, so rows are evicted and come back."""
    requests = mixed_requests(64)
    shard = {"max_batch_total_tokens": 1024, "max_total_tokens": 400, "max_rows": 16}
    async with echoing(world, shard, policy=policy) as (server, _):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(finish(server, request)) for request in requests]
        records = [task.result() for task in tasks]
        await server.metrics.until_empty()
    assert 0 < server.metrics.mixed < server.metrics.steps
    for request, record in zip(requests, records, strict=True):
        tokens, end = expected(request)
        assert (tuple(record.output_ids), record.finish_reason) == (tokens, end.value)
        assert record.text == "".join(token.text for token in record.tokens if not token.special)
        assert record.accepted <= record.drafted
        assert record.arrived <= record.queued <= record.started
        assert record.started <= record.first_token <= record.last_token <= record.ended


@pytest.mark.parametrize("world", [1, 2])
@pytest.mark.parametrize(("rung", "host"), [("recompute", 0), ("swap", 1024)])
async def test_a_row_that_gave_up_its_pages_goes_on_where_it_was(
    rung: str, host: int, world: int
) -> None:
    """First come, first served, which lets in more than there is room for in the end."""
    shard = {"max_batch_total_tokens": 256, "max_total_tokens": 256, "max_rows": 8}
    shard["max_swap_tokens"] = host
    requests = [ask(f"request {n}", 100, seed=n, ignore_eos=True) for n in range(8)]
    async with echoing(world, shard, policy="fcfs") as (server, _):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(finish(server, request)) for request in requests]
        view = server.scheduler.status()
    records = [task.result() for task in tasks]
    assert view.preemptions[rung] > 0
    for kind, count in view.preemptions.items():
        assert sum(record.preemptions[kind] for record in records) == count
    assert [tuple(record.output_ids) for record in records] == [
        expected(request)[0] for request in requests
    ]


@pytest.mark.parametrize("world", [1, 2])
async def test_a_shared_prompt_is_not_fed_again_unless_it_is_to_be_told(world: int) -> None:
    text = "a common beginning " * 40
    plain, told = ask(text, 30), ask(text, 30, decoder_input_details=True)
    async with echoing(world) as (server, _):
        records = [await finish(server, request) for request in (plain, plain, told, plain)]
    assert [tuple(record.output_ids) for record in records] == [expected(plain)[0]] * 4
    first, second, third, fourth = (record.steps for record in records)
    assert second < first, "a prompt of several chunks took one"
    assert [record.cached_tokens for record in records] == [0, 720, 0, 720]
    assert third == first
    assert fourth == second
    assert [token.logprob is None for token in records[2].prompt_tokens].count(True) == 1


async def test_a_prompt_is_shared_only_under_the_same_salt() -> None:
    request = ask("a common beginning " * 40, 30)
    salts = (None, "one", "two", "one", None)
    async with echoing() as (server, _):
        records = [await finish(server, replace(request, cache_salt=salt)) for salt in salts]
    assert {tuple(record.output_ids) for record in records} == {expected(request)[0]}
    plain, one, two, one_again, plain_again = (record.steps for record in records)
    assert plain == one == two
    assert one_again == plain_again < plain


async def test_what_a_request_wishes_for_its_turn_reaches_the_scheduler() -> None:
    options: dict[str, Any] = {"expected_new_tokens": 7, "priority": -3, "speculate": 1, "route": 1}
    async with echoing() as (server, _):
        jobs: list[Job] = []
        submit = server.scheduler.submit

        def seen(job: Job, now: float) -> None:
            jobs.append(job)
            submit(job, now)

        server.scheduler.submit = seen  # type: ignore[method-assign]
        await finish(server, ask(user="someone", **options))
        await finish(server, ask())
    wished, plain = jobs
    assert (wished.expected, wished.priority, wished.speculate, wished.route) == (7, -3, 1, 1)
    assert wished.tenant == ask(user="someone").tenant
    assert (plain.expected, plain.priority, plain.tenant, plain.route) == (None, 0, 0, 0)


async def test_a_token_is_streamed_before_the_request_ends() -> None:
    async with echoing() as (server, _):
        async with server.open("id", ask(max_new=2000, ignore_eos=True)) as (record,):
            assert await anext(aiter(record.numbers())) == 1
            assert record.is_live
        assert record.tokens[0].id == expected(ask(max_new=2000, ignore_eos=True))[0][0]


async def test_the_state_shows_a_request_while_it_runs_and_changes_with_each_end() -> None:
    async with echoing() as (server, _):
        before = server.dispatcher.view.server_state()
        assert (before.requests, before.shards.health, before.tokens_per_second) == ([], "ready", 0)
        async with server.open("0123456789", ask("hello", 200, ignore_eos=True)) as (record,):
            await anext(record.numbers())
            changes = server.dispatcher.change_count
            state = server.dispatcher.view.server_state()
        await server.metrics.until_empty()
    (request,) = state.requests
    assert (request.request_id, request.phase, request.max_new_tokens) == (
        "01234567",
        "decode",
        200,
    )
    assert request.emitted_tokens >= 1
    assert state.kv_cache.used == request.pages > 0
    assert state.time_to_first_token.p50 is not None
    assert server.dispatcher.change_count == changes + 1


async def test_the_reason_is_known_when_the_last_token_is_read() -> None:
    async with echoing() as (server, _), server.open("id", ask()) as (record,):
        async for number in record.numbers():
            last = number == len(expected(ask())[0])
            assert last <= (record.finish_reason is not None)
    assert record.finish_reason == expected(ask())[1].value


@pytest.mark.parametrize("read_before", [0, 1, 30])
async def test_a_leaver_frees_its_pages_within_three_steps(read_before: int) -> None:
    async with echoing() as (server, _):
        request = ask("x" * 200, 3000, ignore_eos=True)
        async with server.open("id", request) as (record,):
            stream = aiter(record.numbers())
            for _ in range(read_before):
                await anext(stream)
            await server.metrics.until(lambda view: view.running > 0)
        steps = server.metrics.steps
        await server.metrics.until_empty()
        assert server.metrics.steps - steps <= 3


async def test_a_leaver_that_never_ran_leaves_nothing() -> None:
    async with echoing() as (server, _):
        async with server.open("id", ask()):
            pass
        assert (await finish(server, ask())).finish_reason
        await server.metrics.until_empty()


@pytest.mark.parametrize("host", [0, 1024], ids=["recompute", "swap"])
async def test_random_leavers_disturb_nobody(host: int) -> None:
    chance, requests = random.Random(1), mixed_requests(60, seed=1)

    async def leave(server: Serving, request: Request) -> None:
        async with server.open("id", request) as (record,):
            left = chance.randint(0, 10)
            async for _ in record.numbers():
                left -= 1
                if left < 0:
                    return

    shard = {"max_batch_total_tokens": 1024, "max_total_tokens": 400, "max_rows": 8}
    shard |= {"max_swap_tokens": host}
    async with echoing(2, shard) as (server, _):
        async with asyncio.TaskGroup() as group:
            stay = [group.create_task(finish(server, request)) for request in requests[::2]]
            for request in requests[1::2]:
                group.create_task(leave(server, request))
        await server.metrics.until_empty()
    for request, task in zip(requests[::2], stay, strict=True):
        assert tuple(task.result().output_ids) == expected(request)[0]


@pytest.mark.parametrize("shard", [{}, {"max_swap_tokens": 1024}], ids=["recompute", "swap"])
async def test_streams_whose_clients_do_not_read_are_paused_and_lose_no_token(
    shard: dict[str, Any],
) -> None:
    """Only some read at first; the others hold neither rows nor pages until they read too."""
    requests = [replace(each, ignore_eos=True) for each in mixed_requests(16, seed=5)]
    requests = [replace(each, max_new_tokens=60) for each in requests]
    limits = {"max_unread_tokens": 8}
    async with echoing(2, shard, **limits) as (server, _), server.open("id", *requests) as records:
        silent = [aiter(record.numbers()) for record in records[::2]]
        assert await asyncio.gather(*map(anext, silent)) == [1] * len(silent)
        await asyncio.gather(*map(read, records[1::2]))
        await server.metrics.until_empty()
        assert server.dispatcher.view.paused_count == len(silent)
        assert min(len(record.tokens) for record in records[::2]) > 8
        assert all(record.is_live for record in records[::2])
        for stream in silent:
            assert [number async for number in stream] == list(range(2, 61))
        assert server.dispatcher.view.paused_count == 0
    for request, record in zip(requests, records, strict=True):
        assert tuple(record.output_ids) == expected(request)[0]


async def test_an_answer_that_is_not_streamed_is_never_paused() -> None:
    async with echoing(max_unread_tokens=1) as (server, _):
        async with server.open("id", ask(max_new=60, ignore_eos=True)) as (record,):
            await record.wait()
        assert len(record.tokens) == 60


async def test_a_paused_stream_ends_with_its_client_and_survives_the_shards() -> None:
    requests = [ask(max_new=60, ignore_eos=True, seed=seed) for seed in range(2)]
    async with (
        echoing(max_unread_tokens=4) as (server, ranks),
        server.open("stays", requests[0]) as (stays,),
    ):
        stream = aiter(stays.numbers())
        await anext(stream)
        async with server.open("leaves", requests[1]) as (leaves,):
            await anext(aiter(leaves.numbers()))
            await server.metrics.until(lambda _: server.dispatcher.view.paused_count == 2)
        await server.metrics.until_empty()
        await server.until_live(1)
        assert server.dispatcher.view.paused_count == 1
        ranks[0].process.kill()
        await server.until_unhealthy("restarting")
        async with resumed(server):
            assert [number async for number in stream] == list(range(2, 61))
    assert tuple(stays.output_ids) == expected(requests[0])[0]


@pytest.mark.parametrize("fails", [False, True], ids=["answered", "lost"])
async def test_a_stream_that_is_read_while_its_last_step_is_in_flight_goes_on(fails: bool) -> None:
    """The Step's result brings tokens after the client has caught up, or never comes."""
    rank, request = EngineRank(0), ask(max_new=60, ignore_eos=True)
    async with (
        listening(rank) as paths,
        serving(paths, max_unread_tokens=1) as server,
        server.open("id", request) as (record,),
    ):
        stream = aiter(record.numbers())
        await anext(stream)
        rank.silent = True
        while not server.dispatcher.view.paused_count:
            step = await rank.next_message()
            assert isinstance(step, Step)
            done = server.metrics.steps
            rank.send(rank.engine.execute(step))
            await server.metrics.until_steps(done + 1)
        last = await rank.next_message()
        assert isinstance(last, Step)
        while record.unread:
            await anext(stream)
        rank.silent = False
        if fails:
            rank.disconnect()
            await server.until_unhealthy("restarting")
        else:
            rank.send(rank.engine.execute(last))
        async with resumed(server) if fails else nullcontext():
            assert [number async for number in stream][-1] == 60
    assert tuple(record.output_ids) == expected(request)[0]


async def test_a_cancelled_caller_cancels_its_request() -> None:
    async with echoing() as (server, _):
        task = asyncio.ensure_future(finish(server, ask(max_new=3000, ignore_eos=True)))
        await server.metrics.until(lambda view: view.running > 0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await server.metrics.until_empty()


async def test_a_stop_string_ends_the_text_and_frees_the_row() -> None:
    request = ask(max_new=500, ignore_eos=True)
    tokens, _ = expected(request)
    text = TOKENIZER.decode(list(tokens))
    stop = text[40:43]
    async with echoing() as (server, _):
        record = await finish(server, replace(request, stop=("never so", stop)))
        await server.metrics.until_empty()
    assert record.finish_reason == "stop_sequence"
    assert record.text.count(stop) == 1
    assert text.startswith(record.text)
    assert tuple(record.output_ids) == tokens[: len(record.output_ids)]
    assert stop not in TOKENIZER.decode(record.output_ids[:-1])


async def test_the_length_is_named_before_a_stop_string_at_the_same_token() -> None:
    request = ask(max_new=5, ignore_eos=True)
    text = TOKENIZER.decode(list(expected(request)[0]))
    async with echoing() as (server, _):
        record = await finish(server, replace(request, stop=(text,)))
    assert record.finish_reason == "length"


async def test_a_waiting_request_is_told_how_it_stands() -> None:
    long = ask(max_new=2000, ignore_eos=True)
    shard = {"echo_seconds": 0.001}
    async with echoing(shard=shard, max_batch_size=1, policy="fcfs") as (server, _):
        dispatcher = server.dispatcher
        async with server.open("first", long) as (first,), server.open("second", ask()):
            stream = aiter(first.numbers())
            for _ in range(20):
                await anext(stream)
            [(record, runs)], [(_, waits)] = (
                dispatcher.view.request_statuses("first"),
                dispatcher.view.request_statuses("second"),
            )
            assert record is first
            assert runs
            assert runs.wait == 0
            assert 0 < runs.device_seconds == pytest.approx(first.device_seconds)
            assert waits
            assert waits.wait > 0
            assert waits.device_seconds == 0
        await server.metrics.until_empty()
        for ended in ("first", "second"):
            assert dispatcher.view.request_statuses(ended) == []


async def test_a_request_of_a_lower_priority_number_goes_first() -> None:
    shard = {"echo_seconds": 0.001}
    async with echoing(shard=shard, max_batch_size=1) as (server, _):
        asked = [ask(seed=0, max_new=200, ignore_eos=True), ask(seed=1), ask(seed=1, priority=-1)]
        async with server.open("id", *asked) as records:
            await asyncio.gather(*map(read, records))
    _, plain, urgent = records
    assert urgent.output_ids == plain.output_ids
    assert urgent.ended < plain.ended


async def test_the_service_of_all_requests_is_the_time_of_all_steps() -> None:
    async with echoing(shard={"echo_seconds": 0.002}) as (server, _):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(finish(server, ask(seed=n))) for n in range(5)]
        await server.metrics.until_empty()
    seconds = server.metrics.seconds
    assert sum(task.result().device_seconds for task in tasks) == pytest.approx(seconds)


async def test_the_step_log_says_what_every_step_did_for_every_row(tmp_path: Path) -> None:
    requests = mixed_requests(8, seed=3)
    async with echoing(log=tmp_path / "log") as (server, _):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(finish(server, request)) for request in requests]
        await server.metrics.until_empty()
        pages = server.scheduler.status().free_pages
    head, *steps = map(json.loads, (tmp_path / "log").read_text().splitlines())
    assert head["capacity"]["pages"] == pages
    assert all(step["sent"] <= step["landed"] for step in steps)
    for record in (task.result() for task in tasks):
        rows = [row[1:] for step in steps for row in step["rows"] if row[0] == record.id]
        assert len(rows) == record.steps
        _, prefilled, drafted, accepted, emitted = map(sum, zip(*rows, strict=True))
        assert (drafted, accepted, emitted) == (record.drafted, record.accepted, len(record.tokens))
        assert 0 < prefilled <= len(record.prompt)
        known = len(record.prompt)
        for row in rows:
            assert row[0] == known
            known += row[4]


async def test_a_step_has_at_most_one_token_for_a_request_that_does_not_speculate(
    tmp_path: Path,
) -> None:
    """So the number of tokens that arrive together says nothing about the text."""
    secret, other = ask(max_new=40, ignore_eos=True, speculate=0), ask(max_new=40, ignore_eos=True)
    async with echoing(log=tmp_path / "log") as (server, _):
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(finish(server, request)) for request in (secret, other)]
        await server.metrics.until_empty()
    _, *steps = map(json.loads, (tmp_path / "log").read_text().splitlines())
    first, second = (
        [row[5] for step in steps for row in step["rows"] if row[0] == task.result().id]
        for task in tasks
    )
    assert sum(first) == sum(second) == 40
    assert max(first) == 1 < max(second)


async def test_a_request_is_cancelled_by_its_id() -> None:
    async with echoing() as (server, _):
        async with server.open("mine", ask(max_new=3000, ignore_eos=True)) as (record,):
            stream = aiter(record.numbers())
            await anext(stream)
            assert server.dispatcher.cancel("another") == 0
            assert server.dispatcher.cancel("mine") == 1
            with pytest.raises(Cancelled):
                await read(record)
        assert server.dispatcher.cancel("mine") == 0
        await server.metrics.until_empty()


async def test_of_callers_that_share_an_id_the_newest_is_cancelled() -> None:
    endless = [ask(max_new=3000, seed=seed, ignore_eos=True) for seed in range(2)]
    async with (
        echoing() as (server, _),
        server.open("mine", *endless) as older,
        server.open("mine", *endless) as newer,
    ):
        shown = [record for record, _ in server.dispatcher.view.request_statuses("mine")]
        assert shown == newer
        assert server.dispatcher.cancel("mine") == 2
        assert [record.is_live for record in (*older, *newer)] == [True, True, False, False]
        assert server.dispatcher.cancel("mine") == 2
        assert not any(record.is_live for record in older)
        assert server.dispatcher.cancel("mine") == 0


@asynccontextmanager
async def resumed(
    server: Serving, world: int = 1, **shard: Any
) -> AsyncIterator[list[RankProcess]]:
    """New echo ranks, on which the dispatcher goes on."""
    with echo_group(world, **shard) as ranks:
        async with ShardGroup.connect([rank.config.socket for rank in ranks]) as shards:
            await server.dispatcher.resume(shards)
            yield ranks


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("host", [0, 1024], ids=["recompute", "swap"])
async def test_streams_go_on_with_the_same_tokens_whenever_a_rank_has_died(
    victim: int, host: int
) -> None:
    """Pages are few, so that some rows wait, or gave up their pages, when it happens."""
    requests = [replace(each, ignore_eos=True) for each in mixed_requests(40, seed=victim)]
    shard = {"max_batch_total_tokens": 1024, "max_total_tokens": 400, "max_rows": 16}
    shard |= {"max_swap_tokens": host}
    async with echoing(2, shard) as (server, ranks), AsyncExitStack() as stack:
        tasks = [asyncio.ensure_future(finish(server, request)) for request in requests]
        for _ in range(3):
            await server.metrics.until_steps(server.metrics.steps + 8)
            ranks[victim].process.kill()
            await server.until_unhealthy("restarting")
            ranks = await stack.enter_async_context(resumed(server, 2, **shard))
        records = await asyncio.gather(*tasks)
        await server.metrics.until_empty()
        assert server.dispatcher.view.unhealthy_reason() is None
        assert b"\ntgi_shard_restarts 3.0\n" in server.metrics.render()
    for request, record in zip(requests, records, strict=True):
        assert (tuple(record.output_ids), record.finish_reason) == (
            expected(request)[0],
            expected(request)[1].value,
        )


async def test_a_step_that_was_in_flight_when_the_shards_failed_counts_once() -> None:
    """The rank dies with two Steps in flight, of which it has executed one."""
    rank, request = EngineRank(0), ask(max_new=30, ignore_eos=True)
    async with listening(rank) as paths, serving(paths) as server:
        async with server.open("id", request) as (record,):
            stream = aiter(record.numbers())
            await anext(stream)
            rank.silent = True
            seen = [await rank.next_message(), await rank.next_message()]
            assert isinstance(seen[0], Step)
            rank.engine.execute(seen[0])
            rank.disconnect()
            await server.until_unhealthy("restarting")
            before = len(record.tokens)
            async with resumed(server):
                await read(record)
        assert 0 < before < 30
        assert tuple(record.output_ids) == expected(request)[0]


@pytest.mark.parametrize("steps", [1, 3, 6])
async def test_a_prompt_that_was_half_computed_is_computed_and_reported_again(steps: int) -> None:
    request = ask("hello world " * 80, seed=3, max_new=9, decoder_input_details=True)
    rank = EngineRank(0)
    async with listening(rank) as paths, serving(paths, max_batch_prefill_tokens=32) as server:
        async with server.open("id", request) as (record,):
            await server.metrics.until_steps(steps)
            rank.disconnect()
            await server.until_unhealthy("restarting")
            assert not record._prompt_report.is_complete, "the prompt was complete"
            async with resumed(server):
                assert [token.id for token in await read(record)] == list(expected(request)[0])
        logprobs = [token.logprob for token in record.prompt_tokens]
    assert logprobs == [None, *(reply_logprob(3, n) for n in range(1, len(record.prompt)))]


async def test_requests_that_arrive_without_shards_wait_within_their_permits() -> None:
    async with echoing(max_concurrent_requests=2) as (server, ranks):
        ranks[0].process.kill()
        await server.until_unhealthy("restarting")
        async with server.open("1", ask(seed=1)) as (first,), server.open("2", ask(seed=2)):
            with pytest.raises(Overloaded):
                await finish(server, ask())
            assert b"\ntgi_shards_ready 0.0\n" in server.metrics.render()
            async with resumed(server):
                assert [token.id for token in await read(first)] == list(expected(ask(seed=1))[0])
                assert b"\ntgi_shards_ready 1.0\n" in server.metrics.render()


async def test_a_caller_that_leaves_while_there_are_no_shards_is_forgotten() -> None:
    async with echoing() as (server, ranks):
        async with server.open("1", ask(max_new=3000, ignore_eos=True)) as (record,):
            await anext(aiter(record.numbers()))
            ranks[0].process.kill()
            await server.until_unhealthy("restarting")
        async with server.open("2", ask(max_new=3000, ignore_eos=True)):
            assert server.dispatcher.cancel("2") == 1
        async with resumed(server):
            assert (await finish(server, ask())).finish_reason
            await server.metrics.until_empty()
            assert server.dispatcher.view.request_statuses("1") == []


async def test_new_ranks_prepare_the_grammars_of_live_requests_before_any_row_is_sent() -> None:
    old, new = EngineRank(0), EngineRank(0)
    new.prepares = False
    async with listening(old) as paths, listening(new) as new_paths, serving(paths) as server:
        endless = [ask(max_new=500, seed=n, grammar="a", ignore_eos=True) for n in range(2)]
        async with server.open("id", *endless) as records:
            for record in records:
                await anext(aiter(record.numbers()))
            old.disconnect()
            await server.until_unhealthy("restarting")
            during = asyncio.ensure_future(finish(server, ask(grammar="b")))
            async with ShardGroup.connect(new_paths) as shards:
                resuming = asyncio.ensure_future(server.dispatcher.resume(shards))
                await new.asked.wait()
                assert [m for m in new.messages if not isinstance(m, Ping)] == [Prepare(1, "a")]
                assert not resuming.done()
                new.prepares = True
                new.send(Prepared(1))
                await resuming
                assert (await during).finish_reason
                await asyncio.gather(*map(read, records))
            kinds = [type(message) for message in new.messages if not isinstance(message, Ping)]
            assert kinds.index(Step) == 1
            assert new.messages.count(Prepare(2, "b")) == 1
    for request, record in zip(endless, records, strict=True):
        assert tuple(record.output_ids) == expected(request)[0]


async def test_live_requests_end_with_an_error_if_no_shards_come_back() -> None:
    async with echoing(2) as (server, ranks):
        async with server.open("1", ask(max_new=3000, ignore_eos=True)) as (record,):
            await anext(aiter(record.numbers()))
            ranks[1].process.kill()
            await server.until_unhealthy("restarting")
            waiting = asyncio.ensure_future(finish(server, ask(grammar="a")))
            await asyncio.sleep(0)
            await server.end()
            with pytest.raises(GenerationFailed):
                await read(record)
        with pytest.raises(Unavailable, match="Model is unavailable"):
            await waiting
        assert server.dispatcher.view.unhealthy_reason() == "failed"
        with pytest.raises(Unavailable, match="Model is unavailable"):
            await finish(server, ask())


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ("", "the model gave no usable result"),
        ("the grammar exceeds the limits of its parser",) * 2,
    ],
)
async def test_an_error_in_one_row_ends_that_request_alone_and_says_why(
    fault: str, text: str
) -> None:
    rank = EngineRank(0)
    poison: dict[int, RowResult] = {2: RowResult(2, (), (), 0, 0, End.ERROR, fault=fault)}
    rank.twist = lambda result: replace(
        result, items=tuple(poison.get(item.id, item) for item in result.items)
    )
    async with listening(rank) as paths, serving(paths) as server:
        tasks = [asyncio.ensure_future(finish(server, ask(seed=n))) for n in range(3)]
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await server.metrics.until_empty()
    whole = {n: record for n, record in enumerate(results) if isinstance(record, LiveRequest)}
    [error] = [result for result in results if isinstance(result, Exception)]
    assert isinstance(error, GenerationFailed)
    assert text in str(error)
    assert len(whole) == 2  # rows are numbered in the order in which their texts were encoded
    for number, record in whole.items():
        assert tuple(record.output_ids) == expected(ask(seed=number))[0]


async def test_a_row_is_sent_when_all_ranks_have_its_grammar_and_others_do_not_wait() -> None:
    rank = EngineRank(0)
    rank.prepares = False
    async with listening(rank) as paths, serving(paths) as server:
        task = asyncio.ensure_future(finish(server, ask(seed=1, grammar="a")))
        await rank.asked.wait()
        await finish(server, ask(seed=2))
        news = [new for step in rank.messages if isinstance(step, Step) for new in step.new]
        assert [new.grammar for new in news] == [None]
        rank.send(Prepared(1))
        assert tuple((await task).output_ids) == expected(ask(seed=1))[0]


async def test_an_end_without_a_token_is_incomplete() -> None:
    rank = EngineRank(0)
    rank.twist = lambda result: replace(
        result, items=tuple(RowResult(item.id, (), (), 0, 0, End.EOS) for item in result.items)
    )
    async with listening(rank) as paths, serving(paths) as server:
        with pytest.raises(RouterError, match="Incomplete generation"):
            await finish(server, ask())


async def test_a_request_that_can_never_fit_is_invalid() -> None:
    rank = EngineRank(0)
    rank.engine = EchoEngine(replace(rank.config, max_batch_total_tokens=64))
    async with listening(rank) as paths, serving(paths, longest=200) as server:
        with pytest.raises(ValidationError, match="pages"):
            await finish(server, ask(max_new=100))
        assert (await finish(server, ask())).finish_reason


async def test_a_prompt_over_the_limit_is_invalid_before_anything_runs() -> None:
    async with echoing(max_input_tokens=10) as (server, _):
        with pytest.raises(ValidationError, match="must have less than 10 tokens"):
            await finish(server, ask("x" * 11))
        assert server.metrics.steps == 0


async def test_more_requests_than_permits_are_refused_until_one_leaves() -> None:
    async with echoing(max_concurrent_requests=2) as (server, _):
        async with server.open("1", ask()), server.open("2", ask()):
            with pytest.raises(Overloaded):
                await finish(server, ask())
        assert (await finish(server, ask())).finish_reason


@dataclass
class Clock:
    """A clock that only the test advances."""

    now: float = 0.0

    def read(self) -> float:
        return self.now


@asynccontextmanager
async def full_server(clock: Clock, **options: Any) -> AsyncIterator[Serving]:
    """A server with one row, on which a request of 1000 tokens runs, but no Step is completed."""
    rank = EngineRank(0)
    rank.silent = True
    options = {"policy": "fcfs", "max_batch_size": 1, **options}
    async with (
        listening(rank) as paths,
        serving(paths, clock=clock.read, **options) as server,
        server.open("first", ask(max_new=1000, ignore_eos=True)) as (record,),
    ):
        while not isinstance(await rank.next_message(), Step):
            pass
        yield server
        assert record.is_live, "what runs is never refused"


async def retry_after(server: Serving, *requests: Request) -> int:
    """What the header of a refusal says."""
    with pytest.raises(Overloaded) as refused:
        await finish(server, *requests)
    return int(refused.value.headers["Retry-After"])


async def test_a_refusal_advises_the_time_until_its_permits_are_free() -> None:
    async with full_server(Clock(), max_concurrent_requests=1) as server:
        per_end = server.scheduler.seconds_per_end()
        assert await retry_after(server, ask()) == math.ceil(per_end)
        assert await retry_after(server, ask(), ask(seed=1)) == math.ceil(per_end)
    async with full_server(Clock(), max_concurrent_requests=2) as server:
        assert await retry_after(server, ask(), ask(seed=1)) == math.ceil(per_end)


async def test_a_refusal_during_a_restart_advises_the_time_that_loading_takes() -> None:
    clock = Clock()
    options: dict[str, Any] = {"load_seconds": 40.0, "max_concurrent_requests": 1}
    async with (
        echoing(clock=clock.read, **options) as (server, ranks),
        server.open("1", ask(max_new=3000, ignore_eos=True)) as (record,),
    ):
        await anext(aiter(record.numbers()))
        ranks[0].process.kill()
        await server.until_restarting()
        assert (before := await retry_after(server, ask())) > 40
        clock.now += 30.0
        assert server.dispatcher.view.seconds_to_restart() == 10.0
        assert await retry_after(server, ask()) == before - 30
        async with resumed(server):
            await server.until_unhealthy(None)
            assert server.dispatcher.view.seconds_to_restart() == 0.0


async def test_a_request_that_would_wait_too_long_is_refused_as_it_arrives() -> None:
    async with full_server(Clock(), max_queue_seconds=0.5) as server:
        wait = await retry_after(server, ask())
        assert wait == math.ceil(server.scheduler.seconds_per_end()) > 1
        assert await retry_after(server, ask(seed=1), ask(seed=2)) == wait
        assert server.dispatcher.view.live_count == 1


async def test_a_request_that_has_waited_too_long_is_refused_then() -> None:
    clock = Clock()
    async with full_server(clock, max_queue_seconds=60.0) as server:
        refused = asyncio.ensure_future(retry_after(server, ask(), ask(seed=1)))
        await server.until_live(3)
        clock.now += 60.0
        assert await refused == math.ceil(server.scheduler.seconds_per_end())
        assert server.dispatcher.view.live_count == 1


async def test_requests_that_live_together_get_all_their_permits_or_none() -> None:
    async with echoing(max_concurrent_requests=3) as (server, _):
        pair = [ask(seed=1), ask(seed=2)]
        async with server.open("1", *pair) as records:
            assert {record.request_id for record in records} == {"1"}
            with pytest.raises(Overloaded):
                async with server.open("2", *pair):
                    pass
            for record, request in zip(records, pair, strict=True):
                assert [token.id for token in await read(record)] == list(expected(request)[0])
        long = [ask("on", 1000, seed=n, ignore_eos=True) for n in range(3)]
        async with server.open("3", *long):
            with pytest.raises(Overloaded):
                await finish(server, ask())
            assert server.dispatcher.cancel("3") == 3
        assert (await finish(server, ask())).finish_reason


async def test_prompt_and_likeliest_tokens_come_through_chunks_and_processes() -> None:
    async with echoing(max_batch_prefill_tokens=16) as (server, _):
        request = ask("hello world " * 5, seed=3, decoder_input_details=True, top_n_tokens=3)
        record = await finish(server, request)
        told = [token.logprob for token in record.prompt_tokens]
        assert told[0] is None
        assert told[1:] == [reply_logprob(3, place) for place in range(1, len(record.prompt))]
        for token in record.tokens:
            first, *others = record.top_tokens(token)
            assert len(others) == 2
            assert (first.id, first.logprob) == (token.id, token.logprob)


async def test_a_drain_refuses_new_requests_and_waits_for_the_open_ones() -> None:
    async with echoing() as (server, _):
        assert server.dispatcher.view.unhealthy_reason() is None
        async with server.open("id", ask()) as (record,):
            drained = asyncio.ensure_future(server.dispatcher.drain())
            await asyncio.sleep(0)
            assert server.dispatcher.view.unhealthy_reason() == "draining"
            with pytest.raises(Unavailable, match="shutting down"):
                await finish(server, ask())
            assert not drained.done()
            await read(record)
        await drained
    assert record.finish_reason


async def test_a_hung_group_is_seen_at_once_and_then_replaced() -> None:
    rank, now = EngineRank(0), [0.0]
    rank.silent = True
    async with (
        listening(rank) as paths,
        serving(paths, clock=lambda: now[0]) as server,
        server.open("1", ask()) as (record,),
    ):
        while not isinstance(await rank.next_message(), Step):
            pass
        assert server.dispatcher.view.unhealthy_reason() is None
        while server.dispatcher.view.unhealthy_reason() is None:
            async with server.open("2", ask()):  # an event, after which health is checked
                pass
            now[0] += HEALTH_CHECK_SECONDS
        assert server.dispatcher.view.unhealthy_reason() == "stalled"
        assert now[0] <= 2.0
        while server.dispatcher.view.unhealthy_reason() == "stalled":
            async with server.open("3", ask()):
                pass
            now[0] += HEALTH_CHECK_SECONDS
        assert server.dispatcher.view.unhealthy_reason() == "restarting"
        assert now[0] >= MIN_TIMEOUT_SECONDS
        async with resumed(server):
            assert [token.id for token in await read(record)] == list(expected(ask())[0])


async def test_a_request_that_tokenises_while_the_shards_fail_is_answered_later() -> None:
    async with echoing() as (server, ranks):
        request = ask("the " * 8_000, truncate=5)
        task = asyncio.ensure_future(finish(server, request))
        await asyncio.sleep(0)
        ranks[0].process.kill()
        await server.until_unhealthy("restarting")
        async with resumed(server):
            assert tuple((await task).output_ids) == expected(request)[0]


class PoisonedRank(EngineRank):
    """A rank that dies of any Step with a row whose prompt starts with `poison`."""

    def _on_frame(self, frame: bytes) -> None:
        message = unpack(frame[HEADER_BYTES:])
        if isinstance(message, Step):
            marked = {row.id for row in message.new if row.tokens[0] == POISON[0]}
            if marked & {run.id for run in message.run}:
                self.disconnect()
                self.silent = True
        super()._on_frame(frame)


POISON = TOKENIZER.encode("!").ids


async def test_a_request_that_kills_the_shards_whenever_it_runs_is_ended_alone() -> None:
    """Rows are few and pages too, so that suspects have to take pages from each other."""
    requests = [replace(each, ignore_eos=True) for each in mixed_requests(12, seed=5)]
    ranks = [PoisonedRank(0) for _ in range(4)]
    for rank in ranks:
        rank.config = replace(rank.config, max_rows=6, max_batch_total_tokens=512)
        rank.engine = EchoEngine(rank.config)
    async with AsyncExitStack() as stack:
        paths = [await stack.enter_async_context(listening(rank)) for rank in ranks]
        server = await stack.enter_async_context(serving(paths[0], longest=256))
        tasks = [asyncio.ensure_future(finish(server, request)) for request in requests[:6]]
        poisoned = asyncio.ensure_future(finish(server, ask("! poison", 20)))
        tasks += [asyncio.ensure_future(finish(server, request)) for request in requests[6:]]
        for path in paths[1:]:
            await server.until_unhealthy("restarting")
            shards = await stack.enter_async_context(ShardGroup.connect(path))
            await server.dispatcher.resume(shards)
            await server.until_unhealthy(None)
        with pytest.raises(EngineFault):
            await poisoned
        records = await asyncio.gather(*tasks)
        await server.metrics.until_empty()
    assert [tuple(record.output_ids) for record in records] == [
        expected(request)[0] for request in requests
    ]


class DeadlyGrammar(EngineRank):
    """A rank that closes its connection instead of preparing the grammar `!`."""

    def _on_frame(self, frame: bytes) -> None:
        message = unpack(frame[HEADER_BYTES:])
        if isinstance(message, Prepare) and message.grammar == "!":
            self.disconnect()
            self.silent = True
        super()._on_frame(frame)


async def restart_each(server: Serving, stack: AsyncExitStack, ranks: Sequence[EngineRank]) -> None:
    """Let each of `ranks` take over after a failure; the last one serves."""
    for rank in ranks:
        await server.until_unhealthy("restarting")
        (path,) = await stack.enter_async_context(listening(rank))
        shards = await stack.enter_async_context(ShardGroup.connect([path]))
        restarts = server.metrics.restarts()
        await server.dispatcher.resume(shards)
        while server.metrics.restarts() == restarts:  # noqa: ASYNC110  it has no event
            await asyncio.sleep(0)
    await server.until_unhealthy(None)


async def test_a_grammar_that_kills_each_rank_that_prepares_it_ends_its_request_alone() -> None:
    requests = [ask(seed=n, max_new=300, ignore_eos=True, grammar="ab"[n % 2]) for n in range(6)]
    ranks = [DeadlyGrammar(0) for _ in range(4)]
    async with AsyncExitStack() as stack:
        paths = await stack.enter_async_context(listening(ranks[0]))
        server = await stack.enter_async_context(serving(paths))
        tasks = [asyncio.ensure_future(finish(server, request)) for request in requests]
        await server.metrics.until_steps(5)
        poisoned = asyncio.ensure_future(finish(server, ask(grammar="!")))
        await restart_each(server, stack, ranks[1:])
        for request in (poisoned, finish(server, ask(grammar="!"))):
            with pytest.raises(EngineFault):
                await request
        records = await asyncio.gather(*tasks)
        assert not any(isinstance(m, Prepare) and m.grammar == "!" for m in ranks[-1].messages)
    assert [tuple(record.output_ids) for record in records] == [
        expected(request)[0] for request in requests
    ]


async def test_a_live_request_whose_grammar_kills_the_next_shards_is_ended_alone() -> None:
    ranks = [EngineRank(0), *(DeadlyGrammar(0) for _ in range(4))]
    deadly, harmless = (ask(seed=1, max_new=2000, ignore_eos=True, grammar=text) for text in "!a")
    async with AsyncExitStack() as stack:
        paths = await stack.enter_async_context(listening(ranks[0]))
        server = await stack.enter_async_context(serving(paths))
        tasks = [asyncio.ensure_future(finish(server, each)) for each in (deadly, harmless)]
        await server.metrics.until_steps(5)
        ranks[0].disconnect()
        await restart_each(server, stack, ranks[1:])
        with pytest.raises(EngineFault):
            await tasks[0]
        record = await tasks[1]
    assert tuple(record.output_ids) == expected(harmless)[0]


async def test_a_suspect_grammar_that_no_request_needs_is_not_prepared_again() -> None:
    old, new = DeadlyGrammar(0), DeadlyGrammar(0)
    async with listening(old) as paths, serving(paths) as server, AsyncExitStack() as stack:
        leaver = asyncio.ensure_future(finish(server, ask(grammar="!")))
        await server.until_unhealthy("restarting")
        leaver.cancel()
        await asyncio.gather(leaver, return_exceptions=True)
        await restart_each(server, stack, [new])
        assert (await finish(server, ask(grammar="a"))).finish_reason
        assert Prepare(1, "a") in new.messages
