"""The live view of a start on a terminal, drawn with rich: one line per lane, then the URL.

It decides how a lane looks, and knows nothing of what the children do. It is drawn on stderr, and
is redrawn by the event loop, not by a thread: the launcher forks, and may have no second thread.
"""

from __future__ import annotations

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from router.cli.start_lanes import Lane, Lanes

BAR_WIDTH = 24


class StartView:
    """The lines at the bottom of the terminal while children start."""

    def __init__(self, redirect_stdout: bool, console: Console | None = None) -> None:
        """With `redirect_stdout`, what is printed to stdout appears above the view as well."""
        self._live = Live(
            console=console or Console(stderr=True),
            auto_refresh=False,
            redirect_stdout=redirect_stdout,
            redirect_stderr=True,
        )
        self._live.start()

    def show(self, lanes: Lanes, now: float) -> None:
        """Draw the lanes as they are at `now`."""
        self._live.update(picture(lanes, now), refresh=True)

    def close(self, lanes: Lanes, now: float) -> None:
        """Leave a last picture on the terminal, and return the cursor."""
        self.show(lanes, now)
        self._live.stop()

    def announce(self, url: str, page: str | None, curl: str) -> None:
        """Print where the server is; the view must be closed."""
        self._live.console.print(address(url, page, curl))


def picture(lanes: Lanes, now: float) -> RenderableType:
    """One row per lane: name, bar, seconds and what is being done."""
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(width=BAR_WIDTH)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(no_wrap=True, overflow="ellipsis")
    for lane in lanes.values():
        table.add_row(Text(lane.name), _bar(lane), f"{lane.seconds(now):.1f} s", _text(lane))
    return table


def address(url: str, page: str | None, curl: str) -> RenderableType:
    """The addresses of the server, and a command to try it with."""
    rows = [("Serving at", url), ("Page", page), ("Try", curl)]
    lines = [Text.assemble((f"{name:<12}", "bold"), text) for name, text in rows if text]
    return Group(Text(), *lines, Text())


def _bar(lane: Lane) -> RenderableType:
    """How much is done; empty while that is not known."""
    if lane.percent is None:
        return Text()
    return ProgressBar(
        completed=lane.percent,
        width=BAR_WIDTH,
        complete_style="cyan",
        finished_style="green",
    )


def _text(lane: Lane) -> Text:
    return Text(lane.text, style="green" if lane.ended_at is not None else "")
