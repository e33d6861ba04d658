"""Which replica each policy chooses, from what a gateway knows."""

from collections import OrderedDict

from benchmark.fleet.policies import MAX_KNOWN_PREFIXES, Arrival, Chooser, ReplicaView

NEW = Arrival(prefix=7, prefix_seconds=1.0)


def view(live: int, work: float, *prefixes: int) -> ReplicaView:
    return ReplicaView(2, live, work, OrderedDict.fromkeys(prefixes))


def test_round_robin_takes_turns() -> None:
    views, chooser = [view(0, 0), view(9, 9)], Chooser("round robin")
    assert [chooser.choose(views, NEW) for _ in range(4)] == [0, 1, 0, 1]


def test_queue_and_work_may_disagree() -> None:
    views = [view(3, 1.0), view(2, 5.0)]
    assert Chooser("least work").choose(views, NEW) == 0
    assert Chooser("least queue").choose(views, NEW) == 1


def test_the_wait_is_zero_while_a_row_is_free_and_then_grows_with_the_work_per_request() -> None:
    assert view(1, 9.0).wait == 0.0
    assert view(2, 6.0).wait == 3.0
    assert view(4, 4.0).wait == 3.0
    assert Chooser("least wait").choose([view(2, 6.0), view(3, 3.0), view(4, 4.0)], NEW) == 1


def test_among_replicas_with_a_free_row_the_emptiest_is_chosen() -> None:
    assert Chooser("least wait").choose([view(1, 0.1), view(0, 0.0)], NEW) == 1


def test_ties_go_to_the_next_in_turn() -> None:
    views, chooser = [view(0, 0), view(0, 0), view(0, 0)], Chooser("least wait")
    assert [chooser.choose(views, NEW) for _ in range(4)] == [0, 1, 2, 0]


def test_a_prefix_attracts_requests_until_the_wait_costs_more_than_computing_it() -> None:
    idle, chooser = view(0, 0), Chooser("prefix affinity")
    assert chooser.choose([idle, view(2, 1.0, 7)], NEW) == 1
    assert chooser.choose([idle, view(2, 4.0, 7)], NEW) == 0


def test_two_random_queues_never_choose_the_longest_of_three() -> None:
    views, chooser = [view(5, 1), view(0, 0), view(1, 1)], Chooser("two random queues")
    assert {chooser.choose(views, NEW) for _ in range(50)} == {1, 2}


def test_what_was_sent_counts_until_the_next_report() -> None:
    known = view(1, 1.0)
    known.sent(3, 0.5)
    assert (known.live, known.work, list(known.prefixes)) == (2, 1.5, [3])
    known.report(0, 0.0)
    assert (known.live, known.work, list(known.prefixes)) == (0, 0.0, [3])


def test_the_oldest_prefixes_are_forgotten() -> None:
    known = view(0, 0.0)
    for prefix in (*range(MAX_KNOWN_PREFIXES), 0, MAX_KNOWN_PREFIXES):
        known.sent(prefix, 0.0)
    assert len(known.prefixes) == MAX_KNOWN_PREFIXES
    assert 0 in known.prefixes
    assert 1 not in known.prefixes
