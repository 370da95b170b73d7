"""A bell: how parts of one process wake each other."""

import asyncio


class Bell:
    """Wakes everybody who waits, in this process: a hint to look at the database again, never the news itself."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def ring(self) -> None:
        event, self._event = self._event, asyncio.Event()
        event.set()

    def listen(self) -> asyncio.Event:
        """What to hand to `wait` later, so that a ring between now and then is not missed."""
        return self._event

    async def wait(self, at_most: float | None, since: asyncio.Event | None = None) -> None:
        """Return at the next ring (after `since` was listened for), or after `at_most` seconds, if that is a number."""
        try:
            async with asyncio.timeout(at_most):
                await (since or self._event).wait()
        except TimeoutError:
            return
