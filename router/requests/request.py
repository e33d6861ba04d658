"""A Request: what a valid body asks for, whichever API it came from.

`fit_to_context` holds the rules that need the prompt's length in tokens. No socket, clock or
tokenizer.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

from router.config import Limits
from router.requests.rules import require
from shard.wire.protocol import ReportOptions, Sampling

COUNTED_NEW_TOKENS = 1024
"""Maximum new tokens that the length check counts, as in TGI."""
MAX_PROMPT_LOGPROBS = 8192
"""Maximum length in tokens of a prompt whose log-probabilities are returned."""
SEED_LIMIT = 1 << 53
"""Random seeds are below this, so that clients that parse numbers as doubles get them exactly."""


@dataclass(frozen=True, slots=True)
class ResolvedLimits(Limits):
    """Limits whose two lengths are resolved."""

    max_input_tokens: int = 0
    max_total_tokens: int = 0


def resolve_limits(limits: Limits, max_length: int) -> ResolvedLimits:
    """`limits` for rows of up to `max_length` tokens. Raises ValueError if they conflict."""
    total = max_length if limits.max_total_tokens is None else limits.max_total_tokens
    longest_input = total - 1 if limits.max_input_tokens is None else limits.max_input_tokens
    if total > max_length:
        raise ValueError(f"`max_total_tokens`({total}) must be <= {max_length}")
    if longest_input >= total:
        raise ValueError(
            f"`max_input_tokens`({longest_input}) must be < `max_total_tokens`({total})"
        )
    values = {field.name: getattr(limits, field.name) for field in fields(Limits)}
    return ResolvedLimits(
        **{**values, "max_input_tokens": longest_input, "max_total_tokens": total}
    )


@dataclass(frozen=True, slots=True)
class Request:
    """What to generate; valid except for its length, which `fit_to_context` checks."""

    inputs: str
    sampling: Sampling
    """With a seed; temperature 0 is greedy."""
    max_new_tokens: int | None = None
    """None: `default_new_tokens`, or fewer if no more fit."""
    stop: tuple[str, ...] = ()
    truncate: int | None = None
    """Keep only this many of the prompt's last tokens."""
    ignore_eos: bool = False
    speculate: int | None = None
    """Maximum draft length; None: the server's."""
    details: bool = False
    return_full_text: bool | None = None
    """None: the route's default."""
    stream: bool = False
    top_n_tokens: int = 0
    """Return this many of the most likely tokens at each position."""
    decoder_input_details: bool = False
    """Return the prompt's log-probabilities; implies `details`."""
    best_of: int = 1
    """Generate this many sequences and return the most likely one."""
    prompt_token_ids: tuple[int, ...] | None = None
    """The prompt, if it was sent as token ids; `inputs` is its text."""
    add_special_tokens: bool = True
    """Whether the tokenizer adds its special tokens to `inputs`."""
    raw_logprobs: bool = False
    """Log-probabilities before penalties, temperature and filters."""
    hide_stops_and_specials: bool = False
    """Whether stop strings and special tokens stay out of the text, as OpenAI has it."""
    visible_specials: frozenset[str] = frozenset()
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
    draft_details: bool = False
    """Whether each token is reported with its origin: drafted, or the target's own."""
    route: int = 0
    """Kind of text, by which answers' lengths are learned: 0 plain, 1 chat."""
    default_new_tokens: int | None = None
    """None: as many as fit."""
    adapter: int = 0
    """Number of the adapter; 0 for the model alone."""
    prompt_only: bool = False
    """Whether only the prompt is reported. The token that is generated nevertheless needs no room
    in the context."""

    @property
    def tenant(self) -> int:
        """A number for `user`, the same in every process; 0 without a user."""
        return digest(self.user) if self.user else 0

    @property
    def report(self) -> ReportOptions:
        """What the shards report in addition to the tokens."""
        return ReportOptions(self.top_n_tokens, self.raw_logprobs, self.decoder_input_details)

    @property
    def seed(self) -> int | None:
        """The seed to report; None for greedy decoding."""
        return self.sampling.seed if self.sampling.temperature else None


def random_seed() -> int:
    """A random seed for a request that samples and has none."""
    return secrets.randbelow(SEED_LIMIT)


def expand_best_of(request: Request, count: int) -> tuple[Request, ...]:
    """`request`, and `count` - 1 more that differ in their seeds, which follow from its seed."""
    sampling = request.sampling
    seeds = [sampling.seed, *(_derived_seed(sampling.seed, index) for index in range(1, count))]
    return tuple(replace(request, sampling=replace(sampling, seed=seed)) for seed in seeds)


def _derived_seed(seed: int, index: int) -> int:
    return digest(f"{seed} {index}") % SEED_LIMIT


def digest(text: str) -> int:
    """64 bits of BLAKE2b."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def check_text_size(request: Request, min_tokens: int, bounds: ResolvedLimits) -> None:
    """Raise ValidationError for a text of at least `min_tokens` tokens that cannot fit."""
    limit = _max_input(request, bounds)
    require(
        request.truncate is not None or min_tokens <= limit,
        f"`inputs` must have less than {limit} tokens. Given: at least {min_tokens}",
    )


def fit_to_context(
    request: Request, tokens: Sequence[int], bounds: ResolvedLimits
) -> tuple[tuple[int, ...], int]:
    """The prompt's tokens after truncation, and the maximum number of new ones; at least 1 each.

    The check counts at most COUNTED_NEW_TOKENS new tokens, as in TGI, so 10000 passes where 1024
    fit; the budget is the requested number, reduced to the room that is left. Raises
    ValidationError.
    """
    kept = tokens if request.truncate is None else tokens[-request.truncate :]
    used, most = len(kept), bounds.max_total_tokens
    room = max(most - used, 0)
    default = room if request.default_new_tokens is None else min(room, request.default_new_tokens)
    asked = default if request.max_new_tokens is None else request.max_new_tokens
    counted = 0 if request.prompt_only else min(asked, COUNTED_NEW_TOKENS)
    require(
        used + counted <= most,
        f"`inputs` tokens + `max_new_tokens` must be <= {most}. "
        f"Given: {used} `inputs` tokens and {counted} `max_new_tokens`",
    )
    limit = _max_input(request, bounds)
    require(used <= limit, f"`inputs` must have less than {limit} tokens. Given: {used}")
    require(
        not request.decoder_input_details or used <= MAX_PROMPT_LOGPROBS,
        f"log-probabilities are returned for prompts of at most {MAX_PROMPT_LOGPROBS} tokens."
        f" Given: {used}",
    )
    require(used > 0, "`inputs` cannot be empty")  # a tokenizer may add nothing to odd text
    return tuple(kept), 1 if request.prompt_only else min(asked, room)


def _max_input(request: Request, bounds: ResolvedLimits) -> int:
    """Maximum length of the prompt in tokens: all of the context where nothing is to follow."""
    fills_context = request.prompt_only and bounds.max_input_tokens == bounds.max_total_tokens - 1
    return bounds.max_total_tokens if fills_context else bounds.max_input_tokens
