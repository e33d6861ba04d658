"""A config field that is also a command-line flag, an environment variable and a key of a file.

Decides how a field declares itself: default, help and bounds in one place. What reads the
declaration is `router.cli.flags`; this module imports nothing that takes time to load.
"""

from __future__ import annotations

from dataclasses import field, fields
from typing import Any


def option(default: Any, help: str, **more: Any) -> Any:
    """A field that is also a flag: `--field-name`, environment variable `FIELD_NAME`.

    `more`: `secret` keeps the value out of `repr`; `above`, `at_least` and `at_most` are bounds
    that `check_bounds` enforces; everything else is metadata for the flag parser (`choices`,
    `short`, `aliases`, `environment`).
    """
    secret = more.pop("secret", False)
    return field(default=default, repr=not secret, metadata={"help": help, **more})


def check_bounds(config: Any) -> None:
    """Raise ValueError for the first field of `config` that is outside its declared bounds.

    A value of None is a default and has no bounds.
    """
    for item in fields(config):
        value, bounds = getattr(config, item.name), item.metadata
        if value is None:
            continue
        if "above" in bounds and value <= bounds["above"]:
            raise ValueError(f"`{item.name}` must be > {bounds['above']}")
        if "at_least" in bounds and value < bounds["at_least"]:
            raise ValueError(f"`{item.name}` must be >= {bounds['at_least']}")
        if "at_most" in bounds and value > bounds["at_most"]:
            raise ValueError(f"`{item.name}` must be <= {bounds['at_most']}")
