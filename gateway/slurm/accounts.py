"""Who may run under which account: Slurm's associations, by `sacctmgr` as an operator of Slurm."""

from collections.abc import Collection, Sequence
from typing import Final

from gateway.core.ports import CommandResult, Shell
from gateway.errors import Conflict, Forbidden, SchedulerUnavailable, Unavailable
from gateway.model.doctor import Association
from gateway.slurm import commands
from gateway.slurm.commands import Command, Unreadable
from gateway.slurm.problems import after_question, from_stderr

_TIMEOUT: Final = 30.0
_JOBS: Final = "Job(s) active"


class CommandAccounts:
    """The Accounts port over `sacctmgr`, run by a Shell as `operator`, for the cluster whose controller answers."""

    def __init__(self, shell: Shell, *, operator: str) -> None:
        self._shell, self._operator = shell, operator
        self._cluster: str | None = None

    async def held(self, user: str) -> Sequence[Association]:
        cluster = await self._name()
        done = await self._run(commands.associations(user))
        if done.returncode != 0:
            raise after_question(from_stderr(done.stderr), "show associations")
        try:
            return [each for each in commands.parse_associations(done.stdout) if each.cluster == cluster]
        except Unreadable as error:
            raise SchedulerUnavailable(f"sacctmgr printed what we cannot read: {error}") from error

    async def add(self, user: str, account: str, qos: Sequence[str]) -> None:
        cluster = await self._name()
        done = await self._run(commands.add_association(user, account, cluster, qos))
        held = [each for each in await self.held(user) if each.account == account]
        if not held:
            raise self._refused(done, f"let {user} run under {account}")
        if not all(set(qos) <= set(each.qos) for each in held):
            done = await self._run(commands.allow_qos(user, account, cluster, qos))
            if done.returncode != 0:
                raise self._refused(done, f"let {user} run under {account} with {', '.join(qos)}")

    async def remove(self, user: str, accounts: Collection[str]) -> None:
        held = {each.account for each in await self.held(user)}
        gone, left = sorted(held & set(accounts)), sorted(held - set(accounts))
        if not gone:
            return
        cluster = await self._name()
        if left:
            await self._run(commands.default_account(user, left[0], cluster))
        done = await self._run(commands.remove_associations(user, gone if left else (), cluster))
        if _JOBS in done.stdout + done.stderr:
            raise Conflict(f"{user} still has jobs under {', '.join(gone)}", hint="Try again when they have ended.")
        if done.returncode != 0 and {each.account for each in await self.held(user)} & set(gone):
            raise self._refused(done, f"take {user} out of {', '.join(gone)}")

    def _refused(self, done: CommandResult, what: str) -> Exception:
        words = " ".join((done.stdout + done.stderr).split())
        return Forbidden(
            f"Slurm did not {what}: {words}",
            hint=f"Has the Unix user {self._operator} AdminLevel=Operator, and is there such an account and user?",
        )

    async def _name(self) -> str:
        """What Slurm calls the cluster: its database may hold others."""
        if self._cluster is None:
            done = await self._run(commands.scontrol_config())
            if done.returncode != 0:
                raise after_question(from_stderr(done.stderr), "tell its name")
            self._cluster = commands.parse_config(done.stdout).get("ClusterName", "")
        return self._cluster

    async def _run(self, command: Command) -> CommandResult:
        try:
            return await self._shell.run(command.argv, user=self._operator, timeout=_TIMEOUT)
        except (Unavailable, Forbidden) as error:
            raise SchedulerUnavailable(error.message, hint=error.hint) from error
