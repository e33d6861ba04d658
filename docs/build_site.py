"""Collects the pages of the site into `build/site-source`: `make docs`, before mkdocs.

Decides which pages belong to the site, and writes the page of parameters from the launcher's flags.
Links to folders and programs, which are no pages, become plain text. Standard library only, as the
launcher's own imports are.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_type_hints

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import launcher  # noqa: E402
from router.cli.flags import FlagParser  # noqa: E402

TARGET = ROOT / "build" / "site-source"
PATTERNS = ("*.md", "docs/**/*.md", "docs/**/*.png", "deploy/**/*.md")
LINK = re.compile(r"(?<!!)\[([^\]]+)\]\(([^)#:\s]+)(#[^)\s]*)?\)")


def main() -> None:
    """Replace the folder."""
    shutil.rmtree(TARGET, ignore_errors=True)
    for path in pages():
        target = TARGET / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".md":
            target.write_text(without_links_to_code(path))
        else:
            shutil.copy(path, target)
    (TARGET / "docs" / "parameters.md").write_text("\n".join(parameters()) + "\n")


def pages() -> Iterator[Path]:
    """Yield the pages and their pictures."""
    for pattern in PATTERNS:
        yield from sorted(ROOT.glob(pattern))


def without_links_to_code(page: Path) -> str:
    """Return the text of a page; links to what is no page are replaced by their texts."""

    def replaced(link: re.Match[str]) -> str:
        return link[0] if link[2].endswith((".md", ".png")) else link[1]

    return LINK.sub(replaced, page.read_text())


def parameters() -> Iterator[str]:
    """Yield the lines of the page of the flags."""
    yield "# Parameters\n"
    yield "Every flag of the launcher; its variable is its name in capitals, unless stated.\n"
    parser = FlagParser(get_type_hints(launcher.LauncherOptions), "", "")
    for group in parser._action_groups[2:]:
        flags = [action for action in group._group_actions if action.help != argparse.SUPPRESS]
        if flags:
            yield f"## {group.title}\n\n{group.description or ''}\n\n| flag | meaning |\n|---|---|"
            yield from map(row, flags)
            yield ""


def row(action: argparse.Action) -> str:
    """Return the row of one flag."""
    names = ", ".join(f"`{name}`" for name in action.option_strings)
    text = (action.help or "").replace("|", "\\|").replace("%%", "%")
    return f"| {names} | {text} |"


if __name__ == "__main__":
    main()
