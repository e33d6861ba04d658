"""What to simulate, as values: a workload, a policy variant that serves it, and the result.

All variants see the same requests, arrivals and predictions of a workload, so comparisons are
paired. Decides nothing: `runs` simulates a pair.
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
    """Requests, their arrivals, and the server."""

    shape: str
    """Name of a generated shape, or a file of recorded traces; `demo` is the bundled one."""
    seed: int
    count: int = 200
    rho: float | None = 0.8
    """Load of Poisson arrivals; None: all arrive at once."""
    batch: int = 1
    depth: int = 1
    memory: float | None = None
    """KV pages relative to what `batch` average requests hold at their ends, but at least those of
    the largest request; None: enough for all."""
    acceptance_pattern: str = "steady"
    shrink: float = 1.0
    """Divisor of the output lengths of generated shapes."""
    costs: str = "recorded"
    drafts: str = "adaptive"
    """Draft lengths: `adaptive`, or always the `longest`."""
    waves: tuple[int, ...] = ()
    """With `rho` None: sizes of bursts, each when a busy server is done with the last."""
    tenants: int = 1
    """The first sends three times as much as each of the others."""

    @property
    def estimated_tokens(self) -> float:
        """Approximate number of output tokens."""
        shape = workloads.SHAPES.get(self.shape)
        return self.count * (shape.output[0] / self.shrink if shape else 200.0)


@dataclass(frozen=True, slots=True)
class PolicyVariant:
    """A policy with its parameters, and the predictions that it gets."""

    policy: str
    """Name of a policy of the scheduler, of an oracle, or of `queues`."""
    sigma: float | None = 0.3
    """Error of predicted lengths: standard deviation of the logarithm; None: no predictions."""
    reverse: bool = False
    """Whether predictions rank the requests the wrong way round."""
    flags: tuple[tuple[str, Any], ...] = ()
    """Fields of the scheduler's configuration."""
    first_threshold: float | None = None
    """Sup_1 relative to the mean service of the requests; None: the scheduler's default."""


@dataclass(frozen=True, slots=True)
class SimulationResult:
    """Results of one workload under one variant; times in seconds."""

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
    """Output tokens per second while the server was busy."""
    preemptions: float
    """Mean number of preemptions of a request, of all kinds."""
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
    """Return a result as one flat object: workload, variant, results."""
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
