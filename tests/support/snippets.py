"""The programs and commands that the project's pages show, as values.

Decides what is a snippet: a fenced block, and inline code that begins with the name of a program.
Runs nothing.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import takewhile
from typing import NamedTuple

from tests.support.paths import ROOT

FOLDERS = ("docs", "deploy", "examples")
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *(page for folder in FOLDERS for page in sorted(ROOT.glob(f"{folder}/**/*.md"))),
]
FENCED = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
INLINE_PROGRAMS = {"make", "python", "curl", "text-generation-launcher"}


class Snippet(NamedTuple):
    """A fenced block."""

    page: str
    """Path from the root."""
    language: str
    text: str


class Command(NamedTuple):
    """One shell command."""

    page: str
    words: tuple[str, ...]

    @property
    def program(self) -> str:
        return self.words[0].rpartition("/")[2]


def blocks() -> list[Snippet]:
    """Return the fenced blocks of all pages."""
    return [
        Snippet(str(page.relative_to(ROOT)), *found)
        for page in PAGES
        for found in FENCED.findall(page.read_text())
    ]


def inline_code() -> Iterator[tuple[str, str]]:
    """Yield the page and the text of everything between single backquotes."""
    for page in PAGES:
        for text in INLINE.findall(FENCED.sub("", page.read_text())):
            yield str(page.relative_to(ROOT)), text


def commands() -> list[Command]:
    """Return the commands of all `sh` blocks, and those between backquotes."""
    found = [
        Command(block.page, words)
        for block in blocks()
        if block.language == "sh"
        for words in _commands(block.text)
    ]
    for page, text in inline_code():
        if text.partition(" ")[0] in INLINE_PROGRAMS and " " in text:
            found += (Command(page, words) for words in _commands(text))
    return found


def _commands(script: str) -> Iterator[tuple[str, ...]]:
    """Split a script into the words of its commands, without comments and redirections."""
    pending = ""
    for line in script.replace("\\\n", " ").splitlines():
        pending += line + "\n"
        try:
            words = shlex.split(pending, comments=True)
        except ValueError:  # a quotation that goes on in the next line
            continue
        pending = ""
        if words:
            yield tuple(takewhile(lambda word: word != ">", words))
    assert not pending, f"a quotation does not end: {pending}"
