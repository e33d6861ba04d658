"""When two answers count as the same, and what a run of faults is made of."""

from __future__ import annotations

import json
from collections import Counter
from copy import deepcopy
from random import Random
from signal import SIGKILL, SIGSTOP
from typing import Any

import pytest

from benchmark.faults.command import FAULTS_PER_RUN, DisturbedRun, figures, plan_faults
from benchmark.faults.streams import Progress, is_same_answer, stream_all
from benchmark.faults.workload import KINDS, SHARED_PREFIX, bodies
from router.errors import GenerationFailed
from shard.launch.restart_policy import MAX_RESTARTS
from tests.support.serving import HELLO, ScriptedDispatcher, serving

BODY = {"inputs": "a", "parameters": {"details": True}}


def event(index: int, *, last: bool = False) -> dict[str, Any]:
    details = {"finish_reason": "length", "generated_tokens": 2, "seed": 1, "drafted": 3}
    token = {"id": index + 10, "text": f" t{index}", "logprob": -1.5, "special": False}
    text, end = (" t1 t2", details) if last else (None, None)
    return {"index": index, "token": token, "generated_text": text, "details": end}


ANSWER = [event(1), event(2, last=True)]


def changed(*path: Any, value: Any) -> list[dict[str, Any]]:
    """ANSWER with one value replaced."""
    answer: Any = deepcopy(ANSWER)
    place = answer
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    assert answer != ANSWER
    return list(answer)


def test_an_answer_equals_itself_whatever_was_drafted() -> None:
    assert is_same_answer(ANSWER, deepcopy(ANSWER))
    assert is_same_answer(ANSWER, changed(1, "details", "drafted", value=0))
    assert is_same_answer(ANSWER, changed(0, "token", "logprob", value=-1.5001))


@pytest.mark.parametrize(
    "other",
    [
        changed(0, "token", "id", value=99),
        changed(0, "token", "text", value="x"),
        changed(0, "index", value=2),
        changed(0, "token", "logprob", value=-1.6),
        changed(1, "generated_text", value=" t1"),
        changed(1, "details", "finish_reason", value="eos_token"),
        changed(1, "details", "generated_tokens", value=3),
        changed(1, "details", value=None),
        ANSWER[:1],
        [*ANSWER, ANSWER[-1]],
        [ANSWER[0], {"error": "lost", "error_type": "generation"}],
        [],
    ],
)
def test_any_other_answer_differs(other: list[dict[str, Any]]) -> None:
    assert not is_same_answer(ANSWER, other)
    assert not is_same_answer(other, ANSWER)


async def test_every_event_of_every_stream_is_kept_and_counted() -> None:
    async with serving() as server:
        progress = Progress()
        first, second = await stream_all(server.base_url, [BODY, BODY], progress)
        await progress.reach(2 * len(HELLO))
    assert [each["token"]["id"] for each in first] == [token.id for token in HELLO]
    assert is_same_answer(first, second)
    assert progress.tokens == len(progress.arrivals) == 2 * len(HELLO)


async def test_an_error_in_a_stream_is_an_answer_that_differs() -> None:
    script = ScriptedDispatcher(*HELLO, GenerationFailed("lost"))
    async with serving() as good, serving(script) as bad:
        [whole] = await stream_all(good.base_url, [BODY], Progress())
        [cut] = await stream_all(bad.base_url, [BODY], Progress())
    assert cut[-1]["error_type"] == "generation"
    assert not is_same_answer(whole, cut)


def test_every_kind_of_request_is_in_a_run_and_some_share_pages() -> None:
    requests = bodies(2 * len(KINDS), seed=1)
    assert requests == bodies(2 * len(KINDS), seed=1)
    for number, body in enumerate(requests):
        assert KINDS[number % len(KINDS)].items() <= body["parameters"].items()
    shared = [body["inputs"].startswith(SHARED_PREFIX) for body in requests]
    assert 2 < shared.count(True) < len(requests) / 2
    assert json.dumps(requests)


@pytest.mark.parametrize("seed", range(5))
def test_a_run_has_as_many_faults_as_a_server_survives_and_one_of_them_is_a_hang(seed: int) -> None:
    faults = plan_faults(Random(seed), 1000)
    assert len(faults) == FAULTS_PER_RUN <= MAX_RESTARTS
    assert Counter(fault.signal for fault in faults) == {SIGKILL: FAULTS_PER_RUN - 1, SIGSTOP: 1}
    moments = [fault.tokens for fault in faults]
    assert moments == sorted(set(moments))
    assert moments[-1] < 900
    assert all(0 <= fault.rank < 1 for fault in faults)


def test_the_figures_name_the_worst_of_all_runs_and_every_answer_that_differs() -> None:
    good = DisturbedRun([ANSWER, ANSWER], [0.5, 1.5], [0.25], [0.125])
    bad = DisturbedRun([ANSWER, ANSWER[:1]], [1.0], [0.5], [0.0625])
    whole = figures([ANSWER, ANSWER], [good])
    assert whole == {
        "faults.identical": 1,
        "faults.streams": 2,
        "faults.differing": 0,
        "faults.faults": 3,
        "faults.gap_seconds": 1.5,
        "faults.hang_seconds": 0.25,
        "faults.ready_false_seconds": 0.125,
    }
    both = figures([ANSWER, ANSWER], [good, bad])
    assert (both["faults.identical"], both["faults.differing"]) == (0, 1)
    assert (both["faults.streams"], both["faults.hang_seconds"]) == (4, 0.5)


def test_answers_that_never_ended_are_not_identical() -> None:
    cut = [ANSWER[:1]]
    assert figures(cut, [DisturbedRun(cut)])["faults.identical"] == 0
