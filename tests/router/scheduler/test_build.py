"""`router.scheduler.build`: the policies by name, in the flag and on the page that lists them."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from router.scheduler import build
from router.scheduler.config import SchedulerConfig
from router.scheduler.policies import POLICIES
from tests.support.virtual_device import capacity

LEVELS = {"laps-sd": 4, "laps-sd-paper": 4, "las": 4}


@pytest.mark.parametrize("name", POLICIES)
def test_each_name_builds_its_scheduler_with_nothing_to_do(name: str) -> None:
    scheduler = build(SchedulerConfig(scheduler=name), capacity())
    assert scheduler.next_batch(0.0) is None
    assert scheduler.status().waiting == (0,) * LEVELS.get(name, 1)


def test_the_flag_offers_every_policy_and_describes_it() -> None:
    (field,) = (field for field in fields(SchedulerConfig) if field.name == "scheduler")
    assert field.metadata["choices"] == tuple(POLICIES)
    for name, policy in POLICIES.items():
        assert f"{name}, {policy.summary}" in field.metadata["help"]


def test_the_page_on_scheduling_lists_every_policy() -> None:
    page = (Path(__file__).parents[3] / "docs" / "scheduling.md").read_text()
    table = page.partition("| `--scheduler` |")[2].partition("\n\n")[0]
    assert re.findall(r"^\| `([a-z-]+)` \|", table, re.MULTILINE) == list(POLICIES)


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown scheduler 'edf'"):
        build(SchedulerConfig(scheduler="edf"), capacity())
