"""One fault: how it is done to a stage and undone, how often, and under how many sessions."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from random import Random

from tests.faults.stage import Setting, Stage


@dataclass(frozen=True, kw_only=True)
class Size:
    """How often a fault is injected, while how many sessions are asked for, and how long it lasts each time (s)."""

    times: int
    sessions: int
    hold: tuple[float, float] = (0.0, 0.0)


class Fault(ABC):
    """A kind of fault. `inject` returns when it is there, `heal` when it is over as far as its cause goes."""

    name: str
    title: str
    full: Size
    fast: Size
    setting: Setting = Setting()
    # The most time that everything may take to end by itself when the last fault is over.
    patience: float = 240.0

    @abstractmethod
    async def inject(self, stage: Stage, chance: Random) -> None: ...

    async def heal(self, stage: Stage) -> None:
        """What has no cause that stays is over at once."""

    async def until_next(self, stage: Stage, chance: Random) -> None:
        """Wait for a good moment for the next."""
