"""Inserts tables and numbers into docs/study.md between markers; the prose is written by hand.

`<!-- table NAME -->` ... `<!-- end -->` holds a table, `<!--= NAME -->`...`<!--/-->` one figure in
running text. A marker without a table or figure is an error, so that no stale number remains.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_TABLE = re.compile(r"(<!-- table ([\w-]+) -->\n).*?(<!-- end -->)", re.DOTALL)
_NUMBER = re.compile(r"(<!--= ([\w.]+) -->).*?(<!--/-->)")


def render(page: str, tables: Mapping[str, str], figures: Mapping[str, float]) -> str:
    """Return `page` with the content of every marker replaced. Raises KeyError if unknown."""

    def table(match: re.Match[str]) -> str:
        return f"{match[1]}\n{tables[match[2]]}\n\n{match[3]}"

    def number(match: re.Match[str]) -> str:
        return f"{match[1]}{figures[match[2]]:.2f}{match[3]}"

    return _NUMBER.sub(number, _TABLE.sub(table, page))
