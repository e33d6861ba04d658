"""When a machine counts as busy, on invented times of Steps."""

from __future__ import annotations

from shard.warmup.busy import FIRST_PAUSE_SECONDS, MAX_PAUSE_SECONDS, BusyMachine

QUIET, SLOW = 0.02, 0.5
"""Seconds of a Step of eight tokens on many threads."""


def suspected(machine: BusyMachine, now: float) -> BusyMachine:
    """`machine` after a quiet Step and two slow ones at `now`."""
    for seconds in (QUIET, SLOW, SLOW):
        machine.record(8, seconds, True, now)
    return machine


def test_two_slow_steps_in_a_row_make_one_thread_compute_for_a_while() -> None:
    machine = suspected(BusyMachine(), 10.0)
    assert machine.is_busy(10.0)
    assert not machine.is_busy(10.0 + FIRST_PAUSE_SECONDS)


def test_a_single_slow_step_changes_nothing() -> None:
    machine = BusyMachine()
    for seconds in (QUIET, SLOW, QUIET, SLOW, QUIET):
        machine.record(8, seconds, True, 10.0)
        assert not machine.is_busy(10.0)


def test_steps_are_compared_with_those_of_their_size_only() -> None:
    machine = BusyMachine()
    for tokens, seconds in ((1, 0.02), (512, 0.9), (512, 1.0), (512, 0.9)):
        machine.record(tokens, seconds, True, 10.0)
    assert not machine.is_busy(10.0)


def test_pauses_double_while_many_threads_stay_slow_and_end_at_a_maximum() -> None:
    machine, now, pauses = suspected(BusyMachine(), 0.0), FIRST_PAUSE_SECONDS, []
    for _ in range(8):
        machine.record(8, SLOW, True, now)
        pauses.append(next(s for s in range(1, 100) if not machine.is_busy(now + s)))
        now += pauses[-1]
    assert pauses == [2, 4, 8, 16, *[int(MAX_PAUSE_SECONDS)] * 4]


def test_a_quiet_step_makes_the_next_pause_short_again() -> None:
    machine = suspected(BusyMachine(), 0.0)
    machine.record(8, SLOW, True, 5.0)
    machine.record(8, QUIET, True, 10.0)
    suspected(machine, 20.0)
    assert machine.is_busy(20.0)
    assert not machine.is_busy(20.0 + FIRST_PAUSE_SECONDS)


def test_a_pause_ends_if_one_thread_is_no_faster_and_slow_steps_become_normal() -> None:
    machine = suspected(BusyMachine(), 10.0)
    machine.record(8, SLOW, False, 10.5)
    assert not machine.is_busy(10.5)
    for now in (11.0, 11.5, 12.0):
        machine.record(8, SLOW, True, now)
        assert not machine.is_busy(now)


def test_a_pause_goes_on_if_one_thread_is_faster() -> None:
    machine = suspected(BusyMachine(), 10.0)
    machine.record(8, 2 * QUIET, False, 10.1)
    machine.record(8, SLOW, False, 10.2)
    assert machine.is_busy(10.3)
