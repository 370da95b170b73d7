"""Which jobs the queue has by name, for a slurmrestd that can be asked by number only; each job is asked about once."""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

from gateway.model.job import SeenJob, is_ours

AT_ONCE: Final = 8
NEW_AT_ONCE: Final = 500

T = TypeVar("T")
U = TypeVar("U")


@dataclass(frozen=True)
class _Identity:
    """What of a job never changes."""

    name: str
    user: str
    submitted: datetime | None


class QueueIndex:
    """Names of the queue's jobs. `ids` gives the numbers of all jobs, cheaply; `ask` tells about one."""

    def __init__(
        self,
        ids: Callable[[], Awaitable[Collection[int]]],
        ask: Callable[[int], Awaitable[SeenJob | None]],
    ) -> None:
        self._ids = ids
        self._ask = ask
        self._known: dict[int, _Identity] = {}
        self._epoch: int | None = None
        self._one_at_a_time = asyncio.Lock()

    async def find(self, name: str, user: str, since: datetime, epoch: int | None) -> int | None:
        """The newest job of this name and user among those submitted since then, and those asked about before.

        `epoch` changes when slurmctld starts: one that crashed may have lost jobs and gives their numbers again.
        """
        async with self._one_at_a_time:  # many may be in doubt at once; the first asks for all
            if epoch != self._epoch or epoch is None:
                self._known, self._epoch = {}, epoch
            ids = sorted(await self._ids(), reverse=True)
            self._known = {i: self._known[i] for i in ids if i in self._known}  # numbers are used again some day
            for start in range(0, len(ids), AT_ONCE):
                some = ids[start : start + AT_ONCE]
                for job in await each(self._ask, [i for i in some if i not in self._known]):
                    if job is not None:
                        self._known[job.job_id] = _Identity(job.name, job.user, job.submit_time)
                known = [(i, self._known[i]) for i in some if i in self._known]
                for job_id, identity in known:
                    if (identity.name, identity.user) == (name, user):
                        return job_id
                if known and all(one.submitted is not None and one.submitted < since for _, one in known):
                    return None
        return None

    async def live(self, users: Collection[str]) -> list[SeenJob]:
        """The users' jobs of a Sluice, of those known by name and at most so many new ones, each now asked anew."""
        async with self._one_at_a_time:
            ids = sorted(await self._ids(), reverse=True)
            self._known = {i: self._known[i] for i in ids if i in self._known}
            new = [i for i in ids if i not in self._known][:NEW_AT_ONCE]
            for job in await each(self._ask, new):
                if job is not None:
                    self._known[job.job_id] = _Identity(job.name, job.user, job.submit_time)
            wanted = [i for i, one in self._known.items() if one.user in users and is_ours(one.name)]
            return [job for job in await each(self._ask, wanted) if job is not None and not job.state.ended]


async def each(ask: Callable[[T], Awaitable[U]], items: Iterable[T]) -> list[U]:
    """All of them, a few at a time; the first failure ends it."""
    room = asyncio.Semaphore(AT_ONCE)

    async def one(item: T) -> U:
        async with room:
            return await ask(item)

    return list(await asyncio.gather(*(one(item) for item in items)))
