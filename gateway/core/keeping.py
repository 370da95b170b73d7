"""May they? Asked of what people and projects keep by name: secrets and volumes."""

from collections.abc import Mapping
from datetime import datetime
from zoneinfo import ZoneInfo

from sqlalchemy import Connection

from gateway.core.context import Gateway
from gateway.core.policies import require
from gateway.model.policy import Decision, Kept, KeptAction
from gateway.model.principal import Principal
from gateway.model.secret import KeptSecret
from gateway.model.volume import KeptVolume
from gateway.store import projects


def decide(gateway: Gateway, caller: Principal, action: KeptAction, subject: Kept) -> Decision:
    """What the policies say now."""
    return gateway.policies.decide(caller, action, subject, now(gateway))


def may(gateway: Gateway, caller: Principal, action: KeptAction, subject: Kept) -> Decision:
    """The decision, if it is a yes. PolicyDenied."""
    return require(decide(gateway, caller, action, subject))


def subject_of(
    connection: Connection, caller: Principal, kept: KeptSecret | KeptVolume, labels: Mapping[str, str] | None = None
) -> Kept:
    """What is kept, as policies see it: what is nobody's project's is the caller's own."""
    known = labels if labels is not None or kept.project is None else projects.labels(connection, kept.project)
    place = kept.model_dump(include={"cluster", "volume_class", "path"}) if isinstance(kept, KeptVolume) else {}
    return Kept(
        kind="Volume" if isinstance(kept, KeptVolume) else "Secret",
        id=kept.id,
        name=kept.name,
        owner=caller.name if kept.project is None else None,
        project=kept.project,
        labels=known or {},
        **place,
    )


def now(gateway: Gateway) -> datetime:
    """Local time, as policies see it."""
    return gateway.clock().astimezone(ZoneInfo(gateway.settings.policy.timezone))
