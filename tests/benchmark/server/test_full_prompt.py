"""The figures of full prompts, from what the clients have seen and a step log."""

from __future__ import annotations

import pytest

from benchmark.server.full_prompt import STREAMS, ClientView, figures, longest_gap

STEPS = [
    {"seconds": 0.25, "rows": [[1, 10, 0, 0, 0, 1]]},
    {"seconds": 2.0, "rows": [[1, 11, 0, 0, 0, 1], [2, 900, 512, 0, 0, 0]]},
    {"seconds": 1.0, "rows": [[2, 900, 388, 0, 0, 1]]},
    {"seconds": 0.5, "rows": [[1, 12, 0, 0, 0, 1]]},
    {"seconds": 0.5, "rows": [[1, 13, 0, 0, 0, 1]]},
]


@pytest.mark.parametrize(
    ("arrivals", "gap"), [([], 0.0), ([3.0], 0.0), ([1.0, 1.5], 0.5), ([1.0, 4.0, 5.0], 3.0)]
)
def test_the_longest_gap_lies_between_two_arrivals(arrivals: list[float], gap: float) -> None:
    assert longest_gap(arrivals) == gap


def test_the_longest_gap_is_compared_with_the_longest_chunk_and_a_decoding_step() -> None:
    observed = ClientView(rounds=1, answers=8, unanswered=2)
    observed.gaps[STREAMS - 1] = 5.0
    found = figures(observed, STEPS, restarts=3)
    assert found["long_prompt.longest_gap_over_chunk"] == 2.0
    assert found["long_prompt.chunk"] == 2.0
    assert found["long_prompt.decode"] == 0.5
    assert found["long_prompt.longest_gap_7"] == found["long_prompt.longest_gap"] == 5.0
    assert found["long_prompt.longest_gap_1"] == 0.0
    counts = [found[f"long_prompt.{name}"] for name in ("rounds", "streams", "unanswered")]
    assert (*counts, found["long_prompt.restarts"]) == (1, 8, 2, 3)
