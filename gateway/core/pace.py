"""How long to rest between two looks at Slurm. Pure; times in seconds, `chance` is drawn from [0, 1)."""

from typing import Final

POLL_COST: Final = 5
INVENTORY_COST: Final = 50
SHORTEST: Final = 0.1
LONGEST_SILENCE: Final = 10.0


def after_answer(looked: float, turned: float) -> float:
    """The least rest: Slurm is asked for a sixth of the time at most, and we work for half of it at most."""
    return max(SHORTEST, POLL_COST * looked, turned)


def after_silence(failures: int, usual: float, chance: float) -> float:
    """Slurm did not answer `failures` times in a row: each time longer, and not all gateways of a site at once.

    Only an answer says what a look costs, so how long the silence was does not matter: the next answer is wanted soon.
    """
    longest = min(LONGEST_SILENCE, usual * 2.0 ** min(failures - 1, 10))
    return max(SHORTEST, longest * (1 + chance) / 2)


def between_inventories(took: float, usual: float) -> float:
    """From one look at partitions and nodes to the next: a fiftieth of the time at most (there may be thousands)."""
    return max(usual, INVENTORY_COST * took)
