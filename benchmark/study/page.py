"""Puts tables and numbers into docs/study.md between markers; the prose between is written by hand.

`<!-- table NAME -->` ... `<!-- end -->` holds a table, `<!--= NAME -->`...`<!--/-->` one figure in
running text. What a marker names but the study lacks is an error, so that no stale number stays.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_TABLE = re.compile(r"(<!-- table ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_NUMBER = re.compile(r"(<!--= ([\w.]+) -->).*?(<!--/-->)")


def render(page: str, tables: Mapping[str, str], figures: Mapping[str, float]) -> str:
    """`page` with every marker's content made anew. Raises KeyError for an unknown name."""

    def table(match: re.Match[str]) -> str:
        return f"{match[1]}\n{tables[match[2]]}\n\n{match[3]}"

    def number(match: re.Match[str]) -> str:
        return f"{match[1]}{figures[match[2]]:.2f}{match[3]}"

    return _NUMBER.sub(number, _TABLE.sub(table, page))
