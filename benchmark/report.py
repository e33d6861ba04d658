"""Rebuilds the tables of docs/performance.md from the result files in benchmark/results.

Rule: decides the tables only; the text around them is written by hand. A table stands between
`<!-- FILE PREFIX -->` and `<!-- end -->`, and has a row for each figure of that file whose name
begins with the prefix, with its target if it has one.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Mapping
from pathlib import Path

from benchmark.targets import Target

ROOT = Path(__file__).resolve().parent.parent
PAGE, RESULTS = ROOT / "docs" / "performance.md", ROOT / "benchmark" / "results"
BLOCK = re.compile(r"(<!-- (\S+\.json) (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
SIGNS = {"<=": "≤", ">=": "≥"}
TARGETS = (
    Target("peers.plain_b1_over_llama_cpp", ">=", 1.0),
    Target("peers.plain_b8_over_llama_cpp", ">=", 1.0),
    Target("peers.plain_b32_over_llama_cpp", ">=", 1.2),
    Target("peers.b8_over_transformers_serve", ">=", 3.0),
    Target("peers.b32_over_transformers_serve", ">=", 3.0),
    Target("peers.b1_over_openvino", ">=", 0.9),
    Target("peers.b8_over_openvino", ">=", 0.9),
    Target("drafters.auto_over_best", ">=", 0.97),
    Target("drafters.auto_over_plain_worst", ">=", 0.98),
    Target("drafters.forced_over_plain", ">=", 1.3),
    Target("drafters.suffix_over_plain_on_edits", ">=", 1.5),
    Target("startup.first_token_seconds", "<=", 4.0),
    Target("clean_clone.first_token_seconds", "<=", 10.0),
    Target("startup.seconds_over_llama_cpp", "<=", 2.0),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="write nothing; 1 if it would change")


def run(args: argparse.Namespace) -> int:
    """Write the page, or check it. Returns the exit status."""
    page = PAGE.read_text()
    rebuilt = rebuild(page, read_figures(RESULTS))
    if args.check:
        return int(rebuilt != page)
    PAGE.write_text(rebuilt)
    return 0


def read_figures(folder: Path) -> dict[str, Mapping[str, float]]:
    """The figures of each result file that has any, by its name."""
    results = {file.name: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}
    return {
        name: result["figures"]
        for name, result in results.items()
        if isinstance(result, dict) and "figures" in result
    }


def rebuild(page: str, figures: Mapping[str, Mapping[str, float]]) -> str:
    """`page` with its tables written again. Raises KeyError for a file without figures."""

    def block(match: re.Match[str]) -> str:
        begin, file, prefix, end = match.groups()
        chosen = {name: x for name, x in figures[file].items() if name.startswith(prefix)}
        return f"{begin}{table(chosen)}\n{end}"

    return BLOCK.sub(block, page)


def table(figures: Mapping[str, float]) -> str:
    """A Markdown table of figures and their targets."""
    rows = [f"| `{name}` | {value:g} | {target(name, value)} |" for name, value in figures.items()]
    return "\n".join(["| figure | value | target |", "|---|---|---|", *rows])


def target(name: str, value: float) -> str:
    """The target of the figure `name` and by how much it is missed; empty if it has none."""
    for each in TARGETS:
        if each.figure == name:
            text = f"{SIGNS[each.relation]} {each.bound:g}"
            missed = abs(value - each.bound) / each.bound
            return text if each.is_met(value) else f"{text}, missed by {missed:.0%}"
    return ""
