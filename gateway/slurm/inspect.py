"""What a cluster says of itself, for `sluice doctor`: by the commands on its login node, and by slurmrestd."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final, TypeVar

from gateway.core.ports import Shell
from gateway.errors import Forbidden, SchedulerUnavailable, Unavailable
from gateway.model.doctor import Association, Load
from gateway.slurm import commands, times
from gateway.slurm.commands import Command, Unreadable
from gateway.slurm.problems import after_question, from_stderr
from gateway.slurm.rest_http import Refused, RestClient

T = TypeVar("T")

_TIMEOUT: Final = 15.0


class CommandInspection:
    """The Inspection port over `scontrol`, `sacctmgr` and `date`, run by a Shell as the user."""

    by_shell = True

    def __init__(self, shell: Shell, *, viewer: str, where: str) -> None:
        self._shell, self._viewer, self._where = shell, viewer, where

    def __str__(self) -> str:
        return self._where

    async def configuration(self) -> Mapping[str, str]:
        return await self._ask(commands.scontrol_config(), "show its configuration", commands.parse_config)

    async def associations(self, user: str) -> Sequence[Association]:
        return await self._ask(commands.associations(user), "show associations", commands.parse_associations)

    async def now(self) -> datetime:
        return await self._ask(commands.clock(), "tell the time", commands.parse_clock)

    async def load(self) -> Load:
        return await self._ask(commands.sdiag(), "tell how busy it is", commands.parse_sdiag)

    async def _ask(self, command: Command, what: str, parse: Callable[[str], T]) -> T:
        try:
            done = await self._shell.run(command.argv, user=self._viewer, timeout=_TIMEOUT)
        except (Unavailable, Forbidden) as error:
            raise SchedulerUnavailable(error.message, hint=error.hint) from error
        if done.returncode != 0:
            raise after_question(from_stderr(done.stderr), what)
        try:
            return parse(done.stdout)
        except Unreadable as error:
            raise SchedulerUnavailable(f"{command.name} printed what we cannot read: {error}") from error


class RestInspection:
    """The Inspection port over slurmrestd, as the user; it tells its configuration from Slurm 26.05 on."""

    by_shell = False

    def __init__(self, client: RestClient, *, viewer: str) -> None:
        self._client, self._viewer = client, viewer

    def __str__(self) -> str:
        return "slurmctld"

    async def configuration(self) -> Mapping[str, str]:
        try:
            answer = await self._client.get("slurm", "/conf/", user=self._viewer)
        except Refused as refused:
            raise after_question(refused.problem, "tell its configuration") from refused
        return {key: _text(value) for key, value in (answer.get("slurm_conf") or {}).items()}

    async def associations(self, user: str) -> Sequence[Association]:
        try:
            answer = await self._client.get("slurmdb", "/associations/", user=self._viewer, params=[("user", user)])
        except Refused as refused:
            raise after_question(refused.problem, f"tell the associations of {user}") from refused
        return [
            Association(
                cluster=row.get("cluster") or "",
                account=row.get("account") or "",
                partition=row.get("partition") or "",
                qos=tuple(row.get("qos") or ()),
                default=bool(row.get("is_default")),
            )
            for row in answer.get("associations") or ()
            if row.get("user") == user
        ]

    async def now(self) -> datetime:
        at = times.number((await self._statistics()).get("req_time"))
        if not at:
            raise SchedulerUnavailable("slurmctld's statistics do not tell the time")
        return datetime.fromtimestamp(at, UTC)

    async def load(self) -> Load:
        told = await self._statistics()
        return Load(
            threads=times.number(told.get("server_thread_count")) or 0,
            agent_queue=times.number(told.get("agent_queue_size")) or 0,
            dbd_queue=times.number(told.get("dbd_agent_queue_size")) or 0,
            calls={row["user"]: times.number(row.get("count")) or 0 for row in told.get("rpcs_by_user") or ()},
        )

    async def _statistics(self) -> Mapping[str, Any]:
        try:
            answer = await self._client.get("slurm", "/diag/", user=self._viewer)
        except Refused as refused:
            raise after_question(refused.problem, "tell its statistics") from refused
        return answer.get("statistics") or {}


def _text(value: Any) -> str:
    """A value of /conf/ in the words of `scontrol show config`."""
    match value:
        case list():
            return ",".join(_text(item) for item in value)
        case {"number": number, **rest}:
            return "UNLIMITED" if rest.get("infinite") else str(number)
        case _:
            return str(value)
