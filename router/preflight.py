"""A child that says whether the router could serve a model's text; for `--check`.

It reads the router's own configuration, connects to nothing, and reports `checked` or a `fault`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from router.app import load_model
from router.child import BAD_FLAG, RouterStartupError, emit, parse_config
from router.config import RouterConfig
from router.requests.request import resolve_limits


def main() -> int:
    """The exit status: 0, or that of the fault."""
    try:
        emit(event="checked", text=check(parse_config(sys.stdin.buffer.readline())))
    except RouterStartupError as fault:
        emit(event="fault", code=fault.code, text=str(fault))
        return fault.code
    return 0


def check(config: RouterConfig) -> str:
    """One line on what is there. Raises Fault."""
    model = load_model(config)
    longest = _max_positions(Path(config.model_path))
    try:
        bounds = resolve_limits(config.limits, longest)
    except ValueError as fault:
        raise RouterStartupError(BAD_FLAG, str(fault)) from fault
    template = "a" if model.template else "no"
    size, most = model.vocabulary.size, bounds.max_total_tokens
    return f"{size} tokens, {template} chat template, requests of up to {most} tokens"


def _max_positions(folder: Path) -> int:
    """Positions that the model has, as its configuration says."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
    text = config.get("text_config", config)
    found = (text.get(name) for name in ("max_position_embeddings", "n_positions", "n_ctx"))
    return next((int(value) for value in found if value), 1 << 31)


if __name__ == "__main__":
    sys.exit(main())
