"""TGI's flags that mean nothing here, and those that nothing here can honour yet.

An operator's script must start the server as it is. What had only to do with TGI's own insides is
accepted, and one line of warning names it. What would change the answers is refused by name,
never ignored.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from router.config import option

_NO_EFFECT = "accepted, without effect: "
_UNSUPPORTED = "refused by name until it is supported"


@dataclass(frozen=True, slots=True)
class IgnoredTgiFlags:
    """Flags without effect; those that are given differ from None and False."""

    master_addr: str | None = option(None, _NO_EFFECT + "one host needs no rendezvous by TCP")
    master_port: int | None = option(None, _NO_EFFECT + "one host needs no rendezvous by TCP")
    trust_remote_code: bool = option(False, _NO_EFFECT + "no code of a model is ever run")
    max_waiting_tokens: int | None = option(None, _NO_EFFECT + "prefill runs beside decoding")
    waiting_served_ratio: float | None = option(None, _NO_EFFECT + "prefill runs beside decoding")
    cuda_graphs: str | None = option(None, _NO_EFFECT + "sizes are chosen by the server")
    disable_custom_kernels: bool = option(False, _NO_EFFECT + "kernels are checked at start")
    enable_prefill_logprobs: bool = option(False, _NO_EFFECT + "they come to who asks for them")
    prometheus_port: int | None = option(None, _NO_EFFECT + "metrics are at /metrics")
    usage_stats: str | None = option(None, _NO_EFFECT + "nothing is ever sent")
    ngrok: bool = option(False, _NO_EFFECT + "no tunnel is opened")
    ngrok_authtoken: str | None = option(None, _NO_EFFECT + "no tunnel is opened")
    ngrok_edge: str | None = option(None, _NO_EFFECT + "no tunnel is opened")

    def check(self) -> None:
        """Nothing here can be wrong."""

    def warning(self) -> str | None:
        """One line that names what was given."""
        given = [f"`--{_flag_name(name)}`" for name in _set_flags(self)]
        return f"Without effect here: {', '.join(given)}" if given else None


@dataclass(frozen=True, slots=True)
class UnsupportedTgiFlags:
    """Flags whose value would have to change what is computed."""

    quantize: str | None = option(None, _UNSUPPORTED)
    kv_cache_dtype: str | None = option(None, _UNSUPPORTED)
    lora_adapters: str | None = option(None, _UNSUPPORTED)
    rope_scaling: str | None = option(None, _UNSUPPORTED)
    rope_factor: str | None = option(None, _UNSUPPORTED)

    def check(self) -> None:
        """Raises ValueError for the first that is given."""
        for name in _set_flags(self):
            raise ValueError(f"`--{_flag_name(name)}` is not supported yet")


def _set_flags(flags: IgnoredTgiFlags | UnsupportedTgiFlags) -> list[str]:
    names = [field.name for field in fields(flags)]
    return [name for name in names if getattr(flags, name) not in (None, False)]


def _flag_name(name: str) -> str:
    return name.replace("_", "-")
