"""Times by which a rank decides how it computes: measured at the first start, reused at restarts.

Which kernel multiplies and how many threads compute changes the last bits of float32 sums. A rank
that is started again must therefore decide as before, or a request that goes on could get another
token where two are nearly equally likely. Decides nothing itself: it replaces what was measured by
what was measured at the first start, call by call.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable
from pathlib import Path


class MeasuredTimes:
    """Turns the seconds that this rank has measured into a time that is equal on all ranks."""

    def __init__(self, file: Path | None, max_over_ranks: Callable[[float], float]) -> None:
        """`file` keeps the times until the launcher ends; None: every start measures.

        Ranks read their files only if all of them have one, so that they stay in step.
        """
        self._file, self._max_over_ranks = file, max_over_ranks
        self._times: list[float] = []
        known = file is not None and file.exists()
        all_known = not max_over_ranks(float(not known))
        self._earlier = deque(json.loads(file.read_text()) if file and all_known else ())

    def __call__(self, seconds: float) -> float:
        """The time of the same call at the first start, otherwise the maximum over all ranks."""
        time = self._earlier.popleft() if self._earlier else self._max_over_ranks(seconds)
        self._times.append(time)
        return time

    def save(self) -> None:
        """Keep the times for the next start. Raises OSError."""
        if self._file is not None:
            new = self._file.with_suffix(".new")
            new.write_text(json.dumps(self._times))
            os.replace(new, self._file)
