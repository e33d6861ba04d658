"""The flags that say what the launcher itself does; none of them changes what is served."""

from __future__ import annotations

import argparse
from dataclasses import dataclass

from router.options import option


@dataclass(frozen=True, slots=True)
class LauncherFlags:
    """What the launcher itself does."""

    config: str | None = option(None, "TOML file with a key for each flag", environment=None)
    print_config: bool = option(
        False, "print the configuration as a TOML file and exit", environment=None
    )
    check: bool = option(False, "check everything except the weights and exit", environment=None)
    env: bool = option(
        False, "print what the command `env` prints, then start", short="-e", environment=None
    )


@dataclass(frozen=True, slots=True)
class DeveloperFlags:
    """Flags for tests and benchmarks of the router; not shown by `--help`."""

    echo: bool = option(False, argparse.SUPPRESS, environment=None)
    echo_seconds: float = option(0.0, argparse.SUPPRESS, environment=None)
    step_log: str | None = option(None, argparse.SUPPRESS, environment=None)
