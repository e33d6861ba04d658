"""A typed body becomes a Request: valid once, never checked again.

TGI's rules in TGI's order: `precheck` holds those that come before the permit, `validate` the
rest, and `fit` those that need the prompt's length in tokens. Parameters that the engine does
not have pass the same rules first and are then refused by name. No socket, clock or tokenizer.
"""

from __future__ import annotations

import hashlib
import math
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

from router.body import Generate, Parameters
from router.config import Limits
from router.errors import Invalid
from router.extensions import check_ours
from shard.protocol import Report, Sampling

CAP = 1024
"""Most new tokens that the length check counts, whatever was asked; TGI's generation chunk."""
MOST_TOLD = 8192
"""Most tokens of a prompt whose log-probabilities are told."""
SEEDS = 1 << 53
"""Seeds are picked below this, so that a client reading numbers as doubles sees them exactly."""


@dataclass(frozen=True, slots=True)
class Bounds(Limits):
    """Limits whose two lengths are settled."""

    max_input_tokens: int = 0
    max_total_tokens: int = 0


def settle(limits: Limits, longest: int) -> Bounds:
    """`limits` for shards whose rows hold `longest` tokens. Raises ValueError if they clash."""
    total = longest if limits.max_total_tokens is None else limits.max_total_tokens
    longest_input = total - 1 if limits.max_input_tokens is None else limits.max_input_tokens
    if total > longest:
        raise ValueError(f"`max_total_tokens`({total}) must be <= {longest}, all that fits")
    if longest_input >= total:
        raise ValueError(
            f"`max_input_tokens`({longest_input}) must be < `max_total_tokens`({total})"
        )
    values = {field.name: getattr(limits, field.name) for field in fields(Limits)}
    return Bounds(**{**values, "max_input_tokens": longest_input, "max_total_tokens": total})


@dataclass(frozen=True, slots=True)
class Request:
    """What to generate, valid but for its length in tokens; `fit` checks that."""

    inputs: str
    sampling: Sampling
    """Its seed is fixed; temperature 0 is greedy."""
    max_new_tokens: int | None = None
    """None: all that fits."""
    stop: tuple[str, ...] = ()
    truncate: int | None = None
    """Keep the last so many tokens of the prompt."""
    ignore_eos: bool = False
    speculate: int | None = None
    """Cap on the draft length; None is the server's."""
    details: bool = False
    return_full_text: bool | None = None
    """None: as the route has it."""
    stream: bool = False
    top_n_tokens: int = 0
    """How many of the likeliest tokens to tell at every position."""
    decoder_input_details: bool = False
    """Whether to tell the prompt's log-probabilities; implies `details`."""
    best_of: int = 1
    """Out of how many sequences the likeliest is the answer."""
    tokens: tuple[int, ...] | None = None
    """The prompt where it was given as token ids; `inputs` is its text."""
    add_special_tokens: bool = True
    """Whether the tokenizer adds its own to `inputs`."""
    raw: bool = False
    """Log-probabilities of the model itself, not of what the parameters left of it."""
    hidden: bool = False
    """Whether stop strings and special tokens stay out of the text, as OpenAI has it."""
    shown: frozenset[str] = frozenset()
    """Special tokens that stay in the text nevertheless."""
    grammar: str | None = None
    """What the output must match, in llguidance's form."""
    expected_new_tokens: int | None = None
    """The caller's guess at the answer's length; moves its turn, never its text."""
    priority: int = 0
    """Lower goes first, as in vLLM."""
    user: str | None = None
    """Whose request it is: service is shared fairly between users."""
    cache_salt: str | None = None
    """Requests share cached prefixes with those of the same salt alone, as in vLLM."""
    route: int = 0
    """Kind of text, by which answers' lengths are learned: 0 plain, 1 chat."""

    @property
    def tenant(self) -> int:
        """A number for `user`, the same in every process; 0 for nobody."""
        return digest(self.user) if self.user else 0

    @property
    def report(self) -> Report:
        """What the shards are to tell beside the tokens."""
        return Report(self.top_n_tokens, self.raw, self.decoder_input_details)

    @property
    def seed(self) -> int | None:
        """The seed to report: None where no noise is used."""
        return self.sampling.seed if self.sampling.temperature else None


def precheck(parameters: Parameters, bounds: Bounds, *, stream: bool) -> None:
    """The checks that come before the permit. Raises Invalid."""
    count = 1 if parameters.best_of is None else parameters.best_of
    most = bounds.max_best_of
    _refuse(most == 1 and count != 1, "`best_of` != 1 is not allowed for this endpoint")
    _refuse(not 0 < count <= most, f"`best_of` must be > 0 and <= {most}. Given: {count}")
    _refuse(stream and count != 1, "`best_of` != 1 is not supported when streaming tokens")
    _refuse(
        stream and parameters.decoder_input_details,
        "`decoder_input_details` == true is not supported when streaming tokens",
    )


def pick_seed() -> int:
    """A fresh seed for a request that samples and names none."""
    return secrets.randbelow(SEEDS)


def validate(
    body: Generate, bounds: Bounds, *, stream: bool, pick: Callable[[], int] = pick_seed
) -> Request:
    """The Request in `body`. Raises Invalid with the first rule broken, in TGI's order."""
    parameters = body.parameters
    _check_sampling(parameters)
    _check_counts(parameters, bounds)
    _check_input(body, bounds)
    check_ours(parameters, parameters.stop)
    _refuse_missing(parameters)
    return Request(
        inputs=body.inputs,
        sampling=_sampling(parameters, bounds, pick),
        max_new_tokens=parameters.max_new_tokens,
        stop=tuple(parameters.stop),
        truncate=parameters.truncate,
        ignore_eos=parameters.ignore_eos_token,
        speculate=parameters.speculate,
        details=parameters.details or parameters.decoder_input_details,
        return_full_text=parameters.return_full_text,
        stream=stream,
        top_n_tokens=parameters.top_n_tokens or 0,
        decoder_input_details=parameters.decoder_input_details,
        best_of=parameters.best_of or 1,
        expected_new_tokens=parameters.expected_new_tokens,
        priority=parameters.priority,
        user=parameters.user,
        cache_salt=parameters.cache_salt,
    )


