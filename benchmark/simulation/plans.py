"""What to simulate, as values: a load and an arm that serves it. One pair gives one row of results.

All arms see the same requests, arrivals and predictions of a load, so comparisons are paired.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from benchmark.simulation import workloads

COSTS = ("recorded", "7b")
"""Step costs as they were recorded, or assumed for the paper's class of models."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Requests, how they come, and the server that they meet."""

    shape: str
    """A made-up shape, or a file of recorded traces; `demo` is the bundled one."""
    seed: int
    count: int = 200
    rho: float | None = 0.8
    """None: all arrive at once."""
    batch: int = 1
    depth: int = 1
    memory: float | None = None
    """KV pages over what `batch` average requests fill at their ends, but never less than the
    largest request may need; None: room for all."""
    acceptance_pattern: str = "steady"
    shrink: float = 1.0
    """Divides the output lengths of made-up shapes."""
    costs: str = "recorded"
    drafts: str = "adaptive"
    """Draft lengths: `adaptive`, or always the `longest`."""
    waves: tuple[int, ...] = ()
    """With `rho` None: so many at once, and the next when a busy server is done with those."""
    tenants: int = 1
    """The first sends three times as much as each of the others."""

    @property
    def estimated_tokens(self) -> float:
        """About how much there is to simulate."""
        shape = workloads.SHAPES.get(self.shape)
        return self.count * (shape.output[0] / self.shrink if shape else 200.0)


@dataclass(frozen=True, slots=True)
class PolicyVariant:
    """A policy with its flags, and what it is told of lengths."""

    policy: str
    """One that `build` knows, or `srpt`, the clairvoyant one."""
    sigma: float | None = 0.3
    """Error of predicted lengths, as s.d. of the logarithm; None: nothing is predicted."""
    reverse: bool = False
    """Predictions rank the requests the wrong way round."""
    flags: tuple[tuple[str, Any], ...] = ()
    """Fields of the scheduler's configuration."""
    first_threshold: float | None = None
    """Sup_1 as a share of the mean service of the requests; None: the scheduler's own default."""


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """What came of one load under one arm; times in seconds."""

    workload: Workload
    variant: PolicyVariant
    mean: float
    p50: float
    p99: float
    first_token: float
    """Mean time to the first token."""
    per_token: float
    """Mean time between the later tokens of a request."""
    throughput: float
    """Output tokens a second while the server was busy."""
    preemptions: float
    """Displacements of a request, of all kinds, on average."""
    moved: float
    """Tokens copied to the host or back per request."""
    service: float
    """Mean device seconds of a request."""
    slowdowns: tuple[float, ...]
    """Latency over own service at 50, 95 and 99 % of the requests."""
    tenant_slowdowns: tuple[float, ...]
    """Mean slowdown of each tenant's requests."""
    errors: tuple[float, ...] = ()
    """Mean relative error of estimated execution times at `PROGRESS` of the answers."""


def flatten(row: SimulationResult) -> dict[str, Any]:
    """A row without nesting: load, arm, results."""
    whole = asdict(row)
    workload, variant = whole.pop("workload"), whole.pop("variant")
    results = {name: _rounded(value) for name, value in whole.items()}
    return {**workload, **variant, "flags": dict(variant["flags"]), **results}


def unflatten(values: Mapping[str, Any]) -> SimulationResult:
    """The inverse of `flatten`. Raises KeyError for anything else."""
    workload, variant = (
        {field.name: values[field.name] for field in fields(kind)}
        for kind in (Workload, PolicyVariant)
    )
    variant["flags"] = tuple(variant["flags"].items())
    workload["waves"] = tuple(workload["waves"])
    results = {
        f.name: values[f.name]
        for f in fields(SimulationResult)
        if f.name not in ("workload", "variant")
    }
    for name in ("slowdowns", "tenant_slowdowns", "errors"):
        results[name] = tuple(results[name])
    return SimulationResult(Workload(**workload), PolicyVariant(**variant), **results)


def _rounded(value: Any) -> Any:
    return [_rounded(v) for v in value] if isinstance(value, tuple) else float(f"{value:.6g}")
