"""Prompts of the paper's three data sets, page by page from the hub's dataset viewer.

Rule: decides which data set and column a name stands for; must not know what the prompts are for.
A JSON lines file works as well. Nothing is cached; without network, DatasetUnavailable is raised.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from huggingface_hub import constants, get_session

VIEWER = "https://datasets-server.huggingface.co/rows"
PAGE_ROWS = 100
COLUMNS = ("prompt", "text", "problem", "question", "instruction", "messages", "conversations")
"""Columns that may hold a prompt, the most likely first; the last two hold conversations."""


class DatasetUnavailable(Exception):
    """The data set cannot be read."""


@dataclass(frozen=True, slots=True)
class Dataset:
    """Where to find the rows of a data set."""

    repository: str
    config: str
    split: str


DATASETS = {
    "chat": Dataset("alespalla/chatbot_instruction_prompts", "default", "test"),
    "code": Dataset("google-research-datasets/mbpp", "full", "test"),
    "reasoning": Dataset("ngxson/MiniThinky-dataset", "default", "train"),
}


def prompts(name: str, count: int) -> list[str]:
    """The first `count` prompts of a data set of the paper, or of a JSON lines file.

    Raises DatasetUnavailable without network or file, and ValueError for rows without a prompt.
    """
    rows = _hub_rows(DATASETS[name], count) if name in DATASETS else _file_rows(Path(name))
    return [prompt(row) for row in islice(rows, count)]


def prompt(row: Mapping[str, Any]) -> str:
    """The first user message in `row`. Raises ValueError if there is none."""
    for column in COLUMNS:
        value = row.get(column)
        if isinstance(value, str) and value:
            return value
        for turn in value if isinstance(value, list) else ():
            text = turn.get("content") or turn.get("value")
            if turn.get("role", turn.get("from")) in ("user", "human") and text:
                return str(text)
    raise ValueError(f"none of {', '.join(COLUMNS)} holds a prompt; there are {', '.join(row)}")


def _file_rows(path: Path) -> Iterator[Mapping[str, Any]]:
    if not path.is_file():
        raise DatasetUnavailable(f"{path} is neither a file nor one of {', '.join(DATASETS)}")
    return (json.loads(line) for line in path.read_text().splitlines())


def _hub_rows(dataset: Dataset, count: int) -> Iterator[Mapping[str, Any]]:
    for offset in range(0, count, PAGE_ROWS):
        length = min(PAGE_ROWS, count - offset)
        yield from _fetch_page(dataset, offset, length)


def _fetch_page(dataset: Dataset, offset: int, length: int) -> list[Mapping[str, Any]]:
    """Fetch one page of rows. Raises DatasetUnavailable."""
    if constants.HF_HUB_OFFLINE:
        raise DatasetUnavailable(
            f"{dataset.repository} needs network, and HF_HUB_OFFLINE forbids it"
        )
    query = {"dataset": dataset.repository, "config": dataset.config, "split": dataset.split}
    try:
        reply = get_session().get(VIEWER, params={**query, "offset": offset, "length": length})
        reply.raise_for_status()
        return [entry["row"] for entry in reply.json()["rows"]]
    except Exception as error:  # the client documents no exception types
        raise DatasetUnavailable(f"{dataset.repository} cannot be reached: {error}") from error
