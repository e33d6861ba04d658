"""A child that brings a model from the Hub to the local cache and says where it lies.

`python -m shard.launch.hub_download` reads a wish from the first line of its stdin, see `fetch`, and writes
events to stdout: progress, then found or fault. It is a process of its own so that the launcher
loads no HTTP client, and so that a download is ended like any other child.
"""

from __future__ import annotations

import difflib
import errno
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, constants, snapshot_download
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

WEIGHTS = "*.safetensors"
TEXTS = ["*.json", "*.model", "*.txt", "*.jinja"]
"""Nothing that could run, and no pickle."""


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
        _say(event="found", path=fetch(**wish))
    except Fault as fault:
        _say(event="fault", code=fault.code, text=fault.text)
        return fault.code
    return 0


def fetch(
    model_id: str, revision: str | None, cache: str | None = None, weights: bool = True
) -> str:
    """The folder of a model's snapshot in `cache`. Raises Fault(3), or Fault(7) for a full disk.

    Without `weights` only texts are fetched, and Fault(4) says that there are no safetensors.
    """
    token = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
    try:
        path = snapshot_download(
            model_id,
            revision=revision,
            cache_dir=cache,
            allow_patterns=[WEIGHTS, *TEXTS] if weights else TEXTS,
            tqdm_class=Progress,
            token=token,
        )
        if not weights and not any(Path(path).glob(WEIGHTS)):
            _require_weights(
                model_id, HfApi(token=token).list_repo_files(model_id, revision=revision)
            )
    except (HFValidationError, OSError) as error:
        raise _explain(model_id, revision, error, cache) from error
    return path


def _require_weights(model: str, files: Iterable[str]) -> None:
    if not any(file.endswith(".safetensors") for file in files):
        raise Fault(4, f"`{model}` holds no {WEIGHTS} file; pickled weights are refused")


def _explain(model: str, revision: str | None, error: Exception, cache: str | None) -> Fault:
    match error:
        case GatedRepoError():
            page = f"{constants.ENDPOINT}/{model}"
            return Fault(3, f"`{model}` is gated: accept the licence at {page}, set HF_TOKEN")
        case RepositoryNotFoundError() | HFValidationError():
            near = _nearest(model, cache)
            return Fault(3, f"`{model}` was not found on the Hub or as a folder{near}")
        case RevisionNotFoundError():
            return Fault(3, f"`{model}` has no revision `{revision}`")
        case LocalEntryNotFoundError():
            names = ", ".join(_cached(cache)) or "none"
            return Fault(
                3, f"`{model}` is not cached, and there is no network; cached models: {names}"
            )
        case HfHubHTTPError():
            return Fault(3, f"the Hub refused `{model}`: {str(error).splitlines()[0]}")
        case OSError(errno=errno.ENOSPC):
            return Fault(7, f"the disk is full: {cache or constants.HF_HUB_CACHE}")
        case _:
            return Fault(3, f"`{model}` could not be fetched: {error}".splitlines()[0])


def _nearest(model: str, cache: str | None) -> str:
    close = difflib.get_close_matches(model, _cached(cache), n=1)
    return f"; the nearest cached model is `{close[0]}`" if close else ""


def _cached(cache: str | None) -> list[str]:
    folders = Path(cache or constants.HF_HUB_CACHE).glob("models--*")
    return sorted(folder.name.removeprefix("models--").replace("--", "/") for folder in folders)


def _say(**event: Any) -> None:
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    sys.exit(main())
