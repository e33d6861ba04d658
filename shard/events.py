"""The channel of a child process to the launcher: one JSON object per line on the original stdout.

Whatever libraries print goes to stderr instead, so that nothing else is on the channel.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable

Emit = Callable[[dict[str, object]], None]


def open_event_channel() -> Emit:
    """Redirect descriptor 1 to stderr; return the function that writes to the original stdout."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    return lambda event: print(json.dumps(event), file=out, flush=True)
