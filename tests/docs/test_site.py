"""The site has every page, and the page on migration every flag of TGI.

`make docs` builds it, and fails on a warning.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import yaml

from router.cli.tgi_flags import IgnoredTgiFlags, UnsupportedTgiFlags
from tests.support.paths import ROOT
from tests.support.snippets import PAGES

SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
NO_PAGE_OF_THE_SITE = {"deploy/grafana/README.md"}
"""Pages that others link to, but that are not in the navigation."""
WRITTEN = {"docs/parameters.md", "CHANGELOG.md"}
"""What the site has in addition to the pages with snippets."""


def paths(entries: list[dict[str, Any]]) -> Iterator[str]:
    """The pages of the navigation, in order."""
    for entry in entries:
        for target in entry.values():
            yield from [target] if isinstance(target, str) else paths(target)


def test_the_navigation_has_every_page_once() -> None:
    listed = list(paths(SITE["nav"]))
    pages = {str(page.relative_to(ROOT)) for page in PAGES} - NO_PAGE_OF_THE_SITE
    assert sorted(listed) == sorted(pages | WRITTEN)


def test_the_site_fetches_no_fonts() -> None:
    assert SITE["theme"]["font"] is False


def test_the_page_on_migration_names_every_flag_of_tgi_that_is_ignored_or_refused() -> None:
    page = (ROOT / "docs" / "migrating.md").read_text()
    kinds = (IgnoredTgiFlags, UnsupportedTgiFlags)
    names = [field.name for kind in kinds for field in fields(kind)]
    assert [name for name in names if f"`--{name.replace('_', '-')}`" not in page] == []
