"""Secrets on their way into a job: a file in the session directory that only its user reads; the agent deletes it."""

import json
from collections.abc import Mapping

from gateway.core.context import Cluster
from gateway.model.session import Session

SECRETS_FILE = "secrets.json"


async def stage(cluster: Cluster, session: Session, values: Mapping[str, str]) -> None:
    """Write the values. FilesUnavailable if the cluster's files cannot be reached."""
    await cluster.files.write(session.unix_user, _path(cluster, session), json.dumps(values).encode(), mode=0o600)


async def unstage(cluster: Cluster, session: Session) -> None:
    """Remove the file, if it is still there."""
    await cluster.files.remove(session.unix_user, _path(cluster, session))


def directory(cluster: Cluster, session: Session) -> str:
    """The session directory on the cluster; a relative path starts at the user's home."""
    return f"{cluster.settings.session_root}/{session.root}"


def _path(cluster: Cluster, session: Session) -> str:
    return f"{directory(cluster, session)}/{SECRETS_FILE}"
