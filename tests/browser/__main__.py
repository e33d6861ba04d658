"""Test the pages in a real browser: `python tests/browser`, or `make test-browser`.

Needs Chromium (or the path of a browser in BROWSER), node and npm; without them the tests are
skipped by name. npm installs the driver and axe-core once, under `.venv-clients/browser`. The
server runs the echo engine with little memory, so that requests wait and are preempted.
`pages.test.mjs` holds the tests. SECONDS is how long the dashboard is watched under load, and
SCREENSHOTS an existing folder for pictures of the pages.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
ENVIRONMENT = ROOT / ".venv-clients" / "browser"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
KEY = "browser-key"
FLAGS = (
    *("--echo", "--echo-seconds", "0.03", "--hostname", "127.0.0.1", "-p", "0"),
    *("--api-key", KEY, "--scheduler-state", "none", "--max-batch-size", "8"),
    *("--max-total-tokens", "1024", "--max-batch-total-tokens", "3072"),
)
LIMIT_SECONDS = 600


def main() -> int:
    """Run the tests; return the exit status."""
    browser = os.environ.get("BROWSER") or next(filter(None, map(shutil.which, BROWSERS)), None)
    missing = [name for name in ("node", "npm") if shutil.which(name) is None]
    if browser is None or missing:
        print(f"skipped: no {' or '.join(missing or BROWSERS)}")
        return 0
    _install()
    server = _serve()
    try:
        variables = {"URL": _url(server), "KEY": KEY, "BROWSER": browser, "MODULES": ENVIRONMENT}
        environment = os.environ | {name: str(value) for name, value in variables.items()}
        command = ("node", "--test", str(HERE / "pages.test.mjs"))
        return subprocess.run(
            command, env=environment, timeout=LIMIT_SECONDS, check=False
        ).returncode
    finally:
        server.terminate()
        server.wait(timeout=60)


def _install() -> None:
    """Install the packages of `package.json`, unless they are installed."""
    wanted, installed = HERE / "package.json", ENVIRONMENT / "package.json"
    if installed.exists() and installed.read_bytes() == wanted.read_bytes():
        return
    ENVIRONMENT.mkdir(parents=True, exist_ok=True)
    shutil.copy(wanted, ENVIRONMENT / "new-package.json")
    packages = re.findall(r'"(axe-core|playwright-core)": "(.+?)"', wanted.read_text())
    names = [f"{name}@{version}" for name, version in packages]
    command = ("npm", "install", "--no-save", "--no-fund", "--no-audit", "--prefix", ENVIRONMENT)
    subprocess.run((*command, *names), check=True)
    (ENVIRONMENT / "new-package.json").replace(installed)


def _serve() -> subprocess.Popen[str]:
    command = (sys.executable, str(ROOT / "launcher.py"), *FLAGS)
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _url(server: subprocess.Popen[str]) -> str:
    assert server.stdout
    for line in server.stdout:
        if match := re.search(r"Connected: serving at (\S+);", line):
            return match[1]
    raise SystemExit("the server did not start")


if __name__ == "__main__":
    sys.exit(main())
