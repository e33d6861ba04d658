"""Read what `--record FILE` wrote: a summary, and with `--plot` a picture of who ran when."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from benchmark.timeline.tracks import read, summary


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The file, and the picture."""
    parser.add_argument("file", type=Path, help="what a server with --record FILE wrote")
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw it; needs matplotlib")


def run(args: argparse.Namespace) -> int:
    """Print the summary; return 1 for a file that is not a record."""
    try:
        with args.file.open(encoding="utf-8") as lines:
            recording = read(lines)
    except (OSError, ValueError, KeyError) as error:
        print(f"{args.file} is not a record: {error}", file=sys.stderr)
        return 1
    print("\n".join(summary(recording)))
    if args.plot:
        from benchmark.timeline.plot import draw  # loads matplotlib

        draw(recording, args.plot)
    return 0
