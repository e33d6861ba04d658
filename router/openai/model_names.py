"""Which model a name stands for: the served one, or one of its adapters.

Without adapters any name stands for the served model, as in TGI. A server that has adapters, or
may load them, refuses a name that it does not know: a request for a misspelled adapter, or for one
that has gone out, must not be answered by the model alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from router.errors import ModelNotFound
from router.requests.adapters import AdapterRegistry

DEFAULT_MODEL = "tgi"
"""Stands for the served model."""
DEFAULT_NAMES = (None, "", DEFAULT_MODEL)


@dataclass(frozen=True, slots=True)
class ModelNames:
    """The names of one server."""

    model_id: str
    registry: AdapterRegistry
    strict: bool = False
    """Whether unknown names are refused."""

    def adapter(self, name: str | None) -> int:
        """The number of the adapter that `name` stands for; 0 for the served model.

        Raises ModelNotFound.
        """
        if name in DEFAULT_NAMES or name is None or name == self.model_id:
            return 0
        if (adapter := self.registry.find(name)) is not None:
            return adapter.number
        if self.strict:
            raise ModelNotFound(name)
        return 0
