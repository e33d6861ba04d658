"""The launcher with stand-ins for its children: argv[1] is what they do, the rest is its own."""

import json
import sys
from pathlib import Path

import launcher

STAND_IN = (sys.executable, str(Path(__file__).with_name("stand_in.py")))
plan = json.loads(sys.argv.pop(1))


def shard(_chosen, _models, _sockets, rank, _folder):
    config = plan["shards"][rank] | {"name": f"rank {rank}"}
    return launcher.ChildCommand(f"rank {rank}", STAND_IN, config)


def router(_chosen, _models, _sockets, descriptor):
    return launcher.ChildCommand(
        "router", STAND_IN, plan["router"] | {"name": "router"}, (descriptor,)
    )


launcher.shard_command = shard
launcher.router_command = router
launcher.REMINDER_SECONDS = plan.get("remind", launcher.REMINDER_SECONDS)
sys.exit(launcher.main())
