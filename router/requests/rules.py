"""Rules for the parameters that TGI does not have; the same on every route. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from router.errors import ValidationError

MAX_SPECULATE = 64
MAX_STOP_LENGTH = 1000
MAX_NAME_LENGTH = 256
"""Most characters of `user` and of `cache_salt`."""


class Extensions(Protocol):
    """A body with the parameters that TGI does not have."""

    @property
    def speculate(self) -> int | None: ...

    @property
    def expected_new_tokens(self) -> int | None: ...

    @property
    def user(self) -> str | None: ...

    @property
    def cache_salt(self) -> str | None: ...


def check_extensions(parameters: Extensions, stops: Sequence[str]) -> None:
    """The rules that come after all of TGI's, on every route. Raises ValidationError."""
    draft = parameters.speculate or 0
    _reject_if(
        not 0 <= draft <= MAX_SPECULATE,
        f"`speculate` must be >= 0 and <= {MAX_SPECULATE}. Given: {draft}",
    )
    _reject_if(
        not all(0 < len(text) <= MAX_STOP_LENGTH for text in stops),
        f"`stop` sequences must be 1 to {MAX_STOP_LENGTH} characters long",
    )
    _reject_if(
        parameters.expected_new_tokens == 0, "`expected_new_tokens` must be strictly positive"
    )
    _reject_if(
        len(parameters.user or "") > MAX_NAME_LENGTH,
        f"`user` must be at most {MAX_NAME_LENGTH} characters long",
    )
    salt = parameters.cache_salt
    _reject_if(
        salt is not None and not 0 < len(salt) <= MAX_NAME_LENGTH,
        f"`cache_salt` must be 1 to {MAX_NAME_LENGTH} characters long",
    )


def _reject_if(violated: bool, text: str) -> None:
    if violated:
        raise ValidationError(text)
