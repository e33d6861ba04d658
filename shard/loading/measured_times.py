"""What a rank has measured and decides by: measured once, and reused when it is started again.

Which kernel multiplies and how many threads compute changes the last bits of float32 sums. A rank
that is started again must therefore decide as before, or a request that goes on could get another
token where two are nearly equally likely. What was measured at the first start replaces, call by
call, what a later start measures; a later launcher may begin with what an earlier one has kept.
Decides nothing itself.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from zlib import crc32

from shard.loading.cpu_use import CpuUse


class MeasuredTimes:
    """What the ranks have measured, the same on all of them."""

    def __init__(
        self,
        file: Path | None,
        max_over_ranks: Callable[[float], float],
        kept: Sequence[Any] = (),
        repeat: bool = False,
        cpu: CpuUse | None = None,
    ) -> None:
        """`file` keeps the values until the launcher ends; None: every start measures.

        `kept`: values of an earlier launcher, for the first start. Ranks use what they have only
        if all of them have the same values from the first on, so that they stay in step.
        `repeat`: measure also what is known, since that compiles kernels.
        `cpu`: counts what is used while values are measured; None for `CpuUse()`.
        """
        self._file, self._repeat = file, repeat
        self.max_over_ranks = max_over_ranks
        self.cpu = cpu or CpuUse()
        """What was used while values were measured."""
        self._values: list[Any] = []
        known = json.loads(file.read_text()) if file is not None and file.exists() else list(kept)
        self._earlier = deque(known if self._is_equal_on_ranks(known) else ())
        self.is_complete = bool(self._earlier)
        """Whether this start has begun with known values and has not measured any since."""

    def recall(self, measure: Callable[[], Any]) -> Any:
        """The JSON value of the same call at the first start, otherwise that of `measure`.

        What `measure` returns must be equal on all ranks.
        """
        if self._earlier:
            if self._repeat:
                measure()
            value = self._earlier.popleft()
        else:
            self.is_complete = False
            value = self.cpu.during(measure)
        self._values.append(value)
        return value

    @property
    def values(self) -> Sequence[Any]:
        """The values so far, in the order of the calls."""
        return tuple(self._values)

    def save(self) -> None:
        """Keep the values for the next start. Raises OSError."""
        if self._file is not None:
            new = self._file.with_suffix(".new")
            new.write_text(json.dumps(self._values))
            os.replace(new, self._file)

    def _is_equal_on_ranks(self, values: Sequence[Any]) -> bool:
        digest = float(crc32(json.dumps(values).encode()))
        highest, lowest = self.max_over_ranks(digest), -self.max_over_ranks(-digest)
        return lowest == highest
