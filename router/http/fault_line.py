"""An exception in one line of the log, so that no request can write more than one.

Decides the form of the line; when an exception is logged is decided elsewhere. Pure.
"""

from __future__ import annotations

import traceback
from pathlib import Path

MAX_CHARACTERS = 1000
"""Maximum length of a line."""
_MAX_MESSAGE_CHARACTERS = 200
"""Of the exception itself."""


def fault_line(error: BaseException) -> str:
    """Type, message and call sites of `error`, innermost first; its message is quoted."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    sites = [f"{_short_path(frame.filename)}:{frame.lineno}" for frame in frames]
    text = ascii(str(error))[:_MAX_MESSAGE_CHARACTERS]
    return f"{type(error).__name__}({text}) at {' < '.join(sites)}"[:MAX_CHARACTERS]


def _short_path(filename: str) -> str:
    """The last two parts of a path."""
    return "/".join(Path(filename).parts[-2:])
