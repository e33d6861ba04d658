"""The server's description of itself, on `/info` and in responses. A frozen value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """Names and sizes of what is served."""

    model_id: str
    model_sha: str | None
    pipeline_tag: str | None
    """The target model's tag on the hub; None if unknown."""
    compute_type: str
    """Number and name of the devices, such as `2-nvidia-h200`."""
    validation_workers: int
    speculate: int
    """Largest draft length; 0 without a drafter."""
    draft_model_id: str | None
    scheduler: str
    """Name of the scheduling policy."""
    drafter: str | None = None
    """The kind of drafter: `model`, `ngram`, `suffix` or `auto`; None if nothing is drafted."""
