"""What a peer is: a server of a model that completes several prompts at once.

Rule: decides what every peer is given and must do; knows none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

MAX_CLIENTS = 32
"""Maximum number of prompts at once."""
MAX_TOKENS = 256
"""Maximum number of tokens of one prompt and its completion."""


@dataclass(frozen=True, slots=True)
class PeerOptions:
    """What every peer serves; all of them compute with the same weights."""

    model: Path
    """Folder of the model as safetensors."""
    gguf: Path
    """The same model as one GGUF file, of any precision."""
    dtype: str
    """`float32` or `bfloat16`."""
    python: Path
    """The Python of an environment in which the peer is installed."""
    folder: Path
    """Folder for files of this run."""


class Peer(Protocol):
    """A server that is ready."""

    async def complete(self, prompts: Sequence[str], new_tokens: int) -> int:
        """Complete all `prompts` at once, greedily, by `new_tokens` tokens each.

        Returns the number of new tokens, which is less where a completion ends by itself. Raises
        PeerFailed.
        """


class PeerFailed(RuntimeError):
    """A peer did not start or did not answer."""


StartPeer = Callable[[PeerOptions], AbstractAsyncContextManager[Peer]]
"""Starts a peer, which ends with the context. Raises PeerFailed."""
