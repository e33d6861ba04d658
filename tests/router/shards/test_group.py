"""The group of ranks over real sockets: when a step is complete, and when the group fails."""

from __future__ import annotations

import asyncio

import pytest

from router.shards.group import ShardGroup, ShardGroupFailed
from router.shards.watchdog import PING_INTERVAL_SECONDS, SILENCE_SECONDS
from shard.wire.protocol import (
    HEADER_BYTES,
    Ack,
    Fatal,
    Hello,
    Message,
    Ping,
    Pong,
    Prepare,
    Prepared,
    RowWork,
    Step,
    StepResult,
    pack,
    unpack,
)
from tests.support.scripted_ranks import ScriptedRank, connected_group, listening, ready_message

RUN = (RowWork(1, 0, 3),)


def step(number: int) -> Step:
    return Step(number, (), (), (), RUN)


def result(number: int, digest: int = 7, seconds: float = 0.5) -> StepResult:
    return StepResult(number, seconds, (), digest)


async def test_every_rank_is_sent_the_bytes_of_the_step_and_no_others() -> None:
    ranks = [ScriptedRank(number) for number in range(3)]
    async with connected_group(*ranks) as (group, _):
        group.send(step(1), 0.0)
        group.send(step(2), 0.0)
        for rank in ranks:
            assert [await rank.next_message(), await rank.next_message()] == [step(1), step(2)]
        assert [bytes(rank.received) for rank in ranks] == [pack(step(1)) + pack(step(2))] * 3


async def test_a_step_is_complete_when_all_ranks_have_answered_with_the_same_digest() -> None:
    first, second = ScriptedRank(0), ScriptedRank(1)
    async with connected_group(first, second) as (group, events):
        group.send(step(1), 0.0)
        group.send(step(2), 0.0)
        second.send(Ack(1, 7), Ack(2, 8))
        first.send(result(1, 7))
        assert await events.get() == result(1, 7)
        first.send(result(2, 8))
        assert await events.get() == result(2, 8)
        assert events.empty()


async def test_at_most_two_steps_are_in_flight() -> None:
    rank = ScriptedRank(0)
    async with connected_group(rank) as (group, events):
        free = [group.has_capacity]
        for number in (1, 2):
            group.send(step(number), 0.0)
            free.append(group.has_capacity)
        rank.send(result(1))
        await events.get()
        assert [*free, group.has_capacity] == [True, True, False, True]


async def test_a_frame_may_arrive_in_any_pieces() -> None:
    rank = ScriptedRank(0)
    async with connected_group(rank) as (group, events):
        group.send(step(1), 0.0)
        for byte in pack(result(1)):
            rank.send_bytes(bytes([byte]))
            await asyncio.sleep(0)
        assert await events.get() == result(1)


async def test_the_group_keeps_each_ranks_ready_message() -> None:
    async with connected_group(ScriptedRank(0), ScriptedRank(1)) as (group, _):
        assert group.ready_messages == (ready_message(0), ready_message(1))


async def test_a_missing_rank_fails_the_group() -> None:
    with pytest.raises(ShardGroupFailed, match="cannot connect to the shards"):
        async with ShardGroup.connect(["/nowhere/0.sock"]):
            pass


async def test_a_rank_that_refuses_the_hello_fails_the_group() -> None:
    class Refusing(ScriptedRank):
        def greet(self, hello: Hello) -> None:
            self.disconnect()

    async with listening(ScriptedRank(0), Refusing(1)) as paths:
        with pytest.raises(ShardGroupFailed, match="rank 1: the connection was closed"):
            async with ShardGroup.connect(paths):
                pass


async def test_a_rank_that_answers_as_another_fails_the_group() -> None:
    class Confused(ScriptedRank):
        def greet(self, hello: Hello) -> None:
            self.send(ready_message(1))

    async with listening(Confused(0)) as paths:
        with pytest.raises(ShardGroupFailed, match="rank 0: unexpected Ready"):
            async with ShardGroup.connect(paths):
                pass


