"""The group of ranks over real sockets: when a Step is done, and when the group is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from router.shards.group import (
    HISTORY,
    PING_SECONDS,
    PONG_SECONDS,
    STEP_FACTOR,
    STEP_SECONDS,
    GroupLost,
    ShardGroup,
)
from shard.wire.protocol import (
    HEADER,
    Ack,
    Fatal,
    Hello,
    Message,
    Ping,
    Pong,
    Prepare,
    Prepared,
    Run,
    Step,
    StepResult,
    pack,
)
from tests.support.scripted_ranks import ScriptedRank, group_of, listening, ready

RUN = (Run(1, 0, 3),)


def step(number: int) -> Step:
    return Step(number, (), (), (), RUN)


def result(number: int, digest: int = 7, seconds: float = 0.5) -> StepResult:
    return StepResult(number, seconds, (), digest)


async def test_every_rank_is_sent_the_same_bytes_and_they_are_the_steps() -> None:
    ranks = [ScriptedRank(number) for number in range(3)]
    async with group_of(*ranks) as (group, _):
        group.send(step(1), 0.0)
        group.send(step(2), 0.0)
        for rank in ranks:
            assert [await rank.heard(), await rank.heard()] == [step(1), step(2)]
        assert [bytes(rank.sent) for rank in ranks] == [pack(step(1)) + pack(step(2))] * 3


async def test_a_step_is_done_when_all_ranks_have_answered_with_one_digest() -> None:
    first, second = ScriptedRank(0), ScriptedRank(1)
    async with group_of(first, second) as (group, reports):
        group.send(step(1), 0.0)
        group.send(step(2), 0.0)
        second.say(Ack(1, 7), Ack(2, 8))
        first.say(result(1, 7))
        assert await reports.get() == result(1, 7)
        first.say(result(2, 8))
        assert await reports.get() == result(2, 8)
        assert reports.empty()


async def test_at_most_two_steps_are_in_flight() -> None:
    rank = ScriptedRank(0)
    async with group_of(rank) as (group, reports):
        free = [group.free]
        for number in (1, 2):
            group.send(step(number), 0.0)
            free.append(group.free)
        rank.say(result(1))
        await reports.get()
        assert [*free, group.free] == [True, True, False, True]


async def test_a_frame_may_come_in_any_pieces() -> None:
    rank = ScriptedRank(0)
    async with group_of(rank) as (group, reports):
        group.send(step(1), 0.0)
        for byte in pack(result(1)):
            rank.say_bytes(bytes([byte]))
            await asyncio.sleep(0)
        assert await reports.get() == result(1)


async def test_the_group_knows_what_each_rank_said_of_itself() -> None:
    async with group_of(ScriptedRank(0), ScriptedRank(1)) as (group, _):
        assert group.ready == (ready(0), ready(1))


async def test_a_rank_that_is_not_there_is_no_group() -> None:
    with pytest.raises(GroupLost, match="cannot greet"):
        async with ShardGroup.connect(["/nowhere/0.sock"]):
            pass


async def test_a_rank_that_refuses_the_greeting_is_no_group() -> None:
    class Refusing(ScriptedRank):
        def greet(self, hello: Hello) -> None:
            self.hang_up()

    async with listening(ScriptedRank(0), Refusing(1)) as paths:
        with pytest.raises(GroupLost, match="rank 1: the connection ended"):
            async with ShardGroup.connect(paths):
                pass


async def test_a_rank_that_answers_as_another_is_no_group() -> None:
    class Confused(ScriptedRank):
        def greet(self, hello: Hello) -> None:
            self.say(ready(1))

    async with listening(Confused(0)) as paths:
        with pytest.raises(GroupLost, match="rank 0: unexpected Ready"):
            async with ShardGroup.connect(paths):
                pass


async def test_a_grammar_is_prepared_when_all_ranks_have_said_so() -> None:
    first, second = ScriptedRank(0), ScriptedRank(1)
    async with group_of(first, second) as (group, reports):
        waiting = [asyncio.ensure_future(group.prepare(text)) for text in "ab"]
        for rank in (first, second):
            assert [await rank.heard(), await rank.heard()] == [Prepare(1, "a"), Prepare(2, "b")]
        group.send(step(1), 0.0)
        first.say(Prepared(2), Prepared(1), result(1))
        second.say(Prepared(2), Ack(1, 7))
        await reports.get()
        assert [task.done() for task in waiting] == [False, True]
        second.say(Prepared(1))
        await waiting[0]


async def test_a_lost_group_prepares_nothing_and_nobody_waits() -> None:
    rank = ScriptedRank(0)
    async with group_of(rank) as (group, _):
        waiting = asyncio.ensure_future(group.prepare("a"))
        await rank.heard()
        rank.hang_up()
        await waiting
        await group.prepare("b")
        assert group.lost


async def test_whoever_leaves_before_a_grammar_is_prepared_is_forgotten() -> None:
    rank = ScriptedRank(0)
    async with group_of(rank) as (group, reports):
        waiting = asyncio.ensure_future(group.prepare("a"))
        await rank.heard()
        waiting.cancel()
        group.send(step(1), 0.0)
        rank.say(Prepared(1), result(1))
        assert await reports.get() == result(1)


@pytest.mark.parametrize(
    ("speaker", "message", "reason"),
    [
        (0, Prepared(1), "rank 0: Prepared 1 answers nothing"),
        (0, result(2), "rank 0: Step 2 answered after Step 0"),
        (1, Ack(2, 7), "rank 1: Step 2 answered after Step 0"),
        (0, Ack(1, 7), "rank 0: unexpected Ack"),
        (1, result(1), "rank 1: unexpected StepResult"),
        (1, step(1), "rank 1: unexpected Step"),
        (1, ready(1), "rank 1: unexpected Ready"),
        (0, Fatal(1, "MemoryError: gone"), "rank 0: MemoryError: gone"),
    ],
    ids=lambda value: type(value).__name__,
)
async def test_a_broken_rule_loses_the_group(speaker: int, message: Message, reason: str) -> None:
    ranks = [ScriptedRank(0), ScriptedRank(1)]
    async with group_of(*ranks) as (group, reports):
        group.send(step(1), 0.0)
        ranks[speaker].say(message)
        lost = await reports.get()
        assert isinstance(lost, GroupLost)
        assert str(lost) == reason
        assert not group.free
        assert reports.empty()


async def test_unequal_digests_lose_the_group() -> None:
    first, second = ScriptedRank(0), ScriptedRank(1)
    async with group_of(first, second) as (group, reports):
        group.send(step(1), 0.0)
        first.say(result(1, 7))
        second.say(Ack(1, 8))
        assert "rows differ between ranks" in str(await reports.get())


async def test_an_answer_to_no_step_loses_the_group() -> None:
    rank = ScriptedRank(0)
    async with group_of(rank) as (_, reports):
        rank.say(result(1))
        assert "Step 1 answered" in str(await reports.get())


async def test_a_frame_that_is_no_message_loses_the_group() -> None:
    rank = ScriptedRank(0)
    async with group_of(rank) as (_, reports):
        rank.say_bytes(b"\xff" * HEADER)
        assert "exceeds" in str(await reports.get())


async def test_a_closed_connection_loses_the_group_and_closes_the_others() -> None:
    first, second = ScriptedRank(0), ScriptedRank(1)
    async with group_of(first, second) as (_, reports):
        second.hang_up()
        assert str(await reports.get()) == "rank 1: the connection ended"
        assert await first.heard() is None


async def test_a_subscriber_that_comes_late_hears_of_the_loss() -> None:
    rank = ScriptedRank(0)
    async with group_of(rank) as (group, reports):
        rank.hang_up()
        lost = await reports.get()
        late: list[object] = []
        group.subscribe(late.append)
        assert late == [lost]


async def finish(rank: ScriptedRank, group: ShardGroup, reports: object, seconds: float) -> None:
    """Let the group see HISTORY Steps of `seconds`."""
    assert isinstance(reports, asyncio.Queue)
    for number in range(1, HISTORY + 1):
        group.send(step(number), 0.0)
        rank.say(result(number, seconds=seconds))
        await reports.get()


@pytest.mark.parametrize(
    ("usual", "limit"), [(0.01, STEP_SECONDS), (2.0, STEP_FACTOR * 2.0)], ids=["short", "long"]
)
async def test_a_step_may_take_ten_seconds_or_twenty_times_the_usual(
    usual: float, limit: float
) -> None:
    rank = ScriptedRank(0)
    async with group_of(rank) as (group, reports):
        await finish(rank, group, reports, usual)
        group.send(step(HISTORY + 1), 100.0)
        group.check(100.0 + limit)
        assert reports.empty()
        assert not group.late(100.0 + limit)
        assert group.late(100.1 + limit)
        group.check(100.1 + limit)
        assert str(await reports.get()) == "a Step takes too long"


async def test_the_operator_may_say_how_long_a_step_may_take() -> None:
    rank = ScriptedRank(0)
    async with (
        listening(rank) as paths,
        ShardGroup.connect(paths, step_seconds=1.5) as group,
    ):
        group.send(step(1), 100.0)
        assert not group.late(101.5)
        assert group.late(101.6)


async def test_idle_ranks_are_pinged_once_a_second() -> None:
    rank = ScriptedRank(0)
    async with group_of(rank) as (group, _):
        for now in (100.0, 100.0 + PING_SECONDS / 2, 100.0 + PING_SECONDS):
            group.check(now)
        assert await rank.heard() == Ping(1)
        rank.say(Pong(1, 0))
        await until(
            lambda: group.check(100.0 + PING_SECONDS) or len(rank.sent) > len(pack(Ping(1)))
        )
        assert await rank.heard() == Ping(2)


async def test_a_rank_that_answers_no_ping_loses_the_group() -> None:
    first, second = ScriptedRank(0), ScriptedRank(1)
    async with group_of(first, second) as (group, reports):
        group.check(100.0)
        first.say(Pong(1, 0))
        await first.heard()
        group.check(100.0 + PONG_SECONDS)
        assert reports.empty()
        await until(lambda: not reports.empty() or group.check(101.0 + PONG_SECONDS))
        assert "1] answer no ping" in str(await reports.get())


async def test_a_ping_left_open_by_a_long_step_is_forgiven() -> None:
    rank = ScriptedRank(0)
    async with group_of(rank) as (group, reports):
        group.check(100.0)
        group.send(step(1), 100.0)
        rank.say(result(1))
        await reports.get()
        group.check(200.0)
        assert reports.empty()
        assert group.free


async def until(holds: Callable[[], object]) -> None:
    """Let the loop turn until `holds`."""
    while not holds():  # noqa: ASYNC110  the group has no event for a pong
        await asyncio.sleep(0)
