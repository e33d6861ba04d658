"""A child that keeps the launcher's contract and does what its config says, without a model.

`send`: events to report; `stderr`: lines for people; `stdout`: text that is no event;
`flood`: bytes without an end of line; `exit`: end
with that status; `stubborn`: ignore EOF on stdin; `drains`: end when SIGTERM comes; `heir`: start
a process that holds the pipes open; `reporter`: an event to report on SIGUSR1.
"""

import json
import os
import signal
import sys

config = json.loads(sys.stdin.readline())
print(json.dumps({"event": "progress", "text": f"pid {os.getpid()}."}), flush=True)
if config.get("heir") and (heir := os.fork()) == 0:
    signal.pause()
if config.get("heir"):
    print(json.dumps({"event": "progress", "text": f"heir {heir}."}), flush=True)


def on_sigterm(*_: object) -> None:
    print(f"{config['name']} was told to end", file=sys.stderr, flush=True)
    if config.get("drains"):
        sys.exit(0)


def on_sigusr1(*_: object) -> None:
    print(json.dumps(config["witness"]), flush=True)


signal.signal(signal.SIGTERM, on_sigterm)
signal.signal(signal.SIGUSR1, on_sigusr1)
print(config.get("stdout", ""), end="", flush=True)
for line in config.get("stderr", ()):
    print(line, file=sys.stderr, flush=True)
print("x" * config.get("flood", 0), end="", file=sys.stderr, flush=True)
for event in config.get("say", ()):
    print(json.dumps(event), flush=True)
if "exit" in config:
    sys.exit(config["exit"])
sys.stdin.read()
while config.get("stubborn"):
    signal.pause()
