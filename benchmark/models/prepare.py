"""Prepares real public models, so that they can be served and tested.

Each becomes a GGUF file and, converted, a model folder under .models. What is ready is kept, so
that a run that was interrupted goes on where it stopped, and one that finds all ready ends at once.
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from benchmark.models.catalog import PUBLIC_MODELS
from benchmark.models.fetch import FetchFailed, fetch
from shard.errors import StartupError
from shard.gguf.conversion_cache import create_once

FOLDER = Path(__file__).resolve().parents[2] / ".models"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = ", ".join(PUBLIC_MODELS)
    parser.add_argument("names", nargs="*", type=_known_name, help=f"of {names}; default: all")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="where the models are kept")
    parser.add_argument("--fetch-only", action="store_true", help="download, but do not convert")


def run(args: argparse.Namespace) -> int:
    """Prepare the named models, or all. Return 1 if one fails."""
    try:
        for name in args.names or PUBLIC_MODELS:
            prepare(name, args.folder, fetch_only=args.fetch_only)
    except (FetchFailed, StartupError) as error:
        print(f"models: {error}", file=sys.stderr)
        return 1
    return 0


def prepare(name: str, folder: Path, *, fetch_only: bool = False) -> None:
    """Create FOLDER/NAME, unless it exists; with `fetch_only`, its GGUF file only.

    Raises FetchFailed or StartupError.
    """
    file, converted = folder / f"{name}.gguf", folder / name
    say = partial(_say, name)
    if converted.is_dir():
        return say(f"{converted} is ready")
    model = PUBLIC_MODELS[name]
    say(f"{model.title}, license: {model.license}")
    fetch(model, file, say)
    if not fetch_only:
        from shard.gguf.convert import convert  # imports torch

        create_once(converted, partial(convert, file, None, partial(_report, say)))
        say(f"{converted} is ready")
    return None


def _known_name(name: str) -> str:
    if name not in PUBLIC_MODELS:
        raise argparse.ArgumentTypeError(f"{name} is not one of {', '.join(PUBLIC_MODELS)}")
    return name


def _report(say: partial[None], text: str, percent: int | None) -> None:
    say(text if percent is None else f"{text} {percent}%")


def _say(name: str, text: str) -> None:
    print(f"{name}: {text}", flush=True)
