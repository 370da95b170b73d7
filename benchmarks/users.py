"""What slurmctld is asked while nobody asks Sluice for anything: a thousand sessions of one user, and of a thousand.

The users are real: Unix users on every host of the cluster, with associations in Slurm's accounting; each starts a
session with a token of their own, and its job is theirs.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta

import httpx
from ulid import ULID

from benchmarks.crowd import NEAR, OURS, crowd, queued
from benchmarks.environment import Environment
from benchmarks.poller import SETTLED, Window, grow, session, until, window
from benchmarks.report import Row
from gateway.cluster import Cluster
from gateway.core.reconcile import BUSY_FOR
from gateway.model import token as tokens
from gateway.model.principal import Role, Scope
from gateway.model.project import DEFAULT, Member
from gateway.model.user import UnixAccount, User
from gateway.settings import load
from gateway.store import projects, users
from gateway.store import tokens as kept
from gateway.store.database import Database

USERS, FIRST_UID, AT_ONCE = 1_000, 20_001, 8
ACCOUNT = "research"
_ADD = """
while read -r name uid; do
    grep -q "^$name:" /etc/passwd || echo "$name:x:$uid:100::/home/$name:/bin/bash" >> /etc/passwd
done
"""


def measure(env: Environment) -> Iterator[Row]:
    """Windows of twenty seconds: one session of one user, a thousand of one, one each of a thousand."""
    names = [f"user{number:04}" for number in range(USERS)]
    with crowd(env.cluster, 0):
        windows: dict[str, tuple[Window, float]] = {}
        for number in (1, USERS):
            grow(env, number)
            windows[f"{number:,} sessions of one user"] = _seen(env, [OURS])
        env.cluster.exec("ctl", ["scancel", f"--account={ACCOUNT}"])
        until(lambda: not queued(env.cluster), 300)
        _settle(env.cluster, names)
        asyncio.run(_start(env, _known(env, names)))
        until(lambda: len(queued(env.cluster)) == USERS, 300)
        time.sleep(BUSY_FOR + SETTLED)
        windows[f"a session of each of {USERS:,} users"] = _seen(env, [OURS, *names])
        env.cluster.exec("ctl", ["scancel", f"--account={ACCOUNT}"])
    for what, (seen, asked) in windows.items():
        kinds = ", ".join(f"{kind.removeprefix('REQUEST_')} {count:.0f}" for kind, count in seen.kinds.items())
        yield Row(f"slurmctld RPCs, {what}", "1/min", asked, note=kinds)


def _seen(env: Environment, names: Sequence[str]) -> tuple[Window, float]:
    """A window, and what these users asked of slurmctld in it."""
    seen = window(env)
    return seen, sum(seen.users.get(name, 0.0) for name in names)


def _settle(cluster: Cluster, names: Sequence[str]) -> None:
    """Unix users on every host, and their place in Slurm's accounting. Those who are there already stay."""
    lines = "".join(f"{name} {FIRST_UID + number}\n" for number, name in enumerate(names))
    for host in cluster.record.hosts:
        cluster.exec(host, ["sh", "-c", _ADD], input=lines)
    for start in range(0, len(names), 250):
        some = ",".join(names[start : start + 250])
        cluster.exec("ctl", ["sacctmgr", "--quiet", "-i", "add", "user", some, f"account={ACCOUNT}"], check=False)


def _known(env: Environment, names: Sequence[str]) -> list[str]:
    """The same people at the gateway, members of the default project; a token of each."""
    database, now = Database(load(env.config).database), datetime.now(UTC)
    shown = []
    with database.writing.begin() as connection:
        for number, name in enumerate(names):
            user, token, secret = User(id=str(ULID()), name=name, created_at=now), str(ULID()), f"{number:043}"
            account = UnixAccount(cluster=env.cluster.name, name=name, uid=FIRST_UID + number)
            users.add(connection, user, unix=[account])
            projects.set_member(connection, DEFAULT, user.id, Member(user=name, role=Role.MEMBER, source="manual"))
            made = tokens.Token(
                id=token,
                name="bench",
                user_id=user.id,
                scopes=frozenset({Scope.READ, Scope.WRITE}),
                created_at=now,
                created_by=name,
                expires_at=now + timedelta(hours=2),
            )
            kept.add(connection, made, tokens.digest(secret))
            shown.append(tokens.spell(token, secret))
    database.close()
    return shown


async def _start(env: Environment, shown: Sequence[str]) -> None:
    """A waiting session of each."""
    body, left = session(NEAR, "sleep 2"), iter(shown)

    async def some() -> None:
        async with httpx.AsyncClient(timeout=60) as client:
            for token in left:
                headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
                answer = await client.post(f"{env.url}/api/v1/sessions", content=body, headers=headers)
                assert answer.is_success, answer.text

    await asyncio.gather(*(some() for _ in range(AT_ONCE)))
