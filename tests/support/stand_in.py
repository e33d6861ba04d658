"""A child of the launcher without a model, which does what its configuration says.

`events`: events to send; `stderr`: lines of log; `stdout`: text that is not an event; `flood`:
number of bytes without a newline on stderr; `exit`: exit with this status; `ignores_eof`: keep
running after EOF on stdin; `drains`: exit on SIGTERM; `fork`: start a process that keeps the pipes
open; `on_sigusr1`: an event to send on SIGUSR1; `once`: a file that the first start creates, since
every later one follows the changes in `again`.
"""

import json
import os
import signal
import sys
from pathlib import Path
from threading import Thread

SIGNALS = {signal.SIGTERM, signal.SIGUSR1}
signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)  # none is lost: `sigwait` takes them one by one
line = sys.stdin.readline()
if not line:
    sys.exit()  # the launcher ends before it has sent a configuration
config = json.loads(line)
if "once" in config:
    if Path(config["once"]).exists():
        config |= config["again"]
    Path(config["once"]).touch()
print(json.dumps({"event": "progress", "text": f"pid {os.getpid()}."}), flush=True)
if config.get("fork") and (pid := os.fork()) == 0:
    signal.pause()
if config.get("fork"):
    print(json.dumps({"event": "progress", "text": f"fork {pid}."}), flush=True)
print(config.get("stdout", ""), end="", flush=True)
for line in config.get("stderr", ()):
    print(line, file=sys.stderr, flush=True)
print("x" * config.get("flood", 0), end="", file=sys.stderr, flush=True)
for event in config.get("events", ()):
    print(json.dumps(event), flush=True)
if "exit" in config:
    sys.exit(config["exit"])


def read_messages() -> None:
    for message in sys.stdin:
        print(f"{config['name']} received {message.strip()}", file=sys.stderr, flush=True)
    if not config.get("ignores_eof"):
        os._exit(0)


Thread(target=read_messages, daemon=True).start()
while True:
    if signal.sigwait(SIGNALS) == signal.SIGUSR1:
        print(json.dumps(config["on_sigusr1"]), flush=True)
        continue
    print(f"{config['name']} received SIGTERM", file=sys.stderr, flush=True)
    if config.get("drains"):
        os._exit(0)
