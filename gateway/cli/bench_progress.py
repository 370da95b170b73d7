"""A benchmark while it runs: a line that tells how far it is, and Ctrl-C, after which it ends with what it has."""

import asyncio
import contextlib
import signal
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gateway.cli import output
from gateway.cli.client import trusted, where
from gateway.sdk.bench.run import Now, Plan, Run, measure

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.live import Live

_LOOK = 0.25
_SAY = 10.0


async def measured(plan: Plan, *, quiet: bool) -> Run:
    """Run it. The first Ctrl-C ends it early, the second at once."""
    url, token = where()
    now, stop = Now(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def enough() -> None:
        stop.set()
        loop.remove_signal_handler(signal.SIGINT)

    with contextlib.suppress(ValueError, RuntimeError):  # where this is not the main thread
        loop.add_signal_handler(signal.SIGINT, enough)
    teller = None if quiet else asyncio.ensure_future(_tell(now))
    try:
        return await measure(url, token, plan, ca=trusted(), now=now, stop=stop)
    finally:
        if teller is not None:
            teller.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await teller
        loop.remove_signal_handler(signal.SIGINT)


async def _tell(now: Now) -> None:
    with _line() as live:
        began, said, before = time.monotonic(), 0.0, ""
        while True:
            await asyncio.sleep(_LOOK)
            tick = time.monotonic()
            where_it_is = f"{now.stage}{now.warming}"
            if where_it_is != before:
                before, began, said = where_it_is, tick, 0.0
            if live is not None:
                live.update(describe(now, tick - began))
            elif tick - said >= _SAY:
                output.note(describe(now, tick - began))
                said = tick


@contextmanager
def _line() -> "Iterator[Live | None]":
    if not output.interactive(err=True):
        yield None
        return
    from rich.live import Live

    with Live(console=output.console(err=True), refresh_per_second=8, transient=True) as live:
        yield live


def describe(now: Now, seconds: float) -> str:
    """One line."""
    if now.load is None:
        return "Asking how the model counts its tokens ..."
    tally = now.tally
    which = f"[{now.stage}/{now.stages}] " if now.stages > 1 else ""
    if now.warming:
        return f"{which}{now.load.label}: warming up ..."
    answered = len(tally.samples) - tally.failed
    failed = f", {tally.failed} failed" if tally.failed else ""
    return (
        f"{which}{now.load.label}: {seconds:.0f} s, {answered} answered{failed}, {tally.in_flight} in flight, "
        f"{tally.pieces / max(seconds, _LOOK):.0f} pieces a second"
    )
