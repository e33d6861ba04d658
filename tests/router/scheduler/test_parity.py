"""With every part of the extension off, `laps-sd` decides as the paper's algorithm does.

The two are separate pieces of code; what is compared is every Batch of a whole run, at batch 1 with
one Step in flight, as in the paper, and beyond it.
"""

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from router.scheduler import build
from router.scheduler.api import DeviceCapacity, Job, ScheduledBatch
from router.scheduler.config import SchedulerConfig
from tests.support.virtual_device import Client, Device, capacity, serve

OFF = {
    "laps_rank": "queues",
    "laps_join": "first",
    "laps_perception": "window",
    "laps_lengths": "plain",
    "laps_memory": 0,
    "laps_tail": 0.0,
    "laps_fairness": 0.0,
    "laps_patience": 1e9,
}

requests = st.lists(
    st.tuples(
        st.floats(0, 8),  # arrival
        st.integers(1, 30),  # prompt
        st.integers(1, 60),  # answer
        st.floats(0, 1),  # acceptance
        st.none() | st.floats(1, 80),  # predicted length
    ),
    min_size=1,
    max_size=12,
)
devices = st.fixed_dictionaries(
    {
        "max_rows": st.sampled_from((1, 1, 3)),
        "depth": st.sampled_from((1, 1, 2)),
        "pages": st.sampled_from((30, 400)),
        "speculate": st.integers(0, 5),
        "draft_token_seconds": st.sampled_from((0.001, 0.01)),
    }
)
parameters = st.fixed_dictionaries(
    {
        "laps_levels": st.integers(1, 6),
        "laps_ratio": st.sampled_from((1.5, 2.0, 4.0)),
        "laps_first_threshold": st.none() | st.sampled_from((0.05, 0.3, 2.0)),
        "laps_window": st.integers(1, 6),
        "laps_deviation": st.sampled_from((0.0, 0.05, 0.2)),
    }
)


def batches(
    config: SchedulerConfig,
    device: DeviceCapacity,
    wanted: list[tuple[float, int, int, float, float]],
) -> list[tuple[float, ScheduledBatch]]:
    clients = [
        Client(Job(id, arrived, prompt, 60, expected), answer, acceptance)
        for id, (arrived, prompt, answer, acceptance, expected) in enumerate(wanted)
    ]
    return list(serve(build(config, device), Device(device, Random(1)), clients))


@given(requests, devices, parameters)
@settings(max_examples=15, deadline=None)
def test_all_parts_off_is_the_papers_algorithm(wanted, room, chosen) -> None:  # type: ignore[no-untyped-def]
    device = capacity(**room)
    paper = SchedulerConfig(scheduler="laps-sd-paper", **chosen)
    ours = SchedulerConfig(scheduler="laps-sd", **{**OFF, **chosen})
    assert batches(ours, device, wanted) == batches(paper, device, wanted)


def test_with_the_parts_on_it_decides_otherwise() -> None:
    wanted = [(0.1 * n, 4, 5 + 9 * n % 50, 0.5, 5.0 + 9 * n % 50) for n in range(20)]
    device = capacity(max_rows=1, depth=1, pages=400)
    paper, ours = (SchedulerConfig(scheduler=name) for name in ("laps-sd-paper", "laps-sd"))
    assert batches(ours, device, wanted) != batches(paper, device, wanted)