async def test_a_grammar_is_prepared_when_all_ranks_have_acknowledged_it() -> None:
    first, second = ScriptedRank(0), ScriptedRank(1)
    async with connected_group(first, second) as (group, events):
        waiting = [asyncio.ensure_future(group.prepare_grammar(text)) for text in "ab"]
        for rank in (first, second):
            assert [await rank.next_message(), await rank.next_message()] == [
                Prepare(1, "a"),
                Prepare(2, "b"),
            ]
        group.send(step(1), 0.0)
        first.send(Prepared(2), Prepared(1), result(1))
        second.send(Prepared(2), Ack(1, 7))
        await events.get()
        assert [task.done() for task in waiting] == [False, True]
        second.send(Prepared(1))
        await waiting[0]


async def test_a_failure_names_the_grammars_that_were_being_prepared() -> None:
    first, second = ScriptedRank(0), ScriptedRank(1)
    async with connected_group(first, second) as (group, events):
        waiting = [asyncio.ensure_future(group.prepare_grammar(text)) for text in ("a", "b", "a")]
        for _ in waiting:
            await first.next_message()
            await second.next_message()
        first.send(Prepared(1), Prepared(2))
        second.send(Prepared(2))
        await waiting[1]
        second.disconnect()
        failure = await events.get()
        assert isinstance(failure, ShardGroupFailed)
        assert failure.preparing == ("a",)
        await asyncio.gather(*waiting)


async def test_a_failed_group_prepares_nothing_and_keeps_no_task_waiting() -> None:
    rank = ScriptedRank(0)
    async with connected_group(rank) as (group, _):
        waiting = asyncio.ensure_future(group.prepare_grammar("a"))
        await rank.next_message()
        rank.disconnect()
        await waiting
        await group.prepare_grammar("b")
        assert group.failure


async def test_a_task_that_is_cancelled_before_a_grammar_is_prepared_does_no_harm() -> None:
    rank = ScriptedRank(0)
    async with connected_group(rank) as (group, events):
        waiting = asyncio.ensure_future(group.prepare_grammar("a"))
        await rank.next_message()
        waiting.cancel()
        group.send(step(1), 0.0)
        rank.send(Prepared(1), result(1))
        assert await events.get() == result(1)


