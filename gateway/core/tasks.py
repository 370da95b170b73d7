"""Tasks: ask for one, read, list, cancel, delete. Nothing here asks a session; the client service does."""

import hashlib
import re
from collections.abc import AsyncIterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError
from ulid import ULID

from gateway.core import audit, files, sessions
from gateway.core.context import Gateway
from gateway.core.lines import Check, Kind
from gateway.errors import Conflict, Invalid, NotFound, NotReady, SessionNotFound, TooMany, Unauthenticated
from gateway.model.fixed import forbidden
from gateway.model.principal import LOCAL_ADMIN, Principal, Scope
from gateway.model.session import Session
from gateway.model.task import ENDPOINTS, FilePart, KeptFile, LineFault, Task, TaskPhase
from gateway.model.task import cancel as cancelled
from gateway.store import files as file_store
from gateway.store import results, tokens, users
from gateway.store import tasks as store
from gateway.store.results import Places
from gateway.store.tasks import Grip

WINDOW = re.compile(r"([1-9]\d{0,3})([mhd])")
_UNITS = {"m": "minutes", "h": "hours", "d": "days"}
_MOST_METADATA = 16
_LONGEST_WORD, _LONGEST_VALUE = 64, 512
_SAID = 3
FILE, BATCH = "file-", "batch_"
_PARTS: tuple[FilePart, ...] = ("output", "error")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A batch that is asked for. `session`: who answers every line; `window`: within what time, such as 24h."""

    session: str | None = None
    endpoint: str = ""
    concurrency: int | None = None
    window: str = "24h"
    about: Mapping[str, str] | None = None

    def digest(self, sha256: str) -> str:
        """What makes two requests the same."""
        about = sorted((self.about or {}).items())
        said = repr((self.session, self.endpoint, self.concurrency, self.window, about, sha256))
        return hashlib.sha256(said.encode()).hexdigest()


async def create(
    gateway: Gateway, caller: Principal, asked: Asked, name: str, content: AsyncIterable[bytes], key: str | None = None
) -> tuple[Task, bool]:
    """A batch for one session, with its lines. With a key, the same request gives the same task.

    Invalid names the lines that are not as they must be; nothing is kept then.
    """
    caller.require(Scope.INFERENCE)
    window = _span(gateway, asked)
    session = await _answering(gateway, caller, asked.session or "")
    if key is not None and await gateway.db.read(store.known, caller, key):
        return await _again(gateway, caller, asked, content, key), False
    limits = gateway.settings.tasks
    check = Check(Kind(asked.endpoint, targeted=True), limits.line_bytes, limits.most_lines)
    upload = await files.begin(
        gateway, caller, name, purpose="task_input", project=session.project, session=session.root
    )
    async with upload:
        async for data in content:
            check.feed(data)
            await upload.write(data)
        check.end()
        if check.faults:
            raise _bad(check.faults)
        await upload.end()
        now = gateway.clock()
        task = _task(caller, asked, upload.file, session).model_copy(
            update={"phase": TaskPhase.IN_PROGRESS, "total": check.lines, "created_at": now, "started_at": now}
            | {"expires_at": now + window}
        )
        told = audit.by(gateway, caller)

        def write(connection: Connection) -> None:
            _room(gateway, connection, caller)
            file = upload.done(connection)
            store.add(connection, task, key, asked.digest(file.sha256) if key is not None else None)
            details: audit.Details = {"lines": check.lines, "bytes": file.bytes, "sha256": file.sha256}
            audit.record(
                connection,
                told,
                "task.create",
                "task",
                task.id,
                project=task.project,
                session=task.session,
                details=details,
            )

        try:
            await gateway.db.write(write)
        except IntegrityError:
            found = await gateway.db.read(store.earlier, caller, key or "", asked.digest(upload.sha256))
            if found is None:
                raise
            return found, False
        upload.keep()
    gateway.news.ring()
    return task, True


async def create_batch(gateway: Gateway, caller: Principal, asked: Asked, file_id: str) -> Task:
    """A batch of the lines in a file, each of which names its model. They are looked at later."""
    caller.require(Scope.INFERENCE)
    if asked.endpoint not in ENDPOINTS:
        raise Invalid(f"endpoint: one of {', '.join(ENDPOINTS)}", param="endpoint")
    window, told = _span(gateway, asked), audit.by(gateway, caller)
    now = gateway.clock()

    def write(connection: Connection) -> Task:
        _room(gateway, connection, caller)
        file = file_store.get(connection, caller, file_id)
        if file.part is not None:
            raise Invalid("input_file_id: these are the results of a batch", param="input_file_id")
        file_store.touch(connection, file.id, now)
        task = _task(caller, asked, file, None).model_copy(update={"created_at": now, "expires_at": now + window})
        store.add(connection, task)
        audit.record(connection, told, "task.create", "task", task.id, project=task.project, details={"file": file.id})
        return task

    task = await gateway.db.write(write)
    gateway.news.ring()
    return task


async def get(gateway: Gateway, caller: Principal, task_id: str) -> Task:
    """TaskNotFound."""
    return await gateway.db.read(store.get, caller, task_id)


async def find(
    gateway: Gateway, caller: Principal, *, after: str | None = None, limit: int = 50, own: bool = False
) -> tuple[list[Task], bool]:
    """One page, newest first, and whether there are more."""
    found = await gateway.db.read(store.find, caller, after=after, limit=limit + 1, own=own)
    return found[:limit], len(found) > limit


async def cancel(gateway: Gateway, caller: Principal, task_id: str) -> Task:
    """Nothing new is asked; what is done is kept. Any number of times, in any phase."""
    told = audit.by(gateway, caller)

    def write(connection: Connection) -> Task:
        task = store.get(connection, caller, task_id)
        after = cancelled(task, gateway.clock())
        if after is task:
            return task
        audit.record(connection, told, "task.cancel", "task", task.id, project=task.project, session=task.session)
        return store.save(connection, task, after) or task

    task = await gateway.db.write(write)
    gateway.news.ring()
    return task


async def delete(gateway: Gateway, caller: Principal, task_id: str) -> None:
    """Forget an ended task with its results. Conflict while it is live."""
    told = audit.by(gateway, caller)

    def write(connection: Connection) -> None:
        task = store.get(connection, caller, task_id)
        if not task.phase.ended:
            raise Conflict(f"the task {task.id} has not ended", hint=f"`sluice batch cancel {task.id}`, then again.")
        store.remove(connection, task.id)
        audit.record(connection, told, "task.delete", "task", task.id, project=task.project, session=task.session)

    await gateway.db.write(write)


async def outcome(gateway: Gateway, caller: Principal, task_id: str) -> KeptFile:
    """All results of an ended task in the order of its lines, to be read as a file is. NotReady while it is live."""
    task = await get(gateway, caller, task_id)
    if task.owner != caller.name:
        raise forbidden("fixed-results", f"the results of {task.id} are its owner's alone")
    if not task.phase.ended:
        raise NotReady(f"the task {task.id} is {task.phase}: its results are there when it has ended")
    if (task.completed and task.output_file is None) or (task.failed and task.error_file is None):
        raise NotFound(f"results of the task {task.id} were deleted")
    size = await gateway.db.read(results.length, task.id)
    return KeptFile(
        id=task.id,
        owner=task.owner,
        purpose="batch_output",
        name=f"{task.id}.jsonl",
        bytes=size,
        complete=True,
        task=task.id,
        created_at=task.ended_at or task.created_at,
        touched_at=task.ended_at or task.created_at,
    )


def acting(connection: Connection, task: Task) -> Principal:
    """As whom a task asks: its owner as they are now, within what the token that asked for it may.

    Unauthenticated, Forbidden if they, or the token, may not any more.
    """
    if task.user_id == LOCAL_ADMIN.id:
        return LOCAL_ADMIN.model_copy(update={"origin": task.origin})
    person = users.person(connection, task.user_id)
    if person is None:
        raise Unauthenticated(f"{task.owner} is not known any more")
    token = None
    if task.token is not None:
        kept = tokens.kept(connection, task.token)
        if kept is None or kept[0].revoked_at is not None:
            raise Unauthenticated("the token that asked for this task was revoked")
        token = kept[0]
    caller = person.principal(token=token, origin=task.origin)
    caller.require(Scope.INFERENCE)
    return caller


async def show(gateway: Gateway, task: Task, grip: Grip, places: Places) -> tuple[str | None, str | None]:
    """Make the files that show the results of a task: answers and errors, as far as there are any. LeaseLost."""
    now, sizes = gateway.clock(), {"output": places.output, "error": places.error}

    def write(connection: Connection) -> tuple[str | None, str | None]:
        store.hold(connection, grip)
        made: dict[str, str | None] = {"output": None, "error": None}
        for part in _PARTS:
            if not sizes[part]:
                continue
            file = KeptFile(
                id=f"{FILE}{task.id.removeprefix(BATCH)}-{part}",
                owner=task.owner,
                project=task.project,
                session=task.session,
                purpose="batch_output",
                name=f"{task.id}_{part}.jsonl",
                bytes=sizes[part],
                complete=True,
                task=task.id,
                part=part,
                created_at=now,
                touched_at=now,
            )
            file_store.replace(connection, file)
            made[part] = file.id
        return made["output"], made["error"]

    return await gateway.db.write(write)


async def _answering(gateway: Gateway, caller: Principal, ref: str) -> Session:
    """The session that shall answer. Forbidden, PolicyDenied, SessionNotFound, Invalid."""
    session = await sessions.looked_at(gateway, caller, ref, "call")
    if not caller.calls(session):
        raise forbidden(
            "fixed-call", f"session {session.name} is {session.owner}'s: you may read about it, and not use it"
        )
    service = session.plan.service
    if service is None or service.protocol != "openai":
        raise Invalid(f"session {session.name} serves no model", hint="A batch needs a model server, such as vllm.")
    if session.phase.ended:
        raise SessionNotFound(
            f"session {session.name} has ended", hint=f"`sluice resume {session.name}` starts it again."
        )
    return session


async def _again(gateway: Gateway, caller: Principal, asked: Asked, content: AsyncIterable[bytes], key: str) -> Task:
    """The task that was made under this key before; what comes is compared, and kept nowhere."""
    total = hashlib.sha256()
    async for data in content:
        total.update(data)
    found = await gateway.db.read(store.earlier, caller, key, asked.digest(total.hexdigest()))
    if found is None:
        raise Conflict("the task of this Idempotency-Key was deleted meanwhile", hint="Take a new key.")
    return found


def _task(caller: Principal, asked: Asked, file: KeptFile, session: Session | None) -> Task:
    about = dict(asked.about or {})
    if len(about) > _MOST_METADATA or any(
        len(name) > _LONGEST_WORD or len(value) > _LONGEST_VALUE for name, value in about.items()
    ):
        raise Invalid(
            f"metadata: at most {_MOST_METADATA} words of {_LONGEST_WORD} characters with {_LONGEST_VALUE} each",
            param="metadata",
        )
    return Task(
        id=f"{BATCH}{ULID()}",
        owner=caller.name,
        user_id=caller.id,
        token=caller.token,
        origin=caller.origin,
        project=session.project if session is not None else caller.project,
        session=session.root if session is not None else caller.session,
        endpoint=asked.endpoint,
        concurrency=asked.concurrency,
        input_file=file.id,
        about=about,
        window=asked.window,
        created_at=file.created_at,
        expires_at=file.created_at,
    )


def _room(gateway: Gateway, connection: Connection, caller: Principal) -> None:
    most = gateway.settings.tasks.most_live
    if store.live_of(connection, caller.name) >= most:
        raise TooMany(f"you have {most} tasks under way, which is the most there may be", retry_after=60)


def _span(gateway: Gateway, asked: Asked) -> timedelta:
    found = WINDOW.fullmatch(asked.window)
    span = timedelta(**{_UNITS[found[2]]: int(found[1])}) if found is not None else timedelta()
    if not timedelta() < span <= timedelta(days=gateway.settings.tasks.keep_days):
        most = gateway.settings.tasks.keep_days
        raise Invalid(f"completion_window: a time such as 24h or 7d, at most {most:g} days", param="completion_window")
    return span


def _bad(faults: Sequence[LineFault]) -> Invalid:
    said = [f"line {one.line}: {one.message}" if one.line is not None else one.message for one in faults]
    more = f"; and {len(faults) - len(said[:_SAID])} more" if len(faults) > _SAID else ""
    shown = [{**one.model_dump(), "field": f"line {one.line}"} for one in faults]
    return Invalid(f"{'; '.join(said[:_SAID])}{more}", hint="Nothing was kept.", errors=shown)
