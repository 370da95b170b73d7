"""The sweep: seldom, and for a few users at a time, ask which jobs of ours live, and end those that nobody follows.

Jobs get lost to us when a session is forgotten, when the database comes back from a backup, or when a controller
takes a submit long after it was given up. A sweep is one question about some users' live jobs, and one about those
that look like strays. Only what two sweeps have seen the same is ended: rows may be about to be written.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

import structlog
from sqlalchemy import Connection

from gateway.core import audit
from gateway.core.context import Cluster, Gateway
from gateway.errors import SluiceError
from gateway.model import orphan as judge
from gateway.model.orphan import Orphan, Stray
from gateway.model.session import Session
from gateway.store import orphans as store
from gateway.store import sessions

log = structlog.get_logger(__name__)

T = TypeVar("T")

USERS_AT_ONCE = 50
SOON = timedelta(seconds=30)


class Write(Protocol):
    def __call__(self, work: Callable[[Connection], T], /) -> Awaitable[T]: ...


class Sweep:
    """The sweeps of one cluster. `due` says when the next one is.

    `write` writes as the one who works for the cluster, `sure` says whether that is still this server.
    """

    def __init__(self, gateway: Gateway, cluster: Cluster, write: Write, sure: Callable[[], Awaitable[bool]]) -> None:
        self._gateway, self._cluster, self._write, self._sure = gateway, cluster, write, sure
        self._every = timedelta(seconds=gateway.settings.reconcile.sweep_seconds)
        self._next: datetime | None = None
        self._last_user = ""
        self._suspects: dict[tuple[int, str], Stray] = {}

    def due(self, now: datetime) -> bool:
        """Whether it is time: first one interval after the start; a clock that was set back is no excuse."""
        if self._next is None or self._next > now + self._every:
            self._next = now + self._every
        return now >= self._next

    def soon(self, now: datetime) -> None:
        """A submit was in doubt: look whether it was done twice before the usual time."""
        if self._next is None or self._next > now + SOON:
            self._next = now + min(SOON, self._every)

    async def run(self) -> None:
        """One sweep. Whatever fails is tried again at the next."""
        self._next = self._gateway.clock() + self._every
        try:
            found = await self._look()
            for stray in found:
                await self._end(stray)
        except SluiceError as error:
            log.warning("sweep failed", cluster=self._cluster.name, code=error.code, error=error.message)

    async def _look(self) -> list[Stray]:
        """Those to be ended now."""
        scheduler, read = self._cluster.scheduler, self._gateway.db.read
        jobs = judge.ours(await scheduler.mine(await self._users()))
        owners = await read(store.owners, {job.name for job in jobs})
        odd = [
            job.job_id for job in jobs if (of := owners.get(job.name)) is None or of.ended or of.job_id != job.job_id
        ]
        recorded = [of.job_id for job in jobs if (of := owners.get(job.name)) and not of.ended and of.job_id]
        suspects: list[Stray] = []
        if odd:
            now_seen = await scheduler.look({*odd, *recorded})
            owners = await read(store.owners, {job.name for job in now_seen.values()})
            suspects = judge.strays(now_seen.values(), owners, self._gateway.instance)
        before, self._suspects = self._suspects, {(stray.job.job_id, stray.job.name): stray for stray in suspects}
        if suspects:
            self.soon(self._gateway.clock())
        return [now for key, now in self._suspects.items() if key in before and before[key].kind is now.kind]

    async def _users(self) -> Sequence[str]:
        """Whose jobs to ask about in this sweep: all in turn, some at a time."""
        known = {*await self._gateway.db.read(store.users, self._cluster.name), self._cluster.settings.user}
        ahead = sorted(user for user in known if user > self._last_user)[:USERS_AT_ONCE]
        turn = ahead or sorted(known)[:USERS_AT_ONCE]
        self._last_user = turn[-1]
        return sorted({*turn, *(stray.job.user for stray in self._suspects.values())})

    async def _end(self, stray: Stray) -> None:
        job, name = stray.job, self._cluster.name
        if stray.adopt is not None and stray.owner is not None:
            of, to = stray.owner.session_id, stray.adopt

            def adopt(connection: Connection) -> bool:
                adopted = store.adopt(connection, of, job.job_id, to)
                if adopted and (session := sessions.reread(connection, of)) is not None:
                    now = audit.by_system(self._gateway.clock())
                    audit.record_session(connection, now, "job.adopt", session, {"instead_of": job.job_id})
                return adopted

            if not await self._write(adopt):
                return
            log.warning("job adopted", cluster=name, session=stray.owner.session_id, job_id=stray.adopt)
        if not await self._sure():
            return
        await self._cluster.scheduler.cancel(job.job_id, job.user)
        now = self._gateway.clock()
        orphan = Orphan(cluster=name, kind=stray.kind, job_id=job.job_id, name=job.name, unix_user=job.user, at=now)

        def write(connection: Connection) -> None:
            store.add(connection, [orphan])
            session = sessions.reread(connection, stray.owner.session_id) if stray.owner else None
            _ended(connection, orphan, session)
            if session is not None:
                data = {"kind": stray.kind.value, "job_id": job.job_id}
                sessions.append_events(
                    connection, [(session.model_copy(update={"updated_at": now}), "session.orphan", data)]
                )

        await self._write(write)
        self._gateway.news.ring()
        log.warning("orphan ended", cluster=name, kind=stray.kind.value, job_id=job.job_id, job=job.name, user=job.user)


def _ended(connection: Connection, orphan: Orphan, session: Session | None) -> None:
    """Tell the audit log that a job was ended which nobody followed."""
    audit.record(
        connection,
        audit.by_system(orphan.at),
        "job.orphan",
        "job",
        orphan.name,
        project=session.project if session is not None else None,
        session=session.root if session is not None else None,
        job_id=orphan.job_id,
        details={"kind": orphan.kind.value, "cluster": orphan.cluster, "unix_user": orphan.unix_user},
    )
