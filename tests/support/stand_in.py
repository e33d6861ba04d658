"""A child of the launcher without a model, which does what its configuration says.

`events`: events to send; `stderr`: lines of log; `stdout`: text that is not an event; `flood`:
number of bytes without a newline on stderr; `exit`: exit with this status; `ignores_eof`: keep
running after EOF on stdin; `drains`: exit on SIGTERM; `fork`: start a process that keeps the pipes
open; `on_sigusr1`: an event to send on SIGUSR1.
"""

import json
import os
import signal
import sys

config = json.loads(sys.stdin.readline())
print(json.dumps({"event": "progress", "text": f"pid {os.getpid()}."}), flush=True)
if config.get("fork") and (pid := os.fork()) == 0:
    signal.pause()
if config.get("fork"):
    print(json.dumps({"event": "progress", "text": f"fork {pid}."}), flush=True)


def on_sigterm(*_: object) -> None:
    print(f"{config['name']} received SIGTERM", file=sys.stderr, flush=True)
    if config.get("drains"):
        sys.exit(0)


def on_sigusr1(*_: object) -> None:
    print(json.dumps(config["on_sigusr1"]), flush=True)


signal.signal(signal.SIGTERM, on_sigterm)
signal.signal(signal.SIGUSR1, on_sigusr1)
print(config.get("stdout", ""), end="", flush=True)
for line in config.get("stderr", ()):
    print(line, file=sys.stderr, flush=True)
print("x" * config.get("flood", 0), end="", file=sys.stderr, flush=True)
for event in config.get("events", ()):
    print(json.dumps(event), flush=True)
if "exit" in config:
    sys.exit(config["exit"])
sys.stdin.read()
while config.get("ignores_eof"):
    signal.pause()
