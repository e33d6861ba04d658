"""A Ray cluster of this machine alone, with the application of `deploy/ray` on CPUs.

Loopback only, in a folder of its own, stopped at the end. The replicas run the echo engine.
"""

from __future__ import annotations

import os
import secrets
import shlex
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
LAUNCHER = (str(ROOT / ".venv" / "bin" / "python"), str(ROOT / "launcher.py"))
FLAGS = "--echo --echo-seconds 0.05 --max-batch-size 2 --scheduler-state none"
REPLICAS = 2
ENVIRONMENT = {
    "RAY_AUTH_MODE": "token",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYTHONPATH": str(ROOT),
    "OMP_NUM_THREADS": "1",
}


@contextmanager
def serving(**settings: str) -> Iterator[str]:
    """The address of an application with two replicas of the echo engine."""
    os.environ |= ENVIRONMENT
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # read once by Ray
    import ray
    from ray import serve

    from deploy.ray.app import build

    flags = f"{FLAGS} {settings.pop('extra', '')}"
    defaults = {"launcher": shlex.join(LAUNCHER), "flags": flags, "replicas": str(REPLICAS)}
    with tempfile.TemporaryDirectory(prefix="ray-") as folder:
        ray.init(
            num_cpus=REPLICAS + 1,
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=100 << 20,
            _node_ip_address="127.0.0.1",
            _temp_dir=folder,
        )
        try:
            port = _free_port()
            serve.start(http_options={"host": "127.0.0.1", "port": port})
            serve.run(build(defaults | settings))
            yield f"http://127.0.0.1:{port}"
        finally:
            serve.shutdown()
            ray.shutdown()


def _free_port() -> int:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        return port
