"""What one client asks for and how it behaves, and the only answer that it may get.

Rule: a request and its answer are functions of the random numbers alone. Which ranks served it, how
often they failed and what else ran must not show in the answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random

from benchmark.faults.virtual.engine import good_tokens
from router.requests.request import Request
from shard.echo.replies import full_reply
from shard.wire.protocol import Sampling

VOCABULARY = 100
"""Number of tokens; 0 is the end-of-sequence token."""
MAX_PROMPT, MAX_NEW = 90, 24
SHARED_PREFIXES = 4
"""Prompts of one run begin with one of so many prefixes, or with none."""
GRAMMARS = ("first grammar", "second grammar")
DEADLY_GRAMMAR, HANGING_GRAMMAR = "deadly grammar", "hanging grammar"
"""Grammars during whose preparation a rank ends, or hangs."""
LEAVING, CANCELLED, SLOW, STOPPED = 0.12, 0.04, 0.1, 0.1
"""Probabilities: that the client disconnects, that it is cancelled by its id, that it reads slowly,
and that the request has a stop string."""
MEAN_STAY_SECONDS = 1.0
MAX_READ_SECONDS = 0.5
"""Time for which a slow client does not read."""
PAUSING = (0.2, 1.0)
"""Probabilities that a slow client stops reading after a token: it reads in bursts, or steadily."""


def word(token: int) -> str:
    """The text of a token. All words are equally long, so none is part of another."""
    return f"w{token:02}"


@dataclass(frozen=True, slots=True)
class ExpectedAnswer:
    """Token ids and finish reason; `fault` if the request fails after these tokens."""

    tokens: tuple[int, ...]
    reason: str
    fault: bool = False


@dataclass(frozen=True, slots=True)
class PlannedRequest:
    """One request and its client. Times in seconds; infinite if it never happens."""

    id: str
    request: Request
    prompt: tuple[int, ...]
    max_new: int
    leaves_after: float | None
    """None: the client stays."""
    cancelled_after: float | None
    read_seconds: float
    stops_after: frozenset[int] = frozenset()
    """Numbers of the tokens after which the client does not read for `read_seconds`."""

    @property
    def is_poisonous(self) -> bool:
        """Whether no rank survives the preparation of its grammar."""
        return self.request.grammar in (DEADLY_GRAMMAR, HANGING_GRAMMAR)

    def with_grammar(self, grammar: str) -> PlannedRequest:
        """The same, with another grammar."""
        return replace(self, request=replace(self.request, grammar=grammar))

    @property
    def answer(self) -> ExpectedAnswer:
        """The right answer for a client that stays."""
        seed = self.request.sampling.seed
        tokens, end = full_reply(self.prompt, seed, self.max_new, self.request.ignore_eos)
        limit = good_tokens(seed)
        fails = limit is not None and len(tokens) > limit
        stop = [word(token) in self.request.stop for token in tokens]
        if True in stop and not (fails and limit is not None and stop.index(True) >= limit):
            kept = tokens[: stop.index(True) + 1]
            is_last = len(kept) == len(tokens)
            return ExpectedAnswer(kept, end.value if is_last else "stop_sequence")
        return (
            ExpectedAnswer(tokens[:limit], "", fault=True)
            if fails
            else ExpectedAnswer(tokens, end.value)
        )


def draw_prefixes(random: Random) -> list[tuple[int, ...]]:
    """The prefixes that prompts of one run share."""
    return [_draw_tokens(random, MAX_PROMPT // 2) for _ in range(SHARED_PREFIXES)] + [()]


def draw_request(random: Random, id: str, prefixes: Sequence[tuple[int, ...]]) -> PlannedRequest:
    """A request and its client."""
    prefix = random.choice(prefixes)
    prompt = prefix + _draw_tokens(random, random.randrange(1, MAX_PROMPT - len(prefix)))
    is_slow, pausing = random.random() < SLOW, random.choice(PAUSING)
    return PlannedRequest(
        id=id,
        request=_draw_parameters(random, prompt),
        prompt=prompt,
        max_new=random.randrange(1, MAX_NEW),
        leaves_after=_seconds(random, LEAVING),
        cancelled_after=_seconds(random, CANCELLED),
        read_seconds=random.uniform(0, MAX_READ_SECONDS),
        stops_after=frozenset(
            number for number in range(1, MAX_NEW) if is_slow and random.random() < pausing
        ),
    )


def _draw_parameters(random: Random, prompt: tuple[int, ...]) -> Request:
    has_stop, has_grammar = random.random() < STOPPED, random.random() < STOPPED
    return Request(
        inputs="",
        prompt_token_ids=prompt,
        sampling=Sampling(seed=random.randrange(1 << 30)),
        stop=(word(random.choice(prompt)),) if has_stop else (),
        ignore_eos=random.random() < 0.3,
        speculate=random.choice((None, None, None, 0, 1)),
        top_n_tokens=random.choice((0, 0, 0, 2)),
        decoder_input_details=random.random() < 0.05,
        grammar=random.choice(GRAMMARS) if has_grammar else None,
        user=random.choice((None, None, "first", "second")),
        cache_salt=random.choice((None, None, "salt")),
    )


def _draw_tokens(random: Random, count: int) -> tuple[int, ...]:
    return tuple(random.choices(range(1, VOCABULARY), k=count))


def _seconds(random: Random, probability: float) -> float | None:
    """When something happens that does with `probability`."""
    return random.expovariate(1 / MEAN_STAY_SECONDS) if random.random() < probability else None
