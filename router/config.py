"""The router's configuration. Each field carries its flag's help and default.

Frozen, and free of slow imports, since the launcher reads it too.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from importlib.util import find_spec
from pathlib import Path

from router.options import option
from router.scheduler.config import SchedulerConfig


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits on one request, and on all requests together."""

    max_concurrent_requests: int = option(
        128, "maximum number of concurrent requests; any more are answered with status 429"
    )
    max_best_of: int = option(2, "maximum value of `best_of`")
    max_stop_sequences: int = option(4, "maximum number of stop sequences per request")
    max_top_n_tokens: int = option(5, "maximum value of `top_n_tokens`")
    max_input_tokens: int | None = option(
        None,
        "maximum number of prompt tokens per request; default: max-total-tokens - 1",
        aliases=("max-input-length",),
    )
    max_total_tokens: int | None = option(
        None,
        "maximum number of prompt and output tokens per request; default: what the model and the"
        " memory allow",
    )
    max_queue_seconds: float | None = option(
        None,
        "seconds that a request may wait for its first step; one that has waited, or would wait,"
        " for longer is answered with status 429; default: no limit",
    )
    max_unread_tokens: int = option(
        128,
        "tokens of a stream that its client has not read, after which its generation is paused"
        " until the client has read half of them",
    )
    max_client_batch_size: int = option(4, "maximum number of prompts per request")
    payload_limit: int = option(2_000_000, "maximum size of a request body in bytes")
    max_batch_size: int | None = option(None, "maximum number of requests in one step; default: 64")
    max_batch_prefill_tokens: int | None = option(
        None, "maximum number of prompt tokens in one step; default: 512 on CPU, 4096 on CUDA"
    )
    max_batch_total_tokens: int | None = option(
        None, "size of the KV cache in tokens; default: what the memory allows"
    )
    max_swap_tokens: int | None = option(
        None,
        "host memory for preempted requests, in tokens; default: on CUDA the size of the KV cache,"
        " but at most a quarter of the free memory; on CPU none",
    )
    validation_workers: int = option(
        2, "number of tokenizer threads, and of processes for templates, grammars and long texts"
    )
    watermark_gamma: float = option(0.5, "fraction of the vocabulary on the watermark's green list")
    watermark_delta: float = option(2.0, "logit bias added to green-list tokens")
    disable_grammar_support: bool = option(False, "reject every request that has a grammar")

    def check(self) -> None:
        """Raises ValueError for values that contradict each other, in TGI's words if it has any."""
        if not 0 < self.watermark_gamma < 1:
            raise ValueError("`watermark_gamma` must be > 0 and < 1")
        if self.max_batch_size is not None and self.max_batch_size < 1:
            raise ValueError("max_batch_size must be > 0")
        if self.max_queue_seconds is not None and not self.max_queue_seconds > 0:
            raise ValueError("`max_queue_seconds` must be > 0")
        for name in (item.name for item in fields(self)):
            value, minimum = getattr(self, name), 0 if name in _MAY_BE_ZERO else 1
            if type(value) is int and value < minimum:
                raise ValueError(f"`{name}` must be {'>= 0' if minimum == 0 else '> 0'}")
        self._check_lengths()

    def _check_lengths(self) -> None:
        prompt, total = self.max_input_tokens, self.max_total_tokens
        cache = self.max_batch_total_tokens
        if prompt is not None and total is not None and prompt >= total:
            raise ValueError(f"`max_input_tokens`({prompt}) must be < `max_total_tokens`({total})")
        if total is not None and cache is not None and total > cache:
            raise ValueError(
                "`max_total_tokens` must be <= `max_batch_total_tokens`."
                f" Given: {total} and {cache}"
            )


