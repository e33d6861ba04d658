"""Seconds from `git clone` to the first streamed token, by the two commands of the README.

The clone is a new one of the last commit, with no compiled module, measurement or learned state;
the Python environment exists. Figures:

- `clean_clone.first_token_seconds`: both commands, up to the first event of a stream
- `clean_clone.clone_seconds`: of these, `git clone`
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from urllib.request import Request, urlopen

from benchmark.server.server import TIMEOUT_SECONDS, ServerFailed

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / ".venv"
FLAGS = "--hostname 127.0.0.1 --port 0 --json-output true"
BODY = {"inputs": "Once upon", "parameters": {"max_new_tokens": 4}}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of `clean-clone`."""
    parser.add_argument("--rounds", type=int, default=3, help="the median is the figure")
    parser.add_argument("--json", type=Path, help="file for the figures")


def run(args: argparse.Namespace) -> int:
    """Measure, print and write. Return 1 if the server fails, else 0."""
    try:
        rounds = [measure() for _ in range(args.rounds)]
    except ServerFailed as error:
        print(f"clean-clone: {error}", file=sys.stderr)
        return 1
    clones, totals = zip(*rounds, strict=True)
    figures = {
        "clean_clone.first_token_seconds": round(median(totals), 2),
        "clean_clone.clone_seconds": round(median(clones), 2),
    }
    for name, value in figures.items():
        print(f"{name:40} {value:8.2f}")
    if args.json:
        args.json.write_text(json.dumps({"figures": figures, "seconds": totals}, indent=1) + "\n")
    return 0


def measure() -> tuple[float, float]:
    """Return seconds to the clone's end and to the first token. Raises ServerFailed."""
    with tempfile.TemporaryDirectory(prefix="clone-") as folder:
        clone = Path(folder) / "clone"
        start = time.perf_counter()
        subprocess.run(("git", "clone", "--quiet", f"file://{ROOT}", clone), check=True)  # noqa: S603, S607
        cloned = time.perf_counter() - start
        with _made(clone, Path(folder) / "cache") as url:
            request = Request(  # noqa: S310
                f"{url}/generate_stream",
                json.dumps(BODY).encode(),
                {"content-type": "application/json"},
            )
            with urlopen(request, timeout=TIMEOUT_SECONDS) as stream:  # noqa: S310
                while not stream.readline().startswith(b"data:"):
                    pass
                return cloned, time.perf_counter() - start


@contextmanager
def _made(clone: Path, cache: Path) -> Iterator[str]:
    """The address of the server that `make serve` starts; the environment is not installed again.

    Raises ServerFailed.
    """
    (clone / ".venv").symlink_to(ENVIRONMENT)
    command = ("make", "-o", ".venv/.installed", "serve", f"ARGS={FLAGS}")
    process = subprocess.Popen(  # noqa: S603
        command,
        cwd=clone,
        env=os.environ | {"XDG_CACHE_HOME": str(cache), "XDG_STATE_HOME": str(cache)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        yield _url(process)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.communicate(timeout=TIMEOUT_SECONDS)


def _url(process: subprocess.Popen[str]) -> str:
    assert process.stdout  # noqa: S101  narrows the type
    lines = []
    for line in process.stdout:
        lines.append(line)
        if '"connected"' in line:
            url: str = json.loads(line)["url"]
            return url
    raise ServerFailed("the server did not start:\n" + "".join(lines[-20:]))
