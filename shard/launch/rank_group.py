"""The processes of all ranks, which are started again together whenever they have failed.

They fail when one of them ends, or when the router reports that they hang or contradict each other.
Ranks work in lockstep and cannot rejoin their collectives, so the others are then killed. Each
start is a generation, with a number from 1 on that the router knows too. How long to wait before a
restart is for `restart_policy` to decide; what the ranks do is not known here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from time import monotonic

from shard.errors import StartupError
from shard.launch.child import Child, ChildCommand
from shard.launch.restart_policy import (
    MAX_RESTARTS,
    WINDOW_SECONDS,
    RestartHistory,
    load_timeout,
)
from shard.launch.supervisor import ChildEvent, ChildLog, Supervisor

EXIT_REPORT_SECONDS = 0.5
"""When the router reports a failure, time to wait for the exit of a rank that explains it."""


@dataclass(slots=True)
class _Generation:
    """One start of all ranks."""

    number: int
    ranks: Sequence[Child]
    started_at: float
    loading: set[Child] = field(init=False)
    """Ranks that are not ready yet."""
    failure: str | None = None
    """Why a rank has failed, in its own words or by its exit status."""
    reported: str | None = None
    """Why the router does not use them any more."""
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when all ranks are ready, and when they have failed."""

    def __post_init__(self) -> None:
        self.loading = set(self.ranks)

    def fail(self, text: str) -> None:
        """Note that a rank has failed, as `text` says."""
        self.failure = self.failure or text
        self.changed.set()

    def report(self, text: str) -> None:
        """Note that the router has found a failure, of which a rank may still give the cause."""
        self.reported = text
        self.changed.set()


class RankGroup:
    """All ranks, and the task that starts them again."""

    def __init__(
        self,
        commands: Sequence[ChildCommand],
        children: Supervisor,
        log: ChildLog,
        before_start: Callable[[], None],
    ) -> None:
        """`before_start` removes what the ranks of an earlier start have left."""
        self._commands = commands
        self._children = children
        self._log = log
        self._before_start = before_start
        self._history = RestartHistory()
        self._current = _Generation(0, (), 0.0)
        self._load_seconds = 0.0

    @property
    def generation(self) -> int:
        """Number of the last start."""
        return self._current.number

    @property
    def is_ready(self) -> bool:
        """Whether all ranks are ready and none is known to have failed."""
        current = self._current
        return not (current.loading or current.failure or current.reported)

    @property
    def load_seconds(self) -> float:
        """What the last start of the ranks took; 0 before one is ready."""
        return self._load_seconds

    def start(self) -> Sequence[Child]:
        """Start the next generation, and return its ranks."""
        self._before_start()
        ranks = [self._children.start(command) for command in self._commands]
        self._current = _Generation(self._current.number + 1, ranks, monotonic())
        return ranks

    def mark_ready(self) -> None:
        """All ranks of the last start are ready now."""
        self._load_seconds = monotonic() - self._current.started_at
        self._current.loading.clear()
        self._current.changed.set()

    def on_event(self, event: ChildEvent) -> None:
        """Handle an event of any child: some concern the ranks."""
        current = self._current
        match event:
            case ChildEvent(
                event="shards_failed", data={"generation": int(number), "text": str(text)}
            ) if number == current.number:
                self.report(text)
            case ChildEvent(child, "fault", {"code": int(code), "text": str(text)}) if (
                child in current.ranks
            ):
                current.fail(child.reported_error(code, text).text)
            case ChildEvent(child, "ended") if child in current.ranks:
                current.fail(child.exit_error().text)
            case ChildEvent(child, "ready") if child in current.ranks:
                current.loading.discard(child)
                if not current.loading:
                    self.mark_ready()

    def report(self, text: str) -> None:
        """The router does not use the ranks any more, for the reason `text`."""
        self._current.report(f"ShardFailed: {text}")

    def keep_running(
        self, limits: Mapping[str, int], on_restarted: Callable[[int], None]
    ) -> asyncio.Task[None]:
        """From now on start the ranks again when they have failed.

        `on_restarted` gets the generation that is ready then. `limits` replace those of the first
        start, so that the capacity stays the same. When the ranks fail too often, the supervisor's
        next event is a StartupError(1).
        """
        for rank in self._current.ranks:
            rank.is_restarted = True
        self._commands = [
            replace(command, config={**command.config, **limits}) for command in self._commands
        ]
        return self._children.tasks.create_task(self._keep_running(on_restarted))

    async def _keep_running(self, on_restarted: Callable[[int], None]) -> None:
        while True:
            failure = await self._wait_failed()
            delay = self._history.next_delay(monotonic())
            if delay is None:
                self._log(f"The shards failed {MAX_RESTARTS + 1} times in {WINDOW_SECONDS:.0f} s")
                return self._children.fail(StartupError(1, failure))
            self._log(f"Restarting the shards in {delay} s: {failure}", event="restarting")
            await asyncio.sleep(delay)
            for rank in self.start():
                rank.is_restarted = True
            await self._wait_loaded()
            if not self._current.loading:
                self._log_restart()
                on_restarted(self._current.number)

    async def _wait_loaded(self) -> None:
        """Wait until the ranks are ready or have failed, as they do if they load for too long."""
        seconds = load_timeout(self._load_seconds)
        try:
            async with asyncio.timeout(seconds):
                await self._current.changed.wait()
        except TimeoutError:
            self._current.fail(f"ShardFailed: a rank was not ready after {seconds:.0f} s")

    async def _wait_failed(self) -> str:
        """Wait until the ranks have failed, and end those that still run. Return the cause."""
        current = self._current
        while not (current.failure or current.reported):
            current.changed.clear()
            await current.changed.wait()
        failure = current.failure or await self._explain_report(current)
        await self._children.kill(current.ranks)
        return failure

    async def _explain_report(self, current: _Generation) -> str:
        """Why the router has reported a failure, which the exit of a rank may say better."""
        ended = await self._children.first_exit(current.ranks, EXIT_REPORT_SECONDS)
        return ended.exit_error().text if ended else str(current.reported)

    def _log_restart(self) -> None:
        seconds = monotonic() - self._current.started_at
        text = f"Shards restarted in {seconds:.1f}s"
        self._log(text, event="restarted", seconds=round(seconds, 3))
