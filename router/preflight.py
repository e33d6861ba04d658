"""A child process that checks whether the router could serve a model; for `--check`.

It reads the router's configuration, connects to nothing, and reports `checked` or a `fault`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from router.app import load_model, resolve_bounds
from router.child import RouterStartupError, emit, parse_config
from router.config import RouterConfig

_POSITION_FIELDS = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "n_ctx")
_DEFAULT_POSITIONS = 2048
"""Positions of a model that states none, such as BLOOM."""


def main() -> int:
    """Return the exit status: 0, or that of the fault."""
    try:
        emit(event="checked", text=check(parse_config(sys.stdin.buffer.readline())))
    except RouterStartupError as fault:
        emit(event="fault", code=fault.code, text=str(fault))
        return fault.code
    return 0


def check(config: RouterConfig) -> str:
    """One line that describes the model. Raises RouterStartupError."""
    model = load_model(config)
    bounds = resolve_bounds(config.limits, _max_positions(Path(config.model_path)))
    template = "a" if model.template else "no"
    return (
        f"{model.tokenizer.size} tokens, {template} chat template,"
        f" requests of up to {bounds.max_total_tokens} tokens"
    )


def _max_positions(folder: Path) -> int:
    """Maximum number of positions, according to the model's configuration."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_bytes())
    text = config.get("text_config", config)
    values = (text.get(name) for name in _POSITION_FIELDS)
    return next((int(value) for value in values if value), _DEFAULT_POSITIONS)


if __name__ == "__main__":
    sys.exit(main())
