"""How long to rest between two looks at Slurm. Pure; times in seconds, `chance` is drawn from [0, 1)."""

from typing import Final

POLL_COST: Final = 5
LIST_COST: Final = 50
SHORTEST: Final = 0.1
LONGEST_REST: Final = 60.0
LONGEST_SILENCE: Final = 10.0
LONGEST_BETWEEN_LISTS: Final = 600.0

_BELIEVED_AT_ONCE: Final = 1.0


def believed(took: float, before: float) -> float:
    """What it costs to ask, after an answer that took so long; `before`: what was believed before that.

    One answer alone may have been held up, and not by its cost: this process was stopped and goes on, a controller
    was restarted, a link was down. So a long time is believed at once up to a second, and then twice as much each time.
    """
    return min(took, max(_BELIEVED_AT_ONCE, 2 * before))


def after_answer(looked: float, turned: float) -> float:
    """The least rest: Slurm is asked for a sixth of the time at most, and we work for half of it at most.

    Both as `believed`; and never so long that nobody could say any more that sessions are followed.
    """
    return min(LONGEST_REST, max(SHORTEST, POLL_COST * looked, turned))


def after_silence(failures: int, usual: float, chance: float) -> float:
    """Slurm did not answer `failures` times in a row: each time longer, and not all gateways of a site at once.

    Only an answer says what a look costs, so how long the silence was does not matter: the next answer is wanted soon.
    """
    longest = min(LONGEST_SILENCE, usual * 2.0 ** min(failures - 1, 10))
    return max(SHORTEST, longest * (1 + chance) / 2)


def between_lists(took: float, usual: float) -> float:
    """From one list of nodes, or of who waits, to the next: a fiftieth of the time at most (there may be thousands)."""
    return max(usual, min(LONGEST_BETWEEN_LISTS, LIST_COST * took))
