"""The launcher's log on a terminal: a live view until the server is ready, then plain lines.

It decides when there is a view and what is shown in it instead of as a line. Times are taken here.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from time import monotonic
from typing import TYPE_CHECKING, Any

from router.cli.console import ConsoleLog
from router.cli.start_lanes import Lanes, with_event, with_progress

if TYPE_CHECKING:
    from router.cli.start_view import StartView  # rich takes longer to import than all of this

REDRAW_SECONDS = 0.1


def open_log(*, as_json: bool) -> ConsoleLog:
    """The log for this process's stdout and stderr.

    A live view needs a terminal that can move its cursor, on stderr, and the library rich.
    """
    can_draw = sys.stderr.isatty() and os.environ.get("TERM", "dumb") != "dumb"
    if as_json or not can_draw or find_spec("rich") is None:
        return ConsoleLog(as_json=as_json)
    return LiveConsole()


class LiveConsole(ConsoleLog):
    """Shows the progress of children in a view, and everything else as lines above it."""

    def __init__(self) -> None:
        super().__init__(as_json=False)
        self._on_terminal = sys.stdout.isatty()
        """Whether lines appear on the terminal too, where they need not repeat the view."""
        self._lanes: Lanes = {}
        self._view: StartView | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._is_starting = True

    def __call__(self, text: str, **fields: Any) -> None:
        """Log an event; the view shows those of a start."""
        if self._view is None or not self._is_shown(text, fields) or not self._on_terminal:
            super().__call__(text, **fields)

    def on_child_event(self, name: str, event: str) -> None:
        """Open the view when the first child starts, and move the lane of `name`."""
        if not self._is_starting:
            return
        self._lanes = with_event(self._lanes, name, event, monotonic())
        if self._view is None:
            from router.cli.start_view import StartView

            self._view = StartView(redirect_stdout=self._on_terminal)
            self._redraw(self._view)

    def error(self, text: str) -> None:
        """Log an error below the last picture."""
        self.close()
        super().error(text)

    def close(self) -> None:
        """Leave the last picture on the terminal."""
        if self._timer and self._view:
            self._timer.cancel()
            self._view.close(self._lanes, monotonic())
        self._view = None

    def _is_shown(self, text: str, fields: Mapping[str, Any]) -> bool:
        """Show an event in the view; return whether it has a place there."""
        match fields:
            case {"event": "progress", "source": name, **more}:
                self._lanes = with_progress(self._lanes, name, text, more.get("percent"))
            case {"event": "connected", "url": url, "page": page, "curl": curl}:
                view, self._is_starting = self._view, False
                self.close()
                if view:
                    view.announce(url, page, curl)
        return fields.get("event") in ("progress", "ready", "waiting", "connected")

    def _redraw(self, view: StartView) -> None:
        view.show(self._lanes, monotonic())
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(REDRAW_SECONDS, self._redraw, view)
