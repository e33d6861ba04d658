"""A child that brings a model from the Hub to the local cache and says where it lies.

`python -m shard.fetch` reads {"model_id", "revision"} from the first line of its stdin and writes
events to stdout: progress, then found or fault. It is a process of its own so that the launcher
loads no HTTP client, and so that a download is ended like any other child.
"""

from __future__ import annotations

import difflib
import errno
import json
import os
import sys
from pathlib import Path
from typing import Any

from huggingface_hub import constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm.auto import tqdm

from shard.errors import Fault

WANTED = ["*.safetensors", "*.json", "*.model", "*.txt", "*.jinja"]
"""Weights and texts; nothing that could run, and no pickle."""


class Progress(tqdm):  # type: ignore[misc]
    """A bar that tells the launcher instead of drawing."""

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Called at most every `mininterval`; True says that it was shown."""
        percent = int(100 * self.n / self.total) if self.total else None
        _say(event="progress", text=self.desc or "downloading", percent=percent)
        return True


def main() -> int:
    wish = json.loads(sys.stdin.readline())
    try:
        _say(event="found", path=fetch(wish["model_id"], wish["revision"]))
    except Fault as fault:
        _say(event="fault", code=fault.code, text=fault.text)
        return fault.code
    return 0


def fetch(model: str, revision: str | None) -> str:
    """The folder of `model`'s snapshot. Raises Fault(3), or Fault(7) for a full disk."""
    try:
        return snapshot_download(
            model,
            revision=revision,
            allow_patterns=WANTED,
            tqdm_class=Progress,
            token=os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN"),
        )
    except (HFValidationError, OSError) as error:
        raise _explain(model, revision, error) from error


def _explain(model: str, revision: str | None, error: Exception) -> Fault:
    match error:
        case GatedRepoError():
            page = f"{constants.ENDPOINT}/{model}"
            return Fault(3, f"`{model}` is gated: accept the licence at {page}, set HF_TOKEN")
        case RepositoryNotFoundError() | HFValidationError():
            return Fault(3, f"`{model}` was not found on the Hub or as a folder{_nearest(model)}")
        case RevisionNotFoundError():
            return Fault(3, f"`{model}` has no revision `{revision}`")
        case LocalEntryNotFoundError():
            names = ", ".join(_cached()) or "none"
            return Fault(
                3, f"`{model}` is not cached, and there is no network; cached models: {names}"
            )
        case HfHubHTTPError():
            return Fault(3, f"the Hub refused `{model}`: {str(error).splitlines()[0]}")
        case OSError(errno=errno.ENOSPC):
            return Fault(7, f"the disk is full: {constants.HF_HUB_CACHE}")
        case _:
            return Fault(3, f"`{model}` could not be fetched: {error}".splitlines()[0])


def _nearest(model: str) -> str:
    close = difflib.get_close_matches(model, _cached(), n=1)
    return f"; the nearest cached model is `{close[0]}`" if close else ""


def _cached() -> list[str]:
    folders = Path(constants.HF_HUB_CACHE).glob("models--*")
    return sorted(folder.name.removeprefix("models--").replace("--", "/") for folder in folders)


def _say(**event: Any) -> None:
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    sys.exit(main())
