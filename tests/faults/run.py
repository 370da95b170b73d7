"""`make chaos`: plays faults on real clusters, prints what goes on and the table, and publishes it when asked."""

import asyncio
import json
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

import click

from gateway.cluster import Cluster
from tests.faults import report
from tests.faults.fault import Fault
from tests.faults.faults import FAULTS
from tests.faults.harness import RESULTS, Result, broken, play


@click.command()
@click.argument("names", nargs=-1)
@click.option("--fast", is_flag=True, help="The small numbers of `make test`.")
@click.option("--lanes", default=2, show_default=True, help="Faults played at once, each lane on a cluster of its own.")
@click.option("--cluster", "clusters", multiple=True, help="Use this running cluster for a lane, and leave it running.")
@click.option("--seed", default=1, show_default=True, help="Other moments, other plans of the clients.")
@click.option("--publish", is_flag=True, help=f"Play nothing; write {report.PAGE} from the last full runs.")
@click.option("--list", "listing", is_flag=True, help="Name the faults.")
def main(
    names: Sequence[str], fast: bool, lanes: int, clusters: Sequence[str], seed: int, publish: bool, listing: bool
) -> None:
    """Play the faults NAMES, or all. The exit code is 1 if any number that must be zero is not."""
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell that runs us in the background ignores them
        signal.signal(number, signal.default_int_handler)
    known = {fault.name: fault for fault in FAULTS}
    if listing:
        for fault in FAULTS:
            click.echo(f"{fault.name:32} {fault.title}: {fault.full.times} times, {fault.full.sessions} sessions")
        return
    for name in names:
        if name not in known:
            raise click.BadParameter(f"{name}: one of {', '.join(known)}")
    if publish:
        kept = [path for name in known if (path := RESULTS / f"{name}.json").exists()]
        results = [Result(**json.loads(path.read_text())) for path in kept]
        report.publish(results, json.loads((RESULTS / "facts.json").read_text()))
        return
    chosen = [known[name] for name in names] or list(FAULTS)
    with ExitStack() as stack:
        if clusters:
            ready = [Cluster.load(name) for name in clusters]
        else:
            ready = [Cluster.up(f"x{os.getpid()}-{lane}") for lane in range(min(lanes, len(chosen)))]
            for cluster in ready:
                stack.callback(cluster.down)
        results = asyncio.run(_lanes(chosen, ready, fast=fast, seed=seed))
        if not fast:
            keep("facts", report.facts(ready[0]))
    results.sort(key=lambda result: list(known).index(result.name))
    click.echo("\n" + report.table(results))
    for result in results:
        for problem in result.problems:
            click.echo(f"{result.name}: {problem}")
    sys.exit(0 if all(result.good for result in results) else 1)


def keep(name: str, values: Mapping[str, object]) -> None:
    """Keep what came of a full run."""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(values, indent=1))


async def _lanes(faults: Sequence[Fault], clusters: Sequence[Cluster], *, fast: bool, seed: int) -> list[Result]:
    """Each cluster takes the next fault when it is done with one; the first are the longest."""
    waiting, began = deque(faults), time.monotonic()
    results: list[Result] = []

    async def lane(cluster: Cluster) -> None:
        while waiting:
            fault = waiting.popleft()

            def tell(text: str, name: str = fault.name) -> None:
                click.echo(f"[{time.monotonic() - began:5.0f} s] {name}: {text}")

            size = fault.fast if fast else fault.full
            tell(f"{size.times} times under {size.sessions} sessions")
            started = time.monotonic()
            try:
                result = await play(fault, size, cluster, tell, seed=seed)
            except Exception as error:  # noqa: BLE001 - the others are played all the same
                result = broken(fault, error, time.monotonic() - started)
                tell(f"NOT OK: {error!r}")
            results.append(result)
            if not fast:
                keep(fault.name, result.values())
            cluster = Cluster.load(cluster.name)  # a host of it may be another now

    await asyncio.gather(*(lane(cluster) for cluster in clusters))
    return results


if __name__ == "__main__":
    main()
