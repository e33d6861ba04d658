"""Run third-party clients against a live server, each in its own virtual environment.

`python tests/clients/isolated [name ...]`, or `make test-clients`, installs each client (their
pinned dependencies conflict with this project's and with each other's), starts the server with the
bundled pair, and runs each client's script with the server's URL as its argument. A script that
exits with a non-zero status fails the run.
"""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
ENVIRONMENTS = ROOT / ".venv-clients"
CLIENTS = {
    "text_generation": ("text-generation==0.7.0",),
    "anthropic": ("anthropic==2.14.0",),
    "langchain": ("langchain-huggingface==1.2.3",),
    "litellm": ("litellm<1.109.1",),  # 1.109.1 requires a very new certifi
    "lm_eval": ("lm-eval[api]==0.4.13", "transformers"),
    "guidellm": ("guidellm==0.8.1",),
}
"""Packages in each script's environment."""
SECONDS = 900
"""Time limit of one script, in seconds."""


def main(names: list[str]) -> int:
    """Run the clients in `names`, or all. Return the number that failed."""
    server = _serve()
    try:
        url = _url(server)
        failed = [name for name in names or CLIENTS if not _passes(name, url)]
    finally:
        server.terminate()
        server.wait(timeout=60)
    print(f"failed: {', '.join(failed)}" if failed else "all clients passed")
    return len(failed)


def _serve() -> subprocess.Popen[str]:
    flags = ("--hostname", "127.0.0.1", "-p", "0", "--max-client-batch-size", "32")
    command = (sys.executable, str(ROOT / "launcher.py"), *flags)
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _url(server: subprocess.Popen[str]) -> str:
    assert server.stdout
    for line in server.stdout:
        if match := re.search(r"Connected: serving at (\S+);", line):
            return match[1]
    raise SystemExit("the server did not start")


def _passes(name: str, url: str) -> bool:
    python = _environment(name)
    print(f"== {name}", flush=True)
    command = (str(python), "-P", str(HERE / f"{name}_client.py"), url)
    return subprocess.run(command, timeout=SECONDS, check=False).returncode == 0


def _environment(name: str) -> Path:
    """Return the interpreter of the client's environment; create the environment if missing."""
    folder = ENVIRONMENTS / name
    python = folder / "bin" / "python"
    stamp = folder / ".installed"
    packages = "\n".join(CLIENTS[name])
    if not stamp.exists() or stamp.read_text() != packages:
        print(f"== installing {name}", flush=True)
        venv.create(folder, clear=True, with_pip=True)
        pip = (str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
        subprocess.run((*pip, *CLIENTS[name]), check=True)
        stamp.write_text(packages)
    return python


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
