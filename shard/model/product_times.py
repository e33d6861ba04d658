"""Which layout and kernels the linear layers of a model use, by measurement at load.

The products of a few whole layers are timed in sequence, as a Step computes them: enough weights
that none is in the cache when its turn comes. Kernels take turns within a round, and the fastest of
a few rounds counts, since other load only makes them slower. A kernel is timed with one thread and
with all of them, and the better time counts: a Step later uses the number of threads that suits it,
and on a busy machine threads that wait for each other would hide what the kernel can do. Small
weights stay in the processor's cache, where the plain product is the fastest, and are not timed.

Ranks must choose alike, since each of them drafts for itself: `measurements` makes their times
equal. Knows no model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import inf, log
from typing import Any, Protocol

import torch
from torch import Tensor

from shard.model.products import (
    KERNELS,
    LAYOUTS,
    PLAIN,
    TIMED_TOKENS,
    ProductPlan,
    kernel_names,
    usable_layouts,
)

AcrossRanks = Callable[[float], float]
"""Turns each rank's seconds into one value, the same on every rank."""


class Measurements(Protocol):
    """What ranks have measured, by which they choose alike, and as before a restart."""

    @property
    def max_over_ranks(self) -> AcrossRanks:
        """The maximum of all ranks' values."""

    def recall(self, measure: Callable[[], Any]) -> Any:
        """The result of `measure`, or what the same call has returned at an earlier start."""


class _OneRank:
    """Measurements of one rank that does not keep them."""

    @property
    def max_over_ranks(self) -> AcrossRanks:
        """See `Measurements`."""
        return float

    def recall(self, measure: Callable[[], Any]) -> Any:
        """See `Measurements`."""
        return measure()


ONE_RANK: Measurements = _OneRank()


Times = Mapping[tuple[str, int], float]
"""Seconds by kernel and number of tokens."""

TIMED_BYTES = 1 << 21
"""Size from which weights are timed: smaller ones stay in the cache."""
SAMPLE_BYTES, ALL_SAMPLES_BYTES = 8 << 20, 40 << 20
"""Maximum size of what is timed of one weight, and size at which there are enough of them."""
MIN_GAIN = 0.05
"""Relative gain in time, on average, for which a later layout replaces an earlier one."""
ONE_TOKEN_WEIGHT = 0.5
"""Weight in that average of the time of one token, so that plain decoding does not lose."""
_MAX_ROUNDS, _BUDGET_SECONDS = 3, 0.6
"""Rounds that are timed, and seconds after which no further one begins."""
_MAX_SLOWDOWN = 2.0
"""A round on all threads that takes this times as long as one on a single thread is given up."""


def time_and_choose(
    weights: Iterable[Tensor], measurements: Measurements, layouts: Sequence[str] = tuple(LAYOUTS)
) -> ProductPlan:
    """Choose among `layouts` for `weights` [out, in] of one dtype, in the order of a forward.

    Takes of `weights` as many as it needs.
    """
    samples = _samples(weights)
    across_ranks = measurements.max_over_ranks
    size = measurements.recall(lambda: across_ranks(max(sample.nbytes for sample in samples)))
    if len(layouts) > 1 and size < TIMED_BYTES:
        return PLAIN
    usable = [name for name in usable_layouts(samples[0].dtype) if name in layouts]
    seconds = measurements.recall(
        lambda: [across_ranks(each) for each in _time_kernels(samples, usable).values()]
    )
    keys = _timed_kernels(samples[0].dtype, usable)
    return choose_plan(dict(zip(keys, seconds, strict=True)), usable)


def choose_plan(times: Times, layouts: Sequence[str]) -> ProductPlan:
    """The layout with the shortest times, by a weighted geometric mean, and its fastest kernels.

    A layout replaces one before it only if it gains `MIN_GAIN`.
    """
    best, best_mean = PLAIN, inf
    for layout in layouts:
        names = [name for name in KERNELS if KERNELS[name].layout == layout and (name, 1) in times]
        fastest = [min(names, key=lambda name: times[name, n]) for n in TIMED_TOKENS]
        mean = _mean_log([times[name, n] for name, n in zip(fastest, TIMED_TOKENS, strict=True)])
        if mean < best_mean + log(1 - MIN_GAIN):
            best, best_mean = ProductPlan(layout, tuple(fastest)), mean
    return best


def _mean_log(seconds: Sequence[float]) -> float:
    one, *more = map(log, seconds)
    return ONE_TOKEN_WEIGHT * one + (1 - ONE_TOKEN_WEIGHT) * sum(more) / len(more)


def _samples(weights: Iterable[Tensor]) -> list[Tensor]:
    """The first rows of `weights`, until there are `ALL_SAMPLES_BYTES`."""
    samples: list[Tensor] = []
    for weight in weights:
        samples.append(split_samples(weight.detach())[0])
        if sum(sample.nbytes for sample in samples) >= ALL_SAMPLES_BYTES:
            break
    return samples


def split_samples(weight: Tensor) -> tuple[Tensor, ...]:
    """`weight` in parts of `SAMPLE_BYTES`, of which a large one alone gives enough samples."""
    return torch.split(weight, max(1, SAMPLE_BYTES // (weight.shape[1] * weight.itemsize)))


def _timed_kernels(dtype: torch.dtype, layouts: Sequence[str]) -> list[tuple[str, int]]:
    """The kernels that are timed, each with every number of tokens."""
    names = [name for layout in layouts for name in kernel_names(layout, dtype)]
    return [(name, tokens) for name in names for tokens in TIMED_TOKENS]


def _time_kernels(
    samples: Sequence[Tensor], layouts: Sequence[str]
) -> dict[tuple[str, int], float]:
    """Seconds of each kernel of `layouts` for all of `samples`, with as many threads as suit it."""
    laid_out = {layout: [LAYOUTS[layout](sample) for sample in samples] for layout in layouts}
    times = dict.fromkeys(_timed_kernels(samples[0].dtype, layouts), inf)
    start = time.perf_counter()
    for _ in range(_MAX_ROUNDS):
        alone = _time_round(times, samples, laid_out, 1, inf)
        limit = _MAX_SLOWDOWN * sum(alone.values())
        together = _time_round(times, samples, laid_out, torch.get_num_threads(), limit)
        for key, seconds in (*alone.items(), *together.items()):
            times[key] = min(times[key], seconds)
        if time.perf_counter() - start > _BUDGET_SECONDS:
            break
    return times


def _time_round(
    keys: Iterable[tuple[str, int]],
    samples: Sequence[Tensor],
    laid_out: Mapping[str, Sequence[Tensor]],
    threads: int,
    limit: float,
) -> dict[tuple[str, int], float]:
    """Seconds of each kernel with `threads` threads; none if all take more than `limit` together.

    Times of some kernels only would favour these.
    """
    times: dict[tuple[str, int], float] = {}
    with _threads(threads):
        for name, tokens in keys:
            times[name, tokens] = _time(name, tokens, samples, laid_out[KERNELS[name].layout])
            if sum(times.values()) > limit:
                return {}
    return times


def _time(name: str, tokens: int, samples: Sequence[Tensor], weights: Sequence[Tensor]) -> float:
    """Seconds of the kernel `name` for `weights`, which are `samples` in its layout."""
    inputs = [sample.new_ones(tokens, sample.shape[1]) for sample in samples]
    multiply = KERNELS[name].multiply
    start = time.perf_counter()
    for x, weight in zip(inputs, weights, strict=True):
        multiply(x, weight, None)
    return time.perf_counter() - start


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
