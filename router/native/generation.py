"""A native body on its way through the intake."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from router.native.request_models import GenerateRequest
from router.native.validation import precheck, validate
from router.requests.adapters import AdapterRegistry
from router.requests.request import Request, ResolvedLimits, expand_best_of
from router.text.grammar import GrammarSource, parse_grammar


@dataclass(frozen=True, slots=True)
class NativeGeneration:
    """A body that has passed its prechecks."""

    body: GenerateRequest
    bounds: ResolvedLimits
    stream: bool
    adapters: AdapterRegistry

    async def validate(self) -> Sequence[Request]:
        """One Request for each sequence of `best_of`. Raises ValidationError."""
        request = validate(self.body, self.bounds, self.adapters, stream=self.stream)
        return expand_best_of(request, request.best_of)

    def grammar(self) -> GrammarSource | None:
        """The `grammar` parameter. Raises ValidationError."""
        grammar = self.body.parameters.grammar
        return None if grammar is None else parse_grammar(grammar.type, grammar.value)


async def check_native(
    body: GenerateRequest, bounds: ResolvedLimits, adapters: AdapterRegistry, *, stream: bool
) -> NativeGeneration:
    """The checks that come before a permit. Raises ValidationError."""
    precheck(body.parameters, bounds, stream=stream)
    return NativeGeneration(body, bounds, stream, adapters)
