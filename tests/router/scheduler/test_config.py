"""The scheduler's configuration: what is out of bounds is refused by name, as is what is gone."""

from typing import Any

import pytest

from router.cli.flags import FlagParser
from router.scheduler.config import SchedulerConfig


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("laps_levels", 0, "`laps_levels` must be > 0"),
        ("laps_ratio", 1.0, "`laps_ratio` must be > 1"),
        ("laps_first_threshold", 0.0, "`laps_first_threshold` must be > 0"),
        ("laps_window", 0, "`laps_window` must be > 0"),
        ("laps_deviation", -0.1, "`laps_deviation` must be >= 0"),
        ("laps_patience", 0.0, "`laps_patience` must be > 0"),
        ("laps_width", 0.0, "`laps_width` must be > 0"),
        ("laps_memory", -1, "`laps_memory` must be >= 0"),
        ("laps_prior", 0.0, "`laps_prior` must be > 0"),
        ("laps_tail", -0.1, "`laps_tail` must be >= 0"),
        ("laps_tail", 1.1, "`laps_tail` must be <= 1"),
        ("laps_fairness", -1.0, "`laps_fairness` must be >= 0"),
    ],
)
def test_a_parameter_outside_its_bounds_is_refused(field: str, value: Any, message: str) -> None:
    with pytest.raises(ValueError, match="must be") as refused:
        SchedulerConfig(**{field: value}).check()
    assert str(refused.value) == message


def test_the_defaults_are_inside_their_bounds() -> None:
    SchedulerConfig().check()


@pytest.mark.parametrize("flag", ["volume", "peak", "hysteresis", "alarm", "lock"])
def test_a_flag_of_a_part_that_was_removed_is_refused_by_name(flag: str) -> None:
    parser = FlagParser({"scheduler": SchedulerConfig}, "launcher", "")
    with pytest.raises(ValueError, match=f"unknown argument `--laps-{flag}`"):
        parser.parse_configs([f"--laps-{flag}", "1"], {})
