"""A child process that checks whether the router could serve a model; for `--check`.

It reads the router's configuration and what the check of a rank has found. It connects to nothing,
and reports `checked` or a `fault`.
"""

from __future__ import annotations

import json
import sys

from router.backend import resolve_bounds
from router.child import RouterStartupError, build_config, emit
from router.config import RouterConfig
from router.served_model import load_model


def main() -> int:
    """Return the exit status: 0, or that of the fault."""
    arguments = json.loads(sys.stdin.readline())
    config = build_config(arguments["config"])
    try:
        emit(event="checked", text=check(config, arguments["max_length"]))
    except RouterStartupError as fault:
        emit(event="fault", code=fault.code, text=str(fault))
        return fault.code
    return 0


def check(config: RouterConfig, max_length: int) -> str:
    """One line that describes the model, which has rows of up to `max_length` tokens.

    Raises RouterStartupError.
    """
    model = load_model(config)
    bounds = resolve_bounds(config.limits, max_length)
    template = "a" if model.template else "no"
    return (
        f"{model.tokenizer.size} tokens, {template} chat template,"
        f" requests of up to {bounds.max_total_tokens} tokens"
    )


if __name__ == "__main__":
    sys.exit(main())
