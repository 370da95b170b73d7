"""Several jobs of one session, kept as many as there should be: what `gateway.model.group.steer` decides is done here.

Nothing is submitted or ended here: rows are written, and the loop brings about what they say, as for every session.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol, TypeVar

import structlog
from sqlalchemy import Connection
from ulid import ULID

from gateway.core.context import Cluster, Gateway
from gateway.errors import EndpointUnavailable
from gateway.model import group, idle
from gateway.model.group import Adopt, Change, Drain, Sight, Sleep, Start, Stop
from gateway.model.load import Load
from gateway.model.session import Act, Phase, Session, Step
from gateway.store import loads, members
from gateway.store import sessions as store

log = structlog.get_logger(__name__)

T = TypeVar("T")
#: The agent counts from the last byte, and we from the last request that was reported.
NEARLY = 0.9


class Write(Protocol):
    def __call__(self, work: Callable[[Connection], T], /) -> Awaitable[T]: ...


@dataclass(frozen=True)
class Succession:
    """A session whose job leaves it goes on: as its `heir`, or with another job to begin (`row_id` keeps the old).

    `heir`: its row as it was read, and as its step leaves it; `act` is what that step asks for.
    """

    before: Session
    ended: Session
    heir: tuple[Session, Session] | None
    row_id: str
    act: Act | None = None

    def record(self, connection: Connection, now: datetime) -> list[tuple[Session, Session]]:
        """Write it; what was written as pairs (before, after), nothing if somebody wrote in between."""
        if self.heir is not None:
            old, new = self.heir
            session, member = group.swap(self.ended, new)
            pair = members.exchange(connection, (self.before, old), (session, member), now)
        else:
            attempt = members.next_attempt(connection, self.before.id)
            session, kept = group.part(self.ended, self.row_id, attempt, now)
            pair = members.part(connection, self.before, session, kept, now)
        return [(self.before, pair[0]), (self.ended, pair[1])] if pair is not None else []


def successions(
    decided: list[tuple[Session, Step]], live: Mapping[str, Session], acting: Collection[str], now: datetime
) -> list[Succession]:
    """Which sessions go on as another job than their own; they, and those jobs, are taken from `decided`."""
    found, stepped = [], {before.id: (before, step) for before, step in decided}
    for before, step in list(decided):
        ended = step.session
        if before.parent is not None or not group.hands_over(before, ended):
            continue
        others = [one for one in live.values() if one.parent == before.id and one.id not in acting]
        steps = {one.id: stepped.get(one.id, (one, Step(session=one))) for one in others}
        heir = group.heir(ended, [step.session for _, step in steps.values()], now)
        if heir is None and not group.goes_on(ended):
            continue
        read, its = steps[heir.id] if heir is not None else (None, None)
        taken = {before.id, *([heir.id] if heir is not None else [])}
        decided[:] = [one for one in decided if one[0].id not in taken]
        pair = (read, its.session) if read is not None and its is not None else None
        found.append(Succession(before, ended, pair, str(ULID()), its.act if its is not None else None))
    return found


class Groups:
    """The sessions of one cluster with their jobs. `write` writes as the one who works for the cluster."""

    def __init__(self, gateway: Gateway, cluster: Cluster, write: Write) -> None:
        self._gateway, self._cluster, self._write = gateway, cluster, write
        self._calm: dict[str, datetime] = {}
        self._active: dict[str, datetime] = {}
        self._still: dict[str, datetime] = {}
        self._failures: dict[str, list[datetime]] = {}

    def ended(self, ended: Sequence[Session], now: datetime) -> None:
        """These have ended: a job that failed makes the next one of its session wait."""
        for one in ended:
            if one.phase is Phase.FAILED:
                late = [at for at in self._failures.get(one.root, []) if now - at < group.FAILURES_COUNT_FOR]
                self._failures[one.root] = [*late, now]

    async def turn(
        self, live: Sequence[Session], acting: Collection[str], drained: frozenset[str], now: datetime
    ) -> tuple[bool, list[tuple[Session, timedelta, str]]]:
        """Whether anything was changed, and which sessions may end as nobody uses them: after how long, and why."""
        rows: dict[str, list[Session]] = {}
        for one in live:
            if one.parent is not None:
                rows.setdefault(one.parent, []).append(one)
        services = {one.id: one for one in live if one.parent is None}
        known = await self._gateway.db.read(loads.loads, now) if services else {}
        self._forget(services.keys())
        changed, unused = False, []
        for session in services.values():
            others, load = rows.pop(session.id, []), known.get(session.id)
            sight, still_at = self._sight(session, others, load, drained, now), self._still.get(session.id)
            quiet = idle.quiet(session, load, self._active.get(session.id))
            changes = group.steer(session, others, sight, now) if session.plan.kind == "service" else []
            if any(isinstance(change, Sleep) for change in changes):
                after = timedelta(seconds=session.plan.replicas.scale_down_after)
                unused.append((session, after, "asleep"))
            elif quiet is not None and (why := idle.to_ask(session, quiet, now, still_at)) is not None:
                unused.append((session, min(quiet.after, now - quiet.since), why))
            after_notice = idle.noticed(session, quiet, now, followed=bool(others), still_at=still_at)
            changes = [change for change in changes if not _acting(session, change, acting)]
            if changes or after_notice != session:
                changed |= await self._apply(session, others, after_notice, changes)
        for left in rows.values():  # of sessions that have ended
            stops = [Stop(one, "stopped") for one in left if one.stop_requested_at is None]
            if stops:
                changed |= await self._apply(left[0], left, left[0], stops)
        return changed, unused

    async def settle(self, session: Session, others: Sequence[Session], after: timedelta, why: str) -> bool:
        """Nobody seems to use the session: ask its jobs, and then do what is asked for by `why`.

        `idle` stops it, `asleep` puts it to sleep, `still` only notes that it is so, that its users can be told.

        A job that cannot be asked counts as used, and so does one whose kernels or GPUs are at work, if the rule wants
        to know of them.
        """
        known = await self._gateway.db.read(loads.loads, self._gateway.clock()) if why != "asleep" else {}
        rule = idle.rule_for(session, known.get(session.id)) if why != "asleep" else None
        for one in (session, *others):
            if one.endpoint is None:
                continue
            try:
                status = await self._gateway.agents.status(one.endpoint)
            except EndpointUnavailable as error:
                log.info("counts as used, as it cannot be asked", session=session.id, why=error.message)
                self._active[session.id] = self._gateway.clock()
                return False
            unused = idle.unused_for(rule, status.idle_seconds, status.quiet)
            if status.in_flight or unused < NEARLY * after.total_seconds():
                self._active[session.id] = self._gateway.clock() - timedelta(seconds=unused)
                return False
        now, row_id = self._gateway.clock(), str(ULID())
        if why == "still":
            self._still[session.id] = now
            return False

        def write(connection: Connection) -> bool:
            current = store.reread(connection, session.id)
            if current is None or current.version != session.version:
                return False
            if why != "asleep":
                stopped = session.model_copy(update={"stop_requested_at": now, "stop_reason": why})
                return store.save(connection, session, stopped, now) is not None
            load = loads.loads(connection, now).get(session.id)
            if load is not None and load.used:
                return False
            attempt = members.next_attempt(connection, session.id)
            begun, kept = group.part(session, row_id, attempt, now)
            slept = begun.model_copy(update={"asleep_at": now, "reason": "asleep", "message": _ASLEEP})
            return members.part(connection, session, slept, kept.model_copy(update={"drain_at": now}), now) is not None

        done = await self._write(write)
        if done:
            log.info("not used", session=session.id, now=why)
        return done

    def _sight(
        self, session: Session, others: Sequence[Session], load: Load | None, drained: frozenset[str], now: datetime
    ) -> Sight:
        have = sum(one.stop_requested_at is None and one.drain_at is None for one in (session, *others))
        if group.need(session, load, now) < have:
            since: datetime | None = self._calm.setdefault(session.id, now)
        else:
            since = None
            self._calm.pop(session.id, None)
        return Sight(load, since, drained, self._failures.get(session.id, ()))

    async def _apply(
        self, session: Session, others: Sequence[Session], noticed: Session, changes: Sequence[Change]
    ) -> bool:
        ids = [str(ULID()) for _ in changes]
        versions = {one.id: one.version for one in (session, *others)}
        now = self._gateway.clock()

        def write(connection: Connection) -> bool:
            current = {key: store.reread(connection, key) for key in versions}
            if any(one is None or one.version != versions[key] for key, one in current.items()):
                return False
            for change, row_id in zip(changes, ids, strict=True):
                self._write_change(connection, session, change, row_id, now)
            if noticed != session and not any(isinstance(change, Adopt) for change in changes):
                store.save(connection, session, noticed, now)
            return True

        if not await self._write(write):
            return False
        for change in changes:
            what = type(change).__name__.lower()
            of = None if isinstance(change, Start | Sleep) else change.member.job.attempt
            log.info("jobs of a session", session=session.root, what=what, attempt=of)
        self._gateway.news.ring()
        return bool(changes)

    def _write_change(
        self, connection: Connection, session: Session, change: Change, row_id: str, now: datetime
    ) -> None:
        match change:
            case Start():
                attempt = members.next_attempt(connection, session.id)
                store.add(connection, group.further(session, row_id, attempt, change, now))
            case Adopt(member=member, drain=drain):
                after = group.swap(session, member, now if drain else None)
                members.exchange(connection, (session, member), after, now)
            case Drain(member=member):
                store.save(connection, member, member.model_copy(update={"drain_at": now}), now)
            case Stop(member=member, reason=reason):
                update = {"stop_requested_at": now, "stop_reason": reason}
                store.save(connection, member, member.model_copy(update=update), now)
            case Sleep():
                pass  # only after its jobs were asked: see `settle`

    def _forget(self, known: Collection[str]) -> None:
        self._calm = {key: at for key, at in self._calm.items() if key in known}
        self._active = {key: at for key, at in self._active.items() if key in known}
        self._still = {key: at for key, at in self._still.items() if key in known}
        self._failures = {key: at for key, at in self._failures.items() if key in known}


_ASLEEP = "No job runs, as nobody uses it; the next request starts one."


def _acting(session: Session, change: Change, acting: Collection[str]) -> bool:
    """Whether something is being done to what would be changed; it is left for the next turn."""
    if isinstance(change, Start | Sleep):
        return isinstance(change, Sleep)
    return change.member.id in acting or (isinstance(change, Adopt) and session.id in acting)
