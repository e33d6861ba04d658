"""What the router is told at its birth. Help, default and environment name stand beside the field.

Frozen and free of imports that cost time, since the launcher reads it too.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self


def option(default: Any, help: str, **more: Any) -> Any:
    """A field that is also a flag: `--field-name`, environment twin `FIELD_NAME`."""
    secret = more.pop("secret", False)
    return field(default=default, repr=not secret, metadata={"help": help, **more})


@dataclass(frozen=True, slots=True)
class Limits:
    """What one request, and all of them together, may ask for."""

    max_concurrent_requests: int = option(128, "requests at once; more are answered 429")
    max_best_of: int = option(2, "largest `best_of`")
    max_stop_sequences: int = option(4, "most stop sequences of a request")
    max_top_n_tokens: int = option(5, "largest `top_n_tokens`")
    max_input_tokens: int | None = option(
        None,
        "longest prompt in tokens; default: max-total-tokens - 1",
        aliases=("max-input-length",),
    )
    max_total_tokens: int | None = option(
        None, "prompt and output tokens of one request; default: what model and memory allow"
    )
    max_client_batch_size: int = option(4, "most prompts of one request")
    payload_limit: int = option(2_000_000, "largest request body in bytes")
    max_batch_size: int | None = option(None, "most requests in one Step; default: 64")
    max_batch_prefill_tokens: int | None = option(
        None, "most prompt tokens in one Step; default: 512 on CPU, 4096 on CUDA"
    )
    max_batch_total_tokens: int | None = option(
        None, "tokens that the KV cache holds; default: what memory allows"
    )
    max_swap_tokens: int | None = option(
        None,
        "tokens of preempted requests that host memory holds; default: on CUDA as many as the KV"
        " cache, within a quarter of the free memory; on CPU none",
    )
    validation_workers: int = option(2, "threads that tokenise")
    watermark_gamma: float = option(0.5, "share of the vocabulary that a watermark favours")
    watermark_delta: float = option(2.0, "what a favoured token's score gains")
    disable_grammar_support: bool = option(False, "refuse every request with a grammar")

    def check(self) -> None:
        """Raises ValueError for what cannot go together, in TGI's words where it has some."""
        longest, total, cache = (
            self.max_input_tokens,
            self.max_total_tokens,
            self.max_batch_total_tokens,
        )
        if not 0 < self.watermark_gamma < 1:
            raise ValueError("`watermark_gamma` must be > 0 and < 1")
        if self.max_batch_size is not None and self.max_batch_size < 1:
            raise ValueError("max_batch_size must be > 0")
        for name in (item.name for item in fields(self)):
            value, least = getattr(self, name), 0 if name in _MAY_BE_ZERO else 1
            if type(value) is int and value < least:
                raise ValueError(f"`{name}` must be {'>= 0' if least == 0 else '> 0'}")
        if longest is not None and total is not None and longest >= total:
            raise ValueError(f"`max_input_tokens`({longest}) must be < `max_total_tokens`({total})")
        if total is not None and cache is not None and total > cache:
            raise ValueError(
                "`max_total_tokens` must be <= `max_batch_total_tokens`."
                f" Given: {total} and {cache}"
            )


_MAY_BE_ZERO = frozenset(("max_stop_sequences", "max_swap_tokens", "max_top_n_tokens"))


