"""A child process that checks whether a rank could serve the models; for `--check`.

It reads the configuration of a rank, and reports `checked` or a `fault`. Decides nothing:
`shard.preflight.model_check` does. It imports what a rank imports, as quickly.
"""

from __future__ import annotations

import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path

from shard.config import ShardConfig
from shard.errors import StartupError
from shard.events import open_event_channel
from shard.light_imports import import_transformers


def main() -> int:
    """Return the exit status: 0, or that of the fault."""
    emit = open_event_channel()
    arguments = json.loads(sys.stdin.readline())
    config = ShardConfig(**arguments["config"])
    logging.basicConfig(
        stream=sys.stderr, level=config.log_level, format="%(levelname)s %(message)s"
    )
    import_transformers()
    from shard.preflight.model_check import check

    without_weights = {Path(path) for path in arguments["without_weights"]}
    try:
        emit({"event": "checked", **asdict(check(config, without_weights))})
    except StartupError as fault:
        emit({"event": "fault", "code": fault.code, "text": fault.text})
        return fault.code
    return 0


if __name__ == "__main__":
    sys.exit(main())