def sequences(request: Request, count: int) -> tuple[Request, ...]:
    """`request`, and `count` - 1 more that differ in their seeds, which follow from its seed."""
    sampling = request.sampling
    seeds = [sampling.seed, *(_seed(sampling.seed, index) for index in range(1, count))]
    return tuple(replace(request, sampling=replace(sampling, seed=seed)) for seed in seeds)


def _seed(seed: int, index: int) -> int:
    return digest(f"{seed} {index}") % SEEDS


def digest(text: str) -> int:
    """64 bits of BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def fit(request: Request, tokens: Sequence[int], bounds: Bounds) -> tuple[tuple[int, ...], int]:
    """The prompt's tokens that are kept and the most new ones, at least 1 each. Raises Invalid.

    The rule counts no more than CAP new tokens, as TGI's does, so 10000 passes where CAP fits;
    the budget is what was asked, cut to what is left.
    """
    kept = tokens if request.truncate is None else tokens[-request.truncate :]
    used, most = len(kept), bounds.max_total_tokens
    room = max(most - used, 0)
    asked = room if request.max_new_tokens is None else request.max_new_tokens
    counted = min(asked, CAP)
    _refuse(
        used + counted > most,
        f"`inputs` tokens + `max_new_tokens` must be <= {most}. "
        f"Given: {used} `inputs` tokens and {counted} `max_new_tokens`",
    )
    _refuse(
        used > bounds.max_input_tokens,
        f"`inputs` must have less than {bounds.max_input_tokens} tokens. Given: {used}",
    )
    _refuse(
        request.decoder_input_details and used > MOST_TOLD,
        f"log-probabilities of a prompt are told of at most {MOST_TOLD} tokens. Given: {used}",
    )
    _refuse(not used, "`inputs` cannot be empty")  # a tokenizer may add nothing to odd text
    return tuple(kept), min(asked, room)


def _refuse(broken: bool, text: str) -> None:
    if broken:
        raise Invalid(text)


def _within(value: float | None, low: float, high: float) -> bool:
    return value is None or low < value < high


def _check_sampling(given: Parameters) -> None:
    warped = (given.temperature, given.top_k, given.top_p, given.typical_p)
    sampling = given.do_sample or any(value is not None for value in warped)
    many = given.best_of is not None and given.best_of > 1
    _refuse(many and not sampling, "you must use sampling when `best_of` is > 1")
    for name in ("temperature", "repetition_penalty"):
        positive = _within(getattr(given, name), 0.0, math.inf)
        _refuse(not positive, f"`{name}` must be strictly positive")
    penalty = given.frequency_penalty or 0.0
    _refuse(not -2.0 <= penalty <= 2.0, "`frequency_penalty` must be >= -2.0 and <= 2.0")
    _refuse(not _within(given.top_p, 0.0, 1.0), "`top_p` must be > 0.0 and < 1.0")
    _refuse(not _within(given.typical_p, 0.0, 1.0), "`typical_p` must be > 0.0 and < 1.0")
    _refuse(not _within(given.top_k, 0, math.inf), "`top_k` must be strictly positive")


def _check_counts(given: Parameters, bounds: Bounds) -> None:
    _refuse(given.max_new_tokens == 0, "`max_new_tokens` must be strictly positive")
    stops, most = len(given.stop), bounds.max_stop_sequences
    _refuse(stops > most, f"`stop` supports up to {most} stop sequences. Given: {stops}")
    many = given.best_of is not None and given.best_of > 1
    _refuse(many and given.seed is not None, "`seed` must not be set when `best_of` > 1")
    top, most = given.top_n_tokens or 0, bounds.max_top_n_tokens
    _refuse(top > most, f"`top_n_tokens` must be >= 0 and <= {most}. Given: {top}")


def _check_input(body: Generate, bounds: Bounds) -> None:
    _refuse(not body.inputs, "`inputs` cannot be empty")
    kept, most = body.parameters.truncate, bounds.max_input_tokens
    _refuse(
        kept is not None and not 0 < kept <= most,
        f"`truncate` must be strictly positive and less than {most}. Given: {kept}",
    )


def _refuse_missing(given: Parameters) -> None:
    _refuse(given.adapter_id is not None, "`adapter_id` is not supported")


def _sampling(given: Parameters, bounds: Bounds, pick: Callable[[], int]) -> Sampling:
    plain = Sampling(
        repetition_penalty=1.0 if given.repetition_penalty is None else given.repetition_penalty,
        frequency_penalty=given.frequency_penalty or 0.0,
        min_new_tokens=given.min_new_tokens or 0,
    )
    if given.watermark:
        gamma, delta = bounds.watermark_gamma, bounds.watermark_delta
        plain = replace(plain, watermark=True, watermark_gamma=gamma, watermark_delta=delta)
    cut = any(value is not None for value in (given.top_k, given.top_p, given.typical_p))
    if not (given.do_sample or cut or given.temperature not in (None, 1.0)):
        return plain
    return replace(
        plain,
        seed=pick() if given.seed is None else given.seed,
        temperature=given.temperature or 1.0,
        top_k=given.top_k or 0,
        top_p=1.0 if given.top_p is None else given.top_p,
        typical_p=1.0 if given.typical_p is None else given.typical_p,
    )
