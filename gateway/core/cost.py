"""What it costs to ask a cluster's Slurm: counted where it is asked, shown to Prometheus, weighed by the poller."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Final, Literal

Outcome = Literal["ok", "refused", "unanswered"]

SECONDS: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
BYTES: Final = (1e3, 1e4, 3e4, 1e5, 3e5, 1e6, 2e6, 1e7, 1e8)


@dataclass
class Distribution:
    """How many values were at most each of `bounds`, and how many above all; and their sum."""

    bounds: Sequence[float]
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> Iterator[tuple[str, int]]:
        """Upper bounds and how many values were not above them, as Prometheus wants them."""
        seen = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            seen += count
            yield "+Inf" if bound == float("inf") else str(bound), seen


@dataclass
class Tally:
    """What was received in one look, in bytes."""

    received: int = 0


_tally: ContextVar[Tally | None] = ContextVar("tally", default=None)


class Cost:
    """Of one cluster, since this process began.

    `calls`: requests to slurmrestd and commands, by name and outcome: `refused` by Slurm's own words, `unanswered` if
    nothing came back. `seconds`, `bytes` and `jobs` are of looks at the jobs, inventories apart.
    """

    def __init__(self) -> None:
        self.calls: Counter[tuple[str, Outcome]] = Counter()
        self.seconds = Distribution(SECONDS)
        self.bytes = Distribution(BYTES)
        self.jobs = 0

    @property
    def used(self) -> bool:
        """Whether this process has asked that Slurm anything."""
        return bool(self.calls)

    def asked(self, call: str, outcome: Outcome, received: int, times: int = 1) -> None:
        """Slurm was asked; so many bytes came back."""
        self.calls[call, outcome] += times
        if (tally := _tally.get()) is not None:
            tally.received += received

    @contextmanager
    def tally(self) -> Iterator[Tally]:
        """Adds up what is received by this task, and by those that it starts, while the block runs."""
        before = _tally.set(tally := Tally())
        try:
            yield tally
        finally:
            _tally.reset(before)

    def looked(self, seconds: float, received: int, jobs: int) -> None:
        """A look at so many jobs was answered."""
        self.seconds.add(seconds)
        self.bytes.add(received)
        self.jobs = jobs
