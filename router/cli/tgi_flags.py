"""TGI's flags that have no effect here, and those that are not supported.

Existing start scripts must keep working: a flag that configured TGI's own internals is accepted
with one warning. A flag that would change what is computed is refused by name, never ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from router.options import option

_NO_EFFECT = "no effect: "
_UNSUPPORTED = "not supported; the server refuses to start with it"


@dataclass(frozen=True, slots=True)
class IgnoredTgiFlags:
    """Flags of TGI that are accepted with a warning and have no effect."""

    master_addr: str | None = option(None, _NO_EFFECT + "one host needs no TCP rendezvous")
    master_port: int | None = option(None, _NO_EFFECT + "one host needs no TCP rendezvous")
    trust_remote_code: bool = option(False, _NO_EFFECT + "a model's own code is never run")
    max_waiting_tokens: int | None = option(None, _NO_EFFECT + "prefill and decode are mixed")
    waiting_served_ratio: float | None = option(None, _NO_EFFECT + "prefill and decode are mixed")
    cuda_graphs: str | None = option(None, _NO_EFFECT + "the server chooses the sizes")
    disable_custom_kernels: bool = option(False, _NO_EFFECT + "kernels are tested at startup")
    enable_prefill_logprobs: bool = option(
        False, _NO_EFFECT + "every request that asks for prompt log-probabilities gets them"
    )
    prometheus_port: int | None = option(None, _NO_EFFECT + "metrics are served at /metrics")
    usage_stats: str | None = option(None, _NO_EFFECT + "usage statistics are never sent")
    ngrok: bool = option(False, _NO_EFFECT + "tunnels are not supported")
    ngrok_authtoken: str | None = option(None, _NO_EFFECT + "tunnels are not supported")
    ngrok_edge: str | None = option(None, _NO_EFFECT + "tunnels are not supported")

    def warning(self) -> str | None:
        """One line that names every flag that is set; None if there is none."""
        names = [f"`--{_flag_name(name)}`" for name in _set_fields(self)]
        return f"These flags have no effect: {', '.join(names)}" if names else None


@dataclass(frozen=True, slots=True)
class UnsupportedTgiFlags:
    """Flags of TGI that are refused."""

    quantize: str | None = option(None, _UNSUPPORTED)
    kv_cache_dtype: str | None = option(None, _UNSUPPORTED)

    def check(self) -> None:
        """Raises ValueError for the first flag that is set."""
        for name in _set_fields(self):
            raise ValueError(f"`--{_flag_name(name)}` is not supported yet")


def _set_fields(flags: IgnoredTgiFlags | UnsupportedTgiFlags) -> list[str]:
    names = [field.name for field in fields(flags)]
    return [name for name in names if getattr(flags, name) not in (None, False)]


def _flag_name(field_name: str) -> str:
    return field_name.replace("_", "-")
