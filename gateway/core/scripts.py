"""From a session to the script that Slurm gets: rendered anew each time, from the plan alone, so always the same."""

from datetime import datetime

from gateway.core.context import Cluster, Gateway
from gateway.model.job import JobScript
from gateway.model.plan import Plan
from gateway.model.session import Session
from gateway.render.job import JobTarget, render


def script_of(gateway: Gateway, cluster: Cluster, session: Session) -> JobScript:
    """The job script of a session's current attempt."""
    job = session.job
    return script_for(gateway, cluster, session.plan, session.root, job.attempt, begin_at=job.begin_at)


def script_for(
    gateway: Gateway,
    cluster: Cluster,
    plan: Plan,
    session_id: str,
    attempt: int,
    *,
    begin_at: datetime | None = None,
) -> JobScript:
    """The job script of a plan, as it would be sent for this session and attempt."""
    target = JobTarget(
        session_id=session_id,
        attempt=attempt,
        session_root=cluster.settings.session_root,
        client_ca=gateway.client_ca,
        instance=gateway.instance,
        comment_field=cluster.settings.comment_field,
        begin_at=begin_at,
    )
    return render(plan, target)
