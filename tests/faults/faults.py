"""The faults, each a small class: what breaks, and how it is made whole."""

import asyncio
import contextlib
import signal
import subprocess
import sys
from random import Random
from typing import Literal

from tests.faults.fault import Fault, Size
from tests.faults.stage import Setting, Stage, until_alive

HOLD_WRITE_LOCK = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=120)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""
CUT_SESSIONS = """
pid=$(cat /run/sluice-host/sshd.pid)
for session in $(cat /proc/$pid/task/$pid/children); do kill -KILL "$session" || true; done  # it may just have ended
"""


class ServerKilled(Fault):
    """At random moments, some of them while it starts."""

    name = "server-killed"
    title = "`kill -9` of the server"
    full = Size(times=200, sessions=500)
    fast = Size(times=5, sessions=30)

    async def until_next(self, stage: Stage, chance: Random) -> None:
        server = stage.servers[0]
        if chance.random() < 0.15:
            await asyncio.sleep(chance.uniform(0.2, 1.5))
            return
        await until_alive(server)
        await asyncio.sleep(chance.uniform(0.0, 2.0))

    async def inject(self, stage: Stage, chance: Random) -> None:
        chance.choice(stage.servers).send(signal.SIGKILL)


class ServersKilled(ServerKilled):
    name = "one-of-three-servers-killed"
    title = "`kill -9` of one of three servers on one PostgreSQL"
    full = Size(times=24, sessions=60)
    fast = Size(times=5, sessions=30)
    setting = Setting(servers=3, database="postgresql")


class ServerPaused(Fault):
    """Longer than any patience or lease: it wakes up and thinks that no time has passed."""

    name = "server-paused"
    title = "Server paused (SIGSTOP) and continued"
    full = Size(times=3, sessions=36, hold=(35, 50))
    fast = Size(times=1, sessions=10, hold=(5, 8))

    async def inject(self, stage: Stage, chance: Random) -> None:
        del chance
        stage.servers[0].send(signal.SIGSTOP)

    async def heal(self, stage: Stage) -> None:
        stage.servers[0].send(signal.SIGCONT)


class OneServerPaused(ServerPaused):
    name = "one-of-two-servers-paused"
    title = "One of two servers on one PostgreSQL paused for longer than a lease, and continued"
    full = Size(times=3, sessions=36, hold=(15, 28))
    setting = Setting(servers=2, database="postgresql")


class Daemon(Fault):
    """Something done to one of Slurm's daemons."""

    host = "ctl"
    daemon: str
    how: Literal["stop", "kill", "freeze", "restart"]

    async def inject(self, stage: Stage, chance: Random) -> None:
        del chance
        match self.how:
            case "stop" | "restart":
                await asyncio.to_thread(stage.cluster.service, self.host, self.how, self.daemon)
            case "kill":
                await asyncio.to_thread(stage.cluster.signal, self.host, self.daemon, "KILL")
            case "freeze":
                await asyncio.to_thread(stage.cluster.signal, self.host, self.daemon, "STOP")

    async def heal(self, stage: Stage) -> None:
        if self.how == "freeze":
            await asyncio.to_thread(stage.cluster.signal, self.host, self.daemon, "CONT")
        elif self.how != "restart":
            await asyncio.to_thread(stage.cluster.service, self.host, "start", self.daemon)


class ControllerRestarted(Daemon):
    name = "slurmctld-restarted"
    title = "slurmctld restarted"
    daemon, how = "slurmctld", "restart"
    full = Size(times=6, sessions=48, hold=(0.1, 3))
    fast = Size(times=2, sessions=15, hold=(0.1, 1))


class ControllerDown(Daemon):
    name = "slurmctld-down"
    title = "slurmctld down for 5 minutes"
    daemon, how = "slurmctld", "stop"
    full = Size(times=1, sessions=60, hold=(300, 300))
    fast = Size(times=1, sessions=15, hold=(20, 20))


class ControllerFrozen(Daemon):
    name = "slurmctld-frozen"
    title = "slurmctld frozen in the middle of submits, over slurmrestd"
    daemon, how = "slurmctld", "freeze"
    full = Size(times=5, sessions=50, hold=(5, 40))
    fast = Size(times=1, sessions=8, hold=(11, 13))


class ControllerFrozenSsh(ControllerFrozen):
    name = "slurmctld-frozen-ssh"
    title = "slurmctld frozen in the middle of submits, over ssh"
    setting = Setting(backend="cli")


class RestKilled(Daemon):
    name = "slurmrestd-killed"
    title = "`kill -9` of slurmrestd"
    daemon, how = "slurmrestd", "kill"
    full = Size(times=8, sessions=48, hold=(0.1, 5))
    fast = Size(times=2, sessions=12, hold=(0.1, 2))


class RestFrozen(Daemon):
    name = "slurmrestd-frozen"
    title = "slurmrestd frozen in the middle of submits"
    daemon, how = "slurmrestd", "freeze"
    full = Size(times=4, sessions=40, hold=(5, 40))
    fast = Size(times=1, sessions=12, hold=(5, 8))


class AccountingDown(Daemon):
    name = "slurmdbd-down"
    title = "slurmdbd down"
    daemon, how = "slurmdbd", "stop"
    full = Size(times=2, sessions=40, hold=(30, 60))
    fast = Size(times=1, sessions=12, hold=(10, 12))


class MariaDown(Daemon):
    name = "mariadb-down"
    title = "MariaDB down"
    daemon, how = "mariadb", "stop"
    full = Size(times=2, sessions=40, hold=(30, 60))
    fast = Size(times=1, sessions=12, hold=(10, 12))


