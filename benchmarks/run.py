"""`make bench`: every measurement, or the ones named; prints a table and saves it as JSON in .benchmarks/."""

import sys
from pathlib import Path

from benchmarks import batch, commands, launch, life, models, policy, poller, proxy, reads, submit, users
from benchmarks.environment import environment
from benchmarks.report import Row, save, show

MEASUREMENTS = {
    "commands": commands,
    "submit": submit,
    "launch": launch,
    "proxy": proxy,
    "models": models,
    "life": life,
    "policy": policy,
    "poller": poller,
    "users": users,
    "reads": reads,
    "batch": batch,
}


def main(names: list[str]) -> None:
    if unknown := set(names) - set(MEASUREMENTS):
        raise SystemExit(f"no measurement named {', '.join(sorted(unknown))}; there are: {', '.join(MEASUREMENTS)}")
    rows: list[Row] = []
    with environment() as env:
        for name in names or MEASUREMENTS:
            print(f"measuring {name} ...", flush=True)
            rows += MEASUREMENTS[name].measure(env)
    show(rows)
    print("saved as", save(rows, Path(".benchmarks")))


if __name__ == "__main__":
    main(sys.argv[1:])
