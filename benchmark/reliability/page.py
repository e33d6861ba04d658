"""Write docs/reliability.md: what was measured, from the result files, and which tests cover what.

`coverage.toml` maps advisories about other servers and failures that users report to tests. The
figures are those of `benchmark/results`; one that was not measured is shown as such.
"""

from __future__ import annotations

import argparse
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmark.reliability.targets import COMMANDS, COUNTS, FILES, TARGETS
from benchmark.targets import Target

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parent / "results"
PAGE = HERE.parents[1] / "docs" / "reliability.md"
HEAD = """# Reliability

What has brought down, blocked or opened other servers of language models, and the measurements and
tests that show that it does not happen here. What the server does when a shard or a client fails is
in [operating.md](operating.md), and so is the table of all queues and their bounds.

`python -m benchmark reliability` writes this page from `benchmark/reliability/coverage.toml` and
the files in `benchmark/results`.
"""
NOTHING = "-"
"""An empty cell."""


@dataclass(frozen=True, slots=True)
class Entry:
    """An advisory (S) or a failure (F), and what covers it."""

    id: str
    title: str
    tests: Sequence[str] = ()
    figures: Sequence[str] = ()
    gap: str | None = None
    """What neither tests nor figures cover; None if nothing."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `reliability`."""
    parser.add_argument("--page", type=Path, default=PAGE, help="file to write")


def run(args: argparse.Namespace) -> int:
    """Write the page."""
    args.page.write_text(page(entries(), figures(RESULTS)))
    return 0


def entries() -> list[Entry]:
    """The entries of `coverage.toml`."""
    data = tomllib.loads((HERE / "coverage.toml").read_text())
    return [Entry(**entry) for entry in data["entry"]]


def figures(results: Path) -> dict[str, float]:
    """The figures of all result files in `results` that exist."""
    files = [results / name for name in FILES.values() if (results / name).exists()]
    return {
        name: value
        for file in files
        for name, value in json.loads(file.read_text())["figures"].items()
    }


def page(covered: Sequence[Entry], measured: Mapping[str, float]) -> str:
    """The text of the page."""
    failures = [entry for entry in covered if entry.id.startswith("F")]
    advisories = [entry for entry in covered if entry.id.startswith("S")]
    parts = [HEAD, "## Measurements\n", *_measurements(measured)]
    parts += ["", "## Advisories\n", *_coverage("what happened elsewhere", advisories)]
    parts += ["", "## Failures\n", *_coverage("what users report", failures)]
    return "\n".join(parts) + "\n"


def _measurements(measured: Mapping[str, float]) -> Iterator[str]:
    met = [each.is_met(measured[each.figure]) for each in TARGETS if each.figure in measured]
    yield f"{met.count(True)} of {len(TARGETS)} targets are met; {len(met)} were measured.\n"
    yield "| figure | what | measured | target |"
    yield "| --- | --- | --- | --- |"
    yield from (_target(each, measured.get(each.figure)) for each in TARGETS)
    yield ""
    yield "What was run:\n"
    for name, counts in COUNTS.items():
        shown = [f"{count} {measured[count]:,.6g}" for count in counts if count in measured]
        command = COMMANDS.get(name, name)
        yield f"- `python -m benchmark {command}`: {', '.join(shown) or 'not run'}"


def _target(target: Target, value: float | None) -> str:
    measured = "not measured" if value is None else f"{value:.3g}"
    missed = "" if value is None or target.is_met(value) else ", **missed**"
    return (
        f"| `{target.figure}` | {target.text} | {measured}{missed} |"
        f" {target.relation} {target.bound:g} |"
    )


def _coverage(what: str, covered: Sequence[Entry]) -> Iterator[str]:
    yield f"| # | {what} | tests and figures | not covered |"
    yield "| --- | --- | --- | --- |"
    for entry in covered:
        shown = ", ".join(f"`{name}`" for name in (*entry.tests, *entry.figures)) or NOTHING
        yield f"| {entry.id} | {entry.title} | {shown} | {entry.gap or NOTHING} |"
