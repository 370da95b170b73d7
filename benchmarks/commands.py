"""How long the command line takes to start, beside a bare Python."""

import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from benchmarks.environment import Environment
from benchmarks.report import Row, of_runs

RUNS = 9


def measure(env: Environment) -> Iterator[Row]:
    """Medians of nine starts each."""
    del env
    raw = _starts([sys.executable, "-c", "pass"])
    for words in (["--help"], ["version"], ["recipe", "list"]):
        ours = _starts([sys.executable, "-m", "gateway.cli.main", *words])
        yield of_runs(f"sluice {' '.join(words)}", "ms", ours, raw, "raw: python -c pass")


def _starts(command: Sequence[str]) -> list[float]:
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        times.append((time.perf_counter() - began) * 1000)
    return times
