"""What the reconcile loop does in the world. Each act is safe to repeat, and gives the change that records its end."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import structlog

from gateway.core import secrets
from gateway.core.context import Cluster, Gateway
from gateway.core.ports import Agents
from gateway.core.scripts import script_of
from gateway.core.staging import stage, unstage
from gateway.errors import (
    EndpointUnavailable,
    Forbidden,
    Invalid,
    SchedulerUnavailable,
    SluiceError,
    SubmitDeferred,
    SubmitUnknown,
    Unavailable,
)
from gateway.model import intent
from gateway.model import session as life
from gateway.model.announcement import Awaiting, Endpoint, parse
from gateway.model.session import Act, Phase, Session

log = structlog.get_logger(__name__)

_STAGE_WITHIN = 10.0
_DEADLINE = (intent.SUBMIT_LIFE - intent.SEND_WITHIN).total_seconds()

Change = Callable[[Session, datetime], Session]
Age = Callable[[], timedelta]


async def submit(gateway: Gateway, cluster: Cluster, session: Session, age: Age) -> Change:
    """Send the job. Only an answer that says so may clear the intent.

    `age` is the intent's, by a clock that nobody sets. A process that was stopped for minutes since it was recorded
    must not send: by now others may have looked for the job in vain. Nor may it be about to send for ever.
    """
    intent_at, script = session.job.intent_at, script_of(gateway, cluster, session)
    try:
        why_not = await _stage(gateway, cluster, session)
    except Unavailable as error:  # the database, or the key of the secrets: without them there is nothing to run
        again = intent.pause(session.job.tries + 1, _chance())
        log.warning("not submitted", session=session.id, error=error.message)
        return _not_submitted(intent_at, error.message, again)
    if not intent.may_send(session, gateway.clock(), age()):
        log.warning("submit given up, as its time is over", session=session.id)
        return _not_submitted(intent_at, "It could not be sent in time; it is sent again.", intent.pause(0, _chance()))
    try:
        async with asyncio.timeout(_DEADLINE):
            job_id = await cluster.scheduler.submit(script, session.unix_user)
    except (SubmitUnknown, TimeoutError) as error:
        log.warning("submit unanswered", session=session.id, error=str(error) or f"not within {_DEADLINE:g} s")
        return _unchanged
    except (SubmitDeferred, SchedulerUnavailable) as error:
        after, limit = intent.pause(session.job.tries + 1, _chance()), isinstance(error, SubmitDeferred)
        log.info("not submitted", session=session.id, error=error.message, again_in=after.total_seconds())
        return _not_submitted(intent_at, error.message, after, limit=limit)
    except (Invalid, Forbidden) as error:
        why = error.message
        if session.plan.secrets:
            await tidy(gateway, cluster, session, age)
        return lambda current, now: life.end(current, Phase.FAILED, "submit_refused", why, now)
    log.info("submitted", session=session.id, job_id=job_id, cluster=cluster.name)
    if not session.plan.secrets:
        return lambda current, now: intent.submitted(current, job_id, now)
    return lambda current, now: intent.submitted(life.staged(current, why_not, now), job_id, now)


async def _stage(gateway: Gateway, cluster: Cluster, session: Session) -> str:
    """Lay the secrets down as a file, if they can be; why not, if not: then the agent asks for them.

    The job that is sent next finds them in any case: they stay with the session until it ends.
    """
    values = await secrets.given(gateway, session.root) if session.plan.secrets else None
    if values is None:
        return ""
    try:
        async with asyncio.timeout(_STAGE_WITHIN):
            await stage(cluster, session, values)
    except TimeoutError:
        why = f"the cluster's files did not answer within {_STAGE_WITHIN:g} s"
    except SluiceError as error:
        why = error.message
    else:
        return ""
    log.info("secrets not staged, so they will be pushed", session=session.id, why=why)
    return why


async def find(gateway: Gateway, cluster: Cluster, session: Session, age: Age) -> Change:
    """An intent without an answer: look the job up by its name."""
    del gateway
    found = await cluster.scheduler.find(session.job.name, session.unix_user)
    if found is None:
        known = age()
        return lambda current, now: intent.not_found(current, now, known)
    job_id = found.job_id
    log.info("found again", session=session.id, job_id=job_id)
    return lambda current, now: intent.submitted(current, job_id, now)


async def terminate(gateway: Gateway, cluster: Cluster, session: Session, age: Age) -> Change:
    """Let the agent end the job: requests in flight are finished, programs save what they have."""
    del gateway, age
    if session.job.job_id is not None:
        await cluster.scheduler.terminate(session.job.job_id, session.unix_user)
        log.info("terminated", session=session.id, job_id=session.job.job_id)
    return _unchanged


async def cancel(gateway: Gateway, cluster: Cluster, session: Session, age: Age) -> Change:
    """End the job at once."""
    del gateway, age
    if session.job.job_id is not None:
        await cluster.scheduler.cancel(session.job.job_id, session.unix_user)
        log.info("cancelled", session=session.id, job_id=session.job.job_id)
    return _unchanged


async def probe(gateway: Gateway, cluster: Cluster, session: Session, age: Age) -> Change:
    """Ask the announced agent whether it is there, and whether it is the one that was announced."""
    del age
    announced = parse(session.job.comment)
    if not isinstance(announced, Endpoint):
        return _unchanged
    try:
        await _agents(gateway, cluster).status(announced)
    except EndpointUnavailable as error:
        why = error.message
        return lambda current, now: life.probed(current, None, why, now)
    return lambda current, now: life.probed(current, announced, "", now) if current.phase is Phase.STARTING else current


async def push(gateway: Gateway, cluster: Cluster, session: Session, age: Age) -> Change:
    """Give the agent the secrets that it waits for. Only the agent that was announced gets them."""
    del age
    told = parse(session.job.comment)
    if not isinstance(told, Awaiting):
        return _unchanged
    why_not, agents = "", _agents(gateway, cluster)
    try:
        values = await secrets.given(gateway, session.root)
        # an answer that was lost is asked for again: an agent that waits no longer has got them
        if (await agents.status(told.endpoint)).phase == "secrets":
            await agents.push(told.endpoint, values or {})
            log.info("secrets pushed", session=session.id)
    except Unavailable as error:
        why_not = error.message
        log.warning("secrets not pushed", session=session.id, error=why_not)
    return lambda current, now: life.pushed(current, told, why_not, now)


async def tidy(gateway: Gateway, cluster: Cluster, session: Session, age: Age) -> Change:
    """Remove the secrets that were staged for a job that will not start again. The agent has done so, as a rule."""
    del gateway, age
    try:
        await unstage(cluster, session)
    except SluiceError as error:
        log.warning("staged secrets not removed", session=session.id, error=error.message)
    return _unchanged


def _agents(gateway: Gateway, cluster: Cluster) -> Agents:
    return cluster.agents or gateway.agents


def _unchanged(current: Session, now: datetime) -> Session:
    del now
    return current


def _not_submitted(intent_at: datetime | None, why: str, after: Any, *, limit: bool = False) -> Change:
    return lambda current, now: intent.not_submitted(
        current, why, now, again_after=after, intent_at=intent_at, limit=limit
    )


def _chance() -> float:
    return random.random()  # noqa: S311 - spreads, hides nothing


ACTS: dict[Act, Callable[[Gateway, Cluster, Session, Age], Awaitable[Change]]] = {
    Act.SUBMIT: submit,
    Act.FIND: find,
    Act.TERMINATE: terminate,
    Act.CANCEL: cancel,
    Act.PROBE: probe,
    Act.TIDY: tidy,
    Act.PUSH: push,
}
