"""Whom a request id means, where several callers choose the same one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from router.dispatch.live_requests import LiveRequests, PreparedRequest
from router.dispatch.page_hashes import PromptPages
from router.errors import Cancelled
from router.requests.record import LiveRequest
from router.requests.request import Request
from router.text.tokenizer import Tokenizer
from shard.wire.protocol import Sampling
from tests.support.families import byte_level

TOKENIZER = Tokenizer(byte_level())


class Requests:
    """Live requests by the number of their HTTP request, which is that of its arrival."""

    def __init__(self) -> None:
        self.live = LiveRequests(TOKENIZER)
        self.calls = 0

    def add(self, id: str, caller: str = "", sequences: int = 1) -> list[LiveRequest]:
        self.calls += 1
        prepared = PreparedRequest(
            id, Request("a", Sampling()), (1,), 9, PromptPages(), 0.0, self.calls, caller
        )
        return [self.live.add(prepared, 0.0) for _ in range(sequences)]

    def cancel(self, id: str, caller: str = "") -> list[LiveRequest]:
        meant = self.live.newest(id, caller)
        for record in meant:
            record.fail(Cancelled(), 1.0)
        return meant


def test_of_three_callers_each_cancel_ends_the_newest_that_is_left() -> None:
    requests = Requests()
    first, second, third = (requests.add("mine", sequences=count) for count in (1, 3, 2))
    assert [requests.cancel("mine") for _ in range(4)] == [third, second, first, []]


def test_one_that_has_ended_already_is_not_meant() -> None:
    requests = Requests()
    older, newer = requests.add("mine", sequences=2), requests.add("mine", sequences=2)
    for record in (older[0], *newer):
        record.fail(Cancelled(), 0.5)
    assert requests.cancel("mine") == [older[1]]


def test_a_queued_request_is_meant_before_an_older_one_that_runs() -> None:
    requests = Requests()
    (running,), (queued,) = requests.add("mine"), requests.add("mine")
    running.mark_scheduled(0.1, 0)
    assert [requests.cancel("mine"), requests.cancel("mine")] == [[queued], [running]]


def test_a_running_request_is_meant_before_an_older_one_that_waits() -> None:
    requests = Requests()
    (queued,), (running,) = requests.add("mine"), requests.add("mine")
    running.mark_scheduled(0.1, 0)
    assert [requests.cancel("mine"), requests.cancel("mine")] == [[running], [queued]]


def test_only_requests_with_the_same_key_are_meant() -> None:
    requests = Requests()
    mine, other = requests.add("mine", "key 1"), requests.add("mine", "key 2")
    assert requests.live.newest("mine", "") == requests.live.newest("mine", "key 3") == []
    assert [requests.cancel("mine", "key 1") for _ in range(2)] == [mine, []]
    assert requests.live.newest("mine", "key 2") == other


def test_ids_are_compared_character_by_character() -> None:
    requests = Requests()
    ids = ["a", "A", "a.", "a:1", "a:1:2", "-", "_", "a" * 128]
    records = [requests.add(id) for id in ids]
    assert [requests.live.newest(id, "") for id in ids] == records
    assert requests.live.newest("a:", "") == requests.live.newest("", "") == []


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "cancel"]),
            st.sampled_from("ab"),
            st.sampled_from(["", "key 1", "key 2"]),
        )
    )
)
def test_ids_are_a_stack_for_each_caller(steps: list[tuple[str, str, str]]) -> None:
    requests = Requests()
    stacks: dict[tuple[str, str], list[list[LiveRequest]]] = {}
    for step, id, caller in steps:
        stack = stacks.setdefault((id, caller), [])
        if step == "add":
            stack.append(requests.add(id, caller))
        else:
            assert requests.cancel(id, caller) == (stack.pop() if stack else [])
