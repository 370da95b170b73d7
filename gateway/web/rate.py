"""How many requests a minute one caller may send, in memory of this process.

The generic cell rate algorithm (ITU-T I.371): one number a caller, no timers, bursts of a minute's worth.
"""

_MOST_CALLERS = 65536


class Rate:
    """So many a minute for each caller, in bursts of as many. 0: no limit."""

    def __init__(self, per_minute: int) -> None:
        self._gap = 60 / per_minute if per_minute else 0.0
        self._due: dict[str, float] = {}

    @property
    def used(self) -> bool:
        """Whether anything was taken at all."""
        return bool(self._due)

    def wait(self, caller: str, now: float) -> float:
        """Seconds until the next one of this caller's would be taken; 0 if it would be now."""
        if not self._gap:
            return 0.0
        return max(0.0, max(self._due.get(caller, now), now) - now - (60 - self._gap))

    def take(self, caller: str, now: float) -> float:
        """Seconds to wait before this one would be taken; 0 if it is taken now."""
        wait = self.wait(caller, now)
        if wait or not self._gap:
            return wait
        if len(self._due) >= _MOST_CALLERS:
            self._due = {name: at for name, at in self._due.items() if at > now}
        self._due[caller] = max(self._due.get(caller, now), now) + self._gap
        return 0.0
