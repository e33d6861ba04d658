"""`python -m benchmark NAME`: the table of subcommands.

Rule: decides names and help lines only. A subcommand's module is imported when the subcommand is
chosen, so `--help` does not import torch. Each module has `add_arguments(parser)` and
`run(args) -> int`, the exit status.
"""

import argparse
import importlib
import sys

COMMANDS = {
    "models": ("benchmark.models.prepare", "fetch real public models and convert them"),
    "inflate": ("benchmark.models.inflate", "write a larger model that computes the same function"),
    "train-demo": ("benchmark.demo.train", "train the bundled demo pair of models"),
    "demo-report": ("benchmark.demo.report", "measure the demo pair, write docs/demo-models.md"),
    "engine": (
        "benchmark.engine.speed",
        "compare the engine's speed with transformers' generation methods",
    ),
    "peers": ("benchmark.peers.command", "compare the speed with other servers, in turns"),
    "startup": ("benchmark.peers.startup", "measure the time from a start to the first token"),
    "clean-clone": (
        "benchmark.server.clean_clone",
        "measure the time from a clean clone to the first streamed token",
    ),
    "report": ("benchmark.report", "rebuild the tables of docs/performance.md from the results"),
    "preemption": (
        "benchmark.engine.preemption",
        "measure what one preemption costs, by each method",
    ),
    "schedulers": ("benchmark.study.schedulers", "compare scheduling policies in virtual time"),
    "study": ("benchmark.study.command", "regenerate docs/study.md with its plots"),
    "record-costs": (
        "benchmark.recording.costs",
        "time Steps and fit the simulator's costs to them",
    ),
    "record-traces": (
        "benchmark.recording.traces",
        "record which draft tokens the target accepts",
    ),
    "live": (
        "benchmark.server.latency",
        "compare LAPS-SD with FCFS on a real server and in the simulator",
    ),
    "trace": ("benchmark.timeline.command", "show who ran when, from a server's --record FILE"),
    "drafters": ("benchmark.engine.drafters", "compare the drafters on five kinds of work"),
    "lora": ("benchmark.engine.adapters", "measure what LoRA adapters cost a decoding step"),
    "prefix": ("benchmark.engine.prefix", "measure what a shared prefix saves"),
    "long-prompt": (
        "benchmark.server.stalls",
        "measure how long heavy requests delay another stream",
    ),
    "faults": ("benchmark.faults.command", "kill shards in the middle of streams"),
    "fleet": (
        "benchmark.fleet.command",
        "compare the ways to choose a replica, in virtual time",
    ),
    "fleet-live": (
        "benchmark.fleet.live",
        "compare least wait with round robin over two replicas under Ray Serve",
    ),
    "simulate": (
        "benchmark.faults.virtual.command",
        "simulate the router with faults of ranks, network and clients in virtual time",
    ),
    "restarts": ("benchmark.faults.restarts", "kill launchers, and start servers on a polled port"),
    "ageing": ("benchmark.study.ageing", "measure what the bound on waiting costs in the mean"),
    "starvation": ("benchmark.load.starvation", "flood a server with short requests"),
    "overload": ("benchmark.load.overload", "overload a server, with slow clients too"),
    "isolation": (
        "benchmark.load.isolation",
        "measure what one client's requests cost another, in latency, memory and secrecy",
    ),
    "reliability": ("benchmark.reliability.page", "write docs/reliability.md"),
    "soak": ("benchmark.load.soak", "run mixed load with faults for minutes or hours"),
}


def main(argv: list[str]) -> int:
    """Run the subcommand named by `argv`; exits with status 2 on an unknown one."""
    parser = argparse.ArgumentParser(prog="python -m benchmark", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (_, text) in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    chosen = parser.parse_known_args(argv[:1])[0].command
    module = importlib.import_module(COMMANDS[chosen][0])
    subparser = argparse.ArgumentParser(
        prog=f"python -m benchmark {chosen}", description=module.__doc__
    )
    module.add_arguments(subparser)
    status: int = module.run(subparser.parse_args(argv[1:]))
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