class NodeCut(Fault):
    """For less and for more than SlurmdTimeout (30 s), after which Slurm gives the node's jobs up."""

    name = "node-link-cut"
    title = "A node's link cut and restored"
    full = Size(times=2, sessions=50, hold=(20, 75))
    fast = Size(times=1, sessions=12, hold=(10, 12))

    async def inject(self, stage: Stage, chance: Random) -> None:
        del chance
        await asyncio.to_thread(stage.cluster.cut_link, "node2")

    async def heal(self, stage: Stage) -> None:
        await asyncio.to_thread(stage.cluster.restore_link, "node2")


class NodeKilled(Fault):
    name = "node-killed"
    title = "A node killed and started again"
    full = Size(times=2, sessions=50, hold=(15, 60))
    fast = Size(times=1, sessions=12, hold=(10, 12))

    async def inject(self, stage: Stage, chance: Random) -> None:
        del chance
        await asyncio.to_thread(stage.cluster.kill_host, "node2")

    async def heal(self, stage: Stage) -> None:
        stage.cluster = await asyncio.to_thread(stage.cluster.start_host, "node2")


class DatabaseLocked(Fault):
    """By another process, as a backup does it; longer than a write waits."""

    name = "database-locked"
    title = "SQLite's write lock held by another process"
    full = Size(times=4, sessions=48, hold=(5, 25))
    fast = Size(times=1, sessions=8, hold=(11, 12))
    _holder: "subprocess.Popen[bytes] | None" = None

    async def inject(self, stage: Stage, chance: Random) -> None:
        del chance
        command = [sys.executable, "-c", HOLD_WRITE_LOCK, str(stage.state / "sluice.db")]
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._holder = holder
        assert holder.stdout is not None
        assert await asyncio.to_thread(holder.stdout.readline) == b"held\n"

    async def heal(self, stage: Stage) -> None:
        del stage
        if self._holder is not None:
            await asyncio.to_thread(self._holder.communicate)


class DiskFull(Fault):
    name = "disk-full"
    title = "Full disk in `state_dir`"
    full = Size(times=4, sessions=60, hold=(3, 20))
    fast = Size(times=1, sessions=12, hold=(4, 6))
    setting = Setting(small_disk=True)

    async def inject(self, stage: Stage, chance: Random) -> None:
        del chance
        with contextlib.suppress(OSError), (stage.state / "ballast").open("wb", buffering=0) as ballast:
            size = 1 << 16
            while size:
                try:
                    ballast.write(bytes(size))
                except OSError:
                    size //= 2

    async def heal(self, stage: Stage) -> None:
        (stage.state / "ballast").unlink()


class PostgresqlRestarted(Fault):
    name = "postgresql-restarted"
    title = "PostgreSQL restarted"
    full = Size(times=5, sessions=50, hold=(0.1, 20))
    fast = Size(times=1, sessions=12, hold=(1, 2))
    setting = Setting(database="postgresql")
    how = signal.SIGINT

    async def inject(self, stage: Stage, chance: Random) -> None:
        del chance
        assert stage.postgresql is not None
        await asyncio.to_thread(stage.postgresql.stop, self.how)

    async def heal(self, stage: Stage) -> None:
        assert stage.postgresql is not None
        await asyncio.to_thread(stage.postgresql.start)


class PostgresqlKilled(PostgresqlRestarted):
    name = "postgresql-killed"
    title = "`kill -9` of PostgreSQL"
    how = signal.SIGKILL


class ClockStepped(Fault):
    """The servers' wall clock alone, by libfaketime: the machine's own stays, and with it the auditor's and Slurm's."""

    name = "clock-stepped"
    title = "Clock of the server stepped by ±5 s to ±2 h, and back"
    full = Size(times=8, sessions=56, hold=(4, 12))
    fast = Size(times=1, sessions=12, hold=(4, 5))
    setting = Setting(clock=True)

    async def inject(self, stage: Stage, chance: Random) -> None:
        step = chance.choice([5, 90, 3600, 7200]) * chance.choice([1, -1])
        stage.offset.write_text(f"{step:+d}")

    async def heal(self, stage: Stage) -> None:
        stage.offset.write_text("+0")


class SshCut(Fault):
    """The sshd process of the session dies; sbatch may have been started, and may go on."""

    name = "ssh-cut"
    title = "ssh connection cut in the middle of `sbatch`"
    full = Size(times=20, sessions=80)
    fast = Size(times=4, sessions=10)
    setting = Setting(backend="cli")

    async def inject(self, stage: Stage, chance: Random) -> None:
        del chance
        await asyncio.to_thread(stage.cluster.exec, "login", ["bash", "-c", CUT_SESSIONS])


class LoginCut(Fault):
    """The cable between gateway and login node: nothing is told that the connection is gone."""

    name = "login-link-cut"
    title = "Link to the login node cut and restored"
    full = Size(times=3, sessions=45, hold=(5, 40))
    fast = Size(times=1, sessions=12, hold=(5, 8))
    setting = Setting(backend="cli")

    async def inject(self, stage: Stage, chance: Random) -> None:
        del chance
        await asyncio.to_thread(stage.cluster.cut_link, "login")

    async def heal(self, stage: Stage) -> None:
        await asyncio.to_thread(stage.cluster.restore_link, "login")


FAULTS: tuple[Fault, ...] = (
    ServerKilled(),
    ControllerRestarted(),
    ControllerDown(),
    ControllerFrozen(),
    ControllerFrozenSsh(),
    RestKilled(),
    RestFrozen(),
    AccountingDown(),
    MariaDown(),
    NodeCut(),
    NodeKilled(),
    DatabaseLocked(),
    DiskFull(),
    PostgresqlRestarted(),
    PostgresqlKilled(),
    ClockStepped(),
    SshCut(),
    LoginCut(),
    ServerPaused(),
    OneServerPaused(),
    ServersKilled(),
)