@dataclass(frozen=True, slots=True)
class SchedulerConfig:
    """The policy and its parameters; names follow arXiv 2505.17074."""

    scheduler: str = option(
        "laps-sd",
        "order of service",
        choices=("laps-sd", "laps-sd-paper", "fcfs", "las", "sjf", "sjf-preemptive", "e-srpt"),
    )
    laps_levels: int = option(4, "K, the number of queues (the paper's best: 6 to 4)")
    laps_ratio: float = option(2.0, "M, ratio of neighbouring thresholds (ours)")
    laps_first_threshold: float | None = option(
        None,
        "Sup_1, seconds of service a request may take in the first queue; default: laps-window"
        " rounds as the shards measure them (ours)",
    )
    laps_window: int = option(4, "gamma, rounds that the acceptance rate must stay stable (ours)")
    laps_deviation: float = option(
        0.08, "delta, largest standard deviation of the windowed acceptance rate (ours)"
    )
    laps_patience: float | None = option(
        None,
        "seconds without service after which a request goes before all others; default: 8192"
        " rounds as the shards measure them for laps-sd, and never for the others (ours)",
    )
    laps_rank: str = option(
        "gittins",
        "order of laps-sd: by Gittins' index of the remaining time, by its mean, or in the paper's"
        " queues (ours)",
        choices=("gittins", "remaining", "queues"),
    )
    laps_join: str = option(
        "prior",
        "where a request enters the queues: by its prior estimate (ours) or in the first (paper)",
        choices=("prior", "first"),
    )
    laps_perception: str = option(
        "posterior",
        "when a request is perceptible: its yield is known well enough (ours) or its acceptance"
        " was stable once (paper)",
        choices=("posterior", "window"),
    )
    laps_width: float = option(
        0.2, "relative deviation of the yield within which a request is perceptible (ours)"
    )
    laps_lengths: str = option(
        "calibrated",
        "predicted lengths, and the cost of a round: corrected by what was served (ours), or taken"
        " as they are (paper)",
        choices=("calibrated", "plain"),
    )
    laps_memory: int = option(
        64, "rounds that a request's acceptance remembers; 0 for all, as in the paper (ours)"
    )
    laps_prior: float = option(
        8.0, "rounds that the acceptance of all requests weighs in the estimate for one (ours)"
    )
    laps_alarm: float = option(
        5.0, "threshold at which a drift of acceptance is noticed; 0 for never, the paper (ours)"
    )
    laps_drafts: str = option(
        "adaptive",
        "draft lengths under any scheduler: what yields most tokens a second (ours), or always the"
        " longest (paper)",
        choices=("adaptive", "longest"),
    )
    laps_hysteresis: float = option(
        0.1, "share by which an estimate may rise without effect; 0 in the paper (ours)"
    )
    laps_lock: float = option(
        1.0, "share of its service after which a request is not displaced; 1 for never (ours)"
    )
    laps_volume: float = option(
        0.0, "weight of the pages held, when all are in use; 0 for none, as in the paper (ours)"
    )
    laps_peak: bool = option(
        False, "start a request only if pages are expected to suffice to its end (ours)"
    )
    laps_tail: float = option(
        0.0, "between the least mean latency, 0, and the order of arrival, 1 (ours)"
    )
    laps_fairness: float = option(
        0.0, "weight of service that a tenant received beyond the least served one (ours)"
    )
    preemption: str = option(
        "auto",
        "how a request gives up its pages: the cheaper way, or always this one",
        choices=("auto", "swap", "recompute"),
    )
    scheduler_state: str | None = option(
        None,
        "file that keeps what was learned of lengths and drafts over a restart; none: nowhere;"
        " default: by the model's name in $XDG_STATE_HOME/text-generation-laps",
    )

    def check(self) -> None:
        """Raises ValueError for parameters that give no order."""
        if self.laps_levels < 1:
            raise ValueError("`laps_levels` must be > 0")
        if self.laps_ratio <= 1:
            raise ValueError("`laps_ratio` must be > 1, or the thresholds do not rise")
        if self.laps_window < 1:
            raise ValueError("`laps_window` must be > 0")
        if self.laps_deviation < 0:
            raise ValueError("`laps_deviation` must be >= 0")
        for name in (
            "laps_memory",
            "laps_alarm",
            "laps_hysteresis",
            "laps_volume",
            "laps_fairness",
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be >= 0")
        for name in ("laps_lock", "laps_tail"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be in 0..1")
        for name in ("laps_first_threshold", "laps_patience", "laps_width", "laps_prior"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"`{name}` must be > 0")


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Where the server listens and how it speaks to its operator."""

    hostname: str = option("0.0.0.0", "address to listen on", environment=None)  # noqa: S104
    port: int = option(3000, "port to listen on; 0 takes a free one", short="-p")
    api_key: str | None = option(None, "key that every route but the probes asks for", secret=True)
    api_key_file: str | None = option(
        None, "file that holds the key, which `ps` then does not show"
    )
    protect_metrics: bool = option(False, "ask for the key at /metrics too")
    cors_allow_origin: tuple[str, ...] = option(
        (), "origin whose pages may call the server; may be repeated; default: any"
    )
    tokenizer_config_path: str | None = option(
        None, "file whose chat template is used instead of the model's own"
    )
    tool_call_parser: str = option(
        "auto",
        "format in which the model writes tool calls; auto: that of its chat template",
        choices=(
            *("auto", "hermes", "qwen3_coder", "mistral", "deepseek", "llama3_json", "glm"),
            *("granite", "harmony", "json"),
        ),
    )
    json_output: bool = option(False, "log one JSON object per line")
    log_level: str = option(
        "info",
        "what is logged: a level, or TGI's filters, such as info,text_generation_router=debug",
    )
    no_ui: bool = option(False, "serve no pages: /docs is then not found")
    max_connections: int = option(1024, "connections at once; more are turned away")
    keepalive_timeout: float = option(15.0, "seconds that an idle connection stays open")
    step_timeout: float | None = option(
        None,
        "seconds after which a Step that has not ended means that the shards hang; default: 10, or"
        " 20 times the 99th percentile where that is longer",
    )
    otlp_endpoint: str | None = option(
        None, "where traces are sent by OTLP over gRPC; needs the extra `traces`"
    )
    otlp_service_name: str = option(
        "text-generation-inference.router", "name under which traces are sent"
    )
    graceful_termination_timeout: int = option(
        90, "seconds that live requests are given when the server is asked to stop", short="-g"
    )

    def check(self) -> None:
        """Raises ValueError for what means nothing."""
        if not 0 <= self.port < 65536:
            raise ValueError(f"`port`({self.port}) must be in 0..65535")
        for name in ("keepalive_timeout", "max_connections", "step_timeout"):
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ValueError(f"`{name}` must be > 0")
        if self.otlp_endpoint and not find_spec("opentelemetry"):
            raise ValueError(
                "`otlp_endpoint` needs the extra `traces`: pip install tgi-laps[traces]"
            )
        if self.api_key and self.api_key_file:
            raise ValueError("Both api_key and api_key_file are set")
        if self.graceful_termination_timeout < 0:
            raise ValueError("`graceful_termination_timeout` must be >= 0")

    def with_api_key(self) -> Self:
        """The same with the key that `api_key_file` holds. Raises ValueError."""
        path = self.api_key_file
        if path is None:
            return self
        try:
            key = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            raise ValueError(f"`api_key_file`: {path} cannot be read") from None
        if not key:
            raise ValueError(f"`api_key_file`: {path} is empty")
        return replace(self, api_key=key)


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """The router child's whole configuration."""

    limits: Limits
    scheduler: SchedulerConfig
    server: ServerConfig
    model_path: str
    """Folder that holds `tokenizer.json` and `config.json`."""
    model_id: str
    revision: str | None
    draft_model_id: str | None
    sockets: tuple[str, ...]
    """Unix socket of every rank, rank 0 first."""
    listen_fd: int
    """Inherited descriptor of the bound, not yet listening HTTP socket."""
    step_log: str | None = None
    """File for a line about every Step; for benchmarks."""
