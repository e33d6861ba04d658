"""Which reports of progress become lines of the launcher's log."""

from __future__ import annotations

import json

import pytest

from router.cli.console import SECONDS_PER_LINE, ConsoleLog, PhaseLimit


def test_a_phase_becomes_one_line_per_five_seconds_and_each_phase_has_its_own() -> None:
    limit = PhaseLimit()
    reports = [(f"loading: {mb} of 60 MB", float(mb)) for mb in range(12)]
    assert [now for text, now in reports if limit.admits(text, now)] == [0, 5, 10]
    assert limit.admits("warming up", 11.0)
    assert not limit.admits("warming up", 11.0 + SECONDS_PER_LINE / 2)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_hundred_reports_of_two_ranks_are_one_line(
    as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    log = ConsoleLog(as_json=as_json)
    for percent in range(50):
        for rank in (0, 1):
            text = f"loading the target: {percent} of 50 MB"
            log(text, event="progress", rank=rank, percent=percent)
    (line,) = capsys.readouterr().out.splitlines()
    if as_json:
        assert json.loads(line)["message"] == "loading the target: 0 of 50 MB"
    else:
        assert line == "loading the target: 0 of 50 MB rank=0 percent=0"