@pytest.mark.parametrize(
    ("speaker", "message", "reason"),
    [
        (0, Prepared(1), "rank 0: Prepared 1 does not answer an open request"),
        (0, result(2), "rank 0: Step 2 was answered after 0"),
        (1, Ack(2, 7), "rank 1: Step 2 was answered after 0"),
        (0, Ack(1, 7), "rank 0: unexpected Ack"),
        (1, result(1), "rank 1: unexpected StepResult"),
        (1, step(1), "rank 1: unexpected Step"),
        (1, ready_message(1), "rank 1: unexpected Ready"),
        (0, Fatal(1, "MemoryError: gone"), "rank 0: MemoryError: gone"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_protocol_violation_fails_the_group(
    speaker: int, message: Message, reason: str
) -> None:
    ranks = [ScriptedRank(0), ScriptedRank(1)]
    async with connected_group(*ranks) as (group, events):
        group.send(step(1), 0.0)
        ranks[speaker].send(message)
        failure = await events.get()
        assert isinstance(failure, ShardGroupFailed)
        assert str(failure) == reason
        assert not group.has_capacity
        assert events.empty()


async def test_different_digests_fail_the_group() -> None:
    first, second = ScriptedRank(0), ScriptedRank(1)
    async with connected_group(first, second) as (group, events):
        group.send(step(1), 0.0)
        first.send(result(1, 7))
        second.send(Ack(1, 8))
        assert "rows differ between ranks" in str(await events.get())


async def test_an_answer_to_no_step_fails_the_group() -> None:
    rank = ScriptedRank(0)
    async with connected_group(rank) as (_, events):
        rank.send(result(1))
        assert "Step 1 was answered" in str(await events.get())


async def test_a_frame_that_is_not_a_message_fails_the_group() -> None:
    rank = ScriptedRank(0)
    async with connected_group(rank) as (_, events):
        rank.send_bytes(b"\xff" * HEADER_BYTES)
        assert "exceeds" in str(await events.get())


async def test_a_closed_connection_fails_the_group_and_closes_the_others() -> None:
    first, second = ScriptedRank(0), ScriptedRank(1)
    async with connected_group(first, second) as (_, events):
        second.disconnect()
        assert str(await events.get()) == "rank 1: the connection was closed"
        assert await first.next_message() is None


async def test_a_listener_that_is_set_after_the_failure_is_called_with_it() -> None:
    rank = ScriptedRank(0)
    async with connected_group(rank) as (group, events):
        rank.disconnect()
        failure = await events.get()
        late: list[object] = []
        group.set_listener(late.append)
        assert late == [failure]


class AnsweringRank(ScriptedRank):
    """Answers pings, unless `silent`, and prepares grammars."""

    progress = 0
    silent = False

    def _on_frame(self, frame: bytes) -> None:
        super()._on_frame(frame)
        match unpack(frame[HEADER_BYTES:]):
            case Ping(nonce) if not self.silent:
                self.send(Pong(nonce, 0, self.progress))
            case Prepare(number):
                self.send(Prepared(number))


async def check(group: ShardGroup, now: float) -> None:
    """Check the group at `now`, and wait for the pongs."""
    group.check_health(now)
    await group.prepare_grammar("sent and answered after the pings")


async def test_ranks_are_pinged_when_idle_and_during_a_step() -> None:
    rank = AnsweringRank(0)
    async with connected_group(rank) as (group, _):
        await check(group, 100.0)
        await check(group, 100.0 + PING_INTERVAL_SECONDS / 2)
        group.send(step(1), 100.0 + PING_INTERVAL_SECONDS / 2)
        await check(group, 100.0 + PING_INTERVAL_SECONDS)
        assert bytes(rank.received).count(pack(Ping(1))) == 1
        assert bytes(rank.received).count(pack(Ping(2))) == 1
        assert bytes(rank.received).count(pack(Ping(3))) == 0


@pytest.mark.parametrize("in_step", [False, True], ids=["idle", "in a step"])
async def test_a_rank_that_does_not_answer_a_ping_fails_the_group(in_step: bool) -> None:
    ranks = [AnsweringRank(0), AnsweringRank(1)]
    async with connected_group(*ranks) as (group, events):
        if in_step:
            group.send(step(1), 100.0)
        ranks[1].silent = True
        for second in range(11):
            ranks[0].progress += 1
            assert group.is_stalled(100.0 + second) == (second > SILENCE_SECONDS)
            await check(group, 100.0 + second)
        assert events.empty()
        group.check_health(111.0)
        assert str(await events.get()) == "rank 1 has not answered a ping for 10 s"


async def test_a_step_without_progress_fails_the_group() -> None:
    rank = AnsweringRank(0)
    async with listening(rank) as paths, ShardGroup.connect(paths, step_timeout=2.0) as group:
        failures: list[object] = []
        group.set_listener(failures.append)
        group.send(step(1), 100.0)
        for second in range(100):
            rank.progress += 1
            await check(group, 101.0 + second)
        for second in range(3):
            await check(group, 201.0 + second)
        assert failures == []
        group.check_health(204.0)
        assert list(map(str, failures)) == ["no rank has made progress in a Step for 2 s"]


async def test_a_completed_step_replaces_the_answer_to_an_open_ping() -> None:
    rank = ScriptedRank(0)
    async with connected_group(rank) as (group, events):
        group.check_health(100.0)
        for number in range(1, 4):
            group.send(step(number), 100.0 + 4 * number)
            rank.send(result(number))
            await events.get()
            group.check_health(104.0 + 4 * number)
        assert events.empty()
        assert group.has_capacity
