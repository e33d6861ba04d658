"""A child process that downloads a model from the Hub to the local cache and reports its folder.

`python -m shard.launch.hub_download` reads the arguments of `download_model` as JSON from the first
line of its stdin, and writes events to stdout: `progress`, then `found` or `fault`. It is a process
of its own so that the launcher imports no HTTP client and can stop a download like any child.
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

from shard.errors import StartupError
from shard.loading.checkpoint import check_weights

WEIGHT_PATTERN = "*.safetensors"
TEXT_PATTERNS = ["*.json", "*.model", "*.txt", "*.jinja"]
"""Files that are downloaded besides the weights; no code and no pickles."""


class ProgressReporter(tqdm):  # type: ignore[misc]
    """A progress bar that emits events instead of drawing."""

    def display(self, msg: str | None = None, pos: int | None = None) -> bool:
        """Emit the progress. tqdm calls this at most once per `mininterval`."""
        if self.unit == "B" and not self.total:
            return True  # another bar counts the same bytes, and knows how many there are
        percent = int(100 * self.n / self.total) if self.total else None
        _emit(event="progress", text=_progress_text(self), percent=percent)
        return True


def _progress_text(bar: tqdm) -> str:
    text: str = bar.desc or "downloading"
    if bar.unit != "B":
        return text
    return f"{text.partition(':')[0]}: {bar.n >> 20} of {bar.total >> 20} MB"


def main() -> int:
    """Download the model that the first line of stdin names; return the exit status."""
    arguments = json.loads(sys.stdin.readline())
    try:
        _emit(event="found", path=download_model(**arguments))
    except StartupError as error:
        _emit(event="fault", code=error.code, text=error.text)
        return error.code
    return 0


def download_model(
    model_id: str,
    revision: str | None,
    cache: str | None = None,
    weights: bool = True,
    is_adapter: bool = False,
) -> str:
    """Download a model and return the folder of its snapshot in `cache`.

    Without `weights`, only the other files are downloaded. The files of an adapter are not checked
    here. Raises StartupError: 3 if the model
    cannot be downloaded or is cached in part, 4 if it has no safetensors, 7 if the disk is full.
    """
    token = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
    try:
        path = snapshot_download(
            model_id,
            revision=revision,
            cache_dir=cache,
            allow_patterns=[WEIGHT_PATTERN, *TEXT_PATTERNS] if weights else TEXT_PATTERNS,
            tqdm_class=ProgressReporter,
            token=token,
        )
        if not weights and not any(Path(path).glob(WEIGHT_PATTERN)):
            _require_weights(
                model_id, HfApi(token=token).list_repo_files(model_id, revision=revision)
            )
    except (HFValidationError, OSError) as error:
        raise _as_startup_error(model_id, revision, error, cache) from error
    if weights and not is_adapter:
        _require_complete(model_id, Path(path))
    return path


def _require_weights(model: str, files: Iterable[str]) -> None:
    if not any(file.endswith(".safetensors") for file in files):
        raise StartupError(
            4, f"`{model}` has no {WEIGHT_PATTERN} file; pickled weights are not loaded"
        )


def _require_complete(model: str, snapshot: Path) -> None:
    """Refuse what an interrupted download has left, without network to go on."""
    unfinished = sorted((snapshot.parents[1] / "blobs").glob("*.incomplete"))
    try:
        check_weights(snapshot)
    except StartupError:
        if unfinished:
            raise StartupError(
                3,
                f"`{model}` is cached only in part and there is no network; {unfinished[0]} is"
                " incomplete: start once with network access",
            ) from None


def _as_startup_error(
    model: str, revision: str | None, error: Exception, cache: str | None
) -> StartupError:
    match error:
        case GatedRepoError():
            page = f"{constants.ENDPOINT}/{model}"
            return StartupError(
                3, f"`{model}` is gated: accept its licence at {page} and set HF_TOKEN"
            )
        case RepositoryNotFoundError() | HFValidationError():
            near = _nearest_cached(model, cache)
            return StartupError(3, f"`{model}` was not found on the Hub or as a folder{near}")
        case RevisionNotFoundError():
            return StartupError(3, f"`{model}` has no revision `{revision}`")
        case LocalEntryNotFoundError():
            names = ", ".join(_cached_models(cache)) or "none"
            return StartupError(
                3, f"`{model}` is not cached and there is no network; cached models: {names}"
            )
        case HfHubHTTPError():
            return StartupError(3, f"the Hub refused `{model}`: {str(error).splitlines()[0]}")
        case OSError(errno=errno.ENOSPC):
            return StartupError(7, f"the disk is full: {cache or constants.HF_HUB_CACHE}")
        case _:
            return StartupError(3, f"`{model}` cannot be downloaded: {error}".splitlines()[0])


def _nearest_cached(model: str, cache: str | None) -> str:
    close = difflib.get_close_matches(model, _cached_models(cache), n=1)
    return f"; the nearest cached model is `{close[0]}`" if close else ""


def _cached_models(cache: str | None) -> list[str]:
    folders = Path(cache or constants.HF_HUB_CACHE).glob("models--*")
    return sorted(folder.name.removeprefix("models--").replace("--", "/") for folder in folders)


def _emit(**event: Any) -> None:
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    sys.exit(main())