_MAY_BE_ZERO = frozenset(("max_stop_sequences", "max_swap_tokens", "max_top_n_tokens"))


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The address, the access rules, the logs and the traces of the HTTP server."""

    hostname: str = option("0.0.0.0", "address to listen on", environment=None)  # noqa: S104
    port: int = option(3000, "port to listen on; 0 chooses a free one", short="-p")
    api_key: str | None = option(
        None, "API key required by every route except the health checks", secret=True
    )
    api_key_file: str | None = option(
        None,
        "file with one API key per line, each of which is accepted; lines that begin with # are"
        " comments; `ps` does not show them",
    )
    prefix_cache_per_key: bool = option(
        False, "share cached prefixes only between requests with the same API key"
    )
    protect_metrics: bool = option(False, "require the API key at /metrics too")
    metrics_names: str = option(
        "tgi",
        "names of the metrics at /metrics: TGI's, vLLM's for those that vLLM has, or both",
        choices=("tgi", "vllm", "both"),
    )
    cors_allow_origin: tuple[str, ...] = option(
        (), "origin allowed to call the server from a browser; may be repeated; default: any"
    )
    tokenizer_config_path: str | None = option(
        None, "file whose chat template replaces the model's own"
    )
    tool_call_parser: str = option(
        "auto",
        "format of the model's tool calls; auto: the format of its chat template",
        choices=(
            "auto",
            "hermes",
            "qwen3_coder",
            "mistral",
            "deepseek",
            "llama3_json",
            "glm",
            "granite",
            "harmony",
            "json",
        ),
    )
    generation_config: str = option(
        "auto",
        "sampling values that the routes under /v1 use where a request has none; auto: those of the"
        " model's generation_config.json, none: OpenAI's",
        choices=("auto", "none"),
    )
    json_output: bool = option(False, "log one JSON object per line")
    log_level: str = option(
        "info", "log level, or filters as in TGI, such as info,text_generation_router=debug"
    )
    no_ui: bool = option(False, "do not serve the pages /ui, /dashboard and /docs")
    max_connections: int = option(
        1024, "maximum number of open connections; any more are answered with status 503"
    )
    keepalive_timeout: float = option(
        15.0, "seconds before a connection is closed that is idle or sends no complete header"
    )
    body_timeout: float = option(30.0, "seconds in which a request body must arrive")
    write_timeout: float = option(
        30.0, "seconds that a client may leave a stream unread before it is disconnected"
    )
    step_timeout: float | None = option(
        None,
        "seconds without progress in a step, or without an answer to a ping, after which the shards"
        " count as hung; default: 10, or 20 times what the step should take if that is more, but at"
        " most 300",
    )
    record: str | None = option(
        None, "file that gets a line for each decision of the scheduler, for `benchmark trace`"
    )
    record_bytes: int = option(100_000_000, "maximum size of that file in bytes")
    otlp_endpoint: str | None = option(
        None, "OTLP/gRPC endpoint that traces are sent to; needs the extra `traces`"
    )
    otlp_metrics: bool = option(
        False, "send the metrics of OpenTelemetry's gen_ai conventions to `otlp_endpoint` too"
    )
    otlp_service_name: str = option(
        "text-generation-inference.router", "service name of the traces"
    )
    graceful_termination_timeout: int = option(
        90, "seconds that live requests have to finish when the server is stopped", short="-g"
    )

    def check(self) -> None:
        """Raises ValueError for a value that is out of range or contradicts another."""
        if not 0 <= self.port < 65536:
            raise ValueError(f"`port`({self.port}) must be between 0 and 65535")
        for name in _POSITIVE:
            if (value := getattr(self, name)) is not None and value <= 0:
                raise ValueError(f"`{name}` must be > 0")
        if self.otlp_endpoint and not find_spec("opentelemetry"):
            raise ValueError(
                "`otlp_endpoint` needs the extra `traces`: pip install tgi-laps[traces]"
            )
        if self.otlp_metrics and not self.otlp_endpoint:
            raise ValueError("`otlp_metrics` needs `otlp_endpoint`")
        if self.prefix_cache_per_key and not (self.api_key or self.api_key_file):
            raise ValueError("`prefix_cache_per_key` needs `api_key` or `api_key_file`")
        if self.graceful_termination_timeout < 0:
            raise ValueError("`graceful_termination_timeout` must be >= 0")

    def api_keys(self) -> tuple[str, ...]:
        """`api_key` and the keys of `api_key_file`; without any, the server is open.

        Raises ValueError for a file that has no key or cannot be read.
        """
        own = (self.api_key,) if self.api_key else ()
        return own if self.api_key_file is None else (*own, *_read_keys(self.api_key_file))


_POSITIVE = (
    "body_timeout",
    "keepalive_timeout",
    "max_connections",
    "record_bytes",
    "step_timeout",
    "write_timeout",
)


def _read_keys(path: str) -> list[str]:
    """The keys in the file at `path`. Raises ValueError if there is none."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"`api_key_file`: {path} cannot be read") from None
    keys = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
    if not keys:
        raise ValueError(f"`api_key_file`: {path} has no key")
    return keys


@dataclass(frozen=True, slots=True)
class RouterConfig:
    """The complete configuration of the router process."""

    limits: Limits
    scheduler: SchedulerConfig
    server: ServerConfig
    model_path: str
    """Folder that holds `tokenizer.json` and `config.json`."""
    model_id: str
    revision: str | None
    draft_model_id: str | None
    sockets: tuple[str, ...]
    """Path of each rank's Unix socket, rank 0 first."""
    listen_fd: int
    """Inherited file descriptor of the HTTP socket, which is bound but not yet listening."""
    generation: int = 1
    """Number of the start of the shards to connect to."""
    load_seconds: float = 0.0
    """What that start took."""
    step_log: str | None = None
    """File that gets one line per step; for benchmarks."""
    adapters: tuple[str, ...] = ()
    """Names of the LoRA adapters that the shards begin with, in the order of their numbers."""
    adapter_paths: tuple[str, ...] = ()
    """Their folders."""
    lora_folder: str | None = None
    """Folder from which adapters may be loaded while the server runs; None: from none."""
    max_lora_bytes: int = 0
    """Maximum size on one rank of all adapters that are loaded then."""

    @property
    def may_have_adapters(self) -> bool:
        """Whether there are adapters, or may be later."""
        return bool(self.adapters) or self.lora_folder is not None
